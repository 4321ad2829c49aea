"""Preparing one head in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from spider_bundle.cases.prepare import prepare_head
from spider_bundle.cases.quality import Verdict
from spider_bundle.cases.scan import find_scans, read_scan
from spider_bundle.errors import SpiderError
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from tests.cases.scans import SHIFT, head_scan


def test_what_the_scan_does_not_cover_is_not_measured() -> None:
    hu, grid = head_scan()
    part = Grid((60, 60, 40), grid.affine)
    known = np.ones(part.shape, dtype=bool)
    head = prepare_head(hu[..., :40], known, part, spacing=4.0, isocentre=SHIFT)
    assert np.allclose(head.grid.affine, Grid.centred(4.0, 64).affine)
    # the scan ends 2 voxels within the cube, and 40 of 60 slices were given
    assert head.measured[2:62, 2:62, 2:42].all()
    assert head.measured.sum() == 60 * 60 * 40
    assert (head.hu[~head.measured] == -1000).all()
    inside = head.structure[2:62, 2:62, 2:42] != Label.BACKGROUND
    assert inside.sum() > 20000
    assert np.array_equal(head.hu[2:62, 2:62, 2:42][inside], hu[..., :40][inside])
    assert head.verdicts["vertex_margin_mm"] == Verdict.WARN
    assert "head_correlation" not in head.checks


def test_a_cylinder_is_no_head() -> None:
    grid = Grid.centred(4.0, 64)
    points = grid.points()
    inside = (np.hypot(points[..., 0], points[..., 1]) < 90) & (np.abs(points[..., 2]) < 100)
    hu = np.where(inside, 0.0, -1000.0)
    try:
        head = prepare_head(hu, np.ones(hu.shape, dtype=bool), grid)
    except SpiderError:
        return
    assert head.verdicts["bone_ml"] == Verdict.REJECT


def test_nothing_but_air_is_rejected() -> None:
    grid = Grid.centred(4.0, 40)
    hu = np.full(grid.shape, -1000.0)
    with pytest.raises(SpiderError, match="P11"):
        prepare_head(hu, np.ones(hu.shape, dtype=bool), grid, isocentre=(0, 0, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "intracranial_ml"),
    [("invesalius_0051_dicom", (1300, 1550)), ("vtk_fullhead.nii.gz", (150, 400))],
)
def test_real_heads_become_usable_cases(
    shared_data: Path, name: str, intracranial_ml: tuple[float, float]
) -> None:
    folder = shared_data / "heads"
    sources = find_scans(folder, leave_out=folder / "openkbp_4mm")
    (source,) = (s for s in sources if s.name == name)
    scan = read_scan(source)
    head = prepare_head(scan.hu, scan.measured, scan.grid, gantry_tilt=scan.gantry_tilt)
    assert head.verdict != Verdict.REJECT
    assert intracranial_ml[0] < (head.checks["intracranial_ml"] or 0) < intracranial_ml[1]
    # the isocentre lies in the head, on the midline: as much of the head to either side
    body = np.flatnonzero((head.structure > 0).any(axis=(1, 2)))
    assert abs(body[0] + body[-1] - 63) * 2 < 10
    assert head.structure[32, 32, 32] != Label.BACKGROUND
    # beyond the skin is air, where the headrest was too
    beyond = ndimage.distance_transform_edt(head.structure == Label.BACKGROUND) > 2.5
    assert (head.hu[beyond] == -1000).all()
