"""Finding the head."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from spider_bundle.cases.datalist import head_datalist
from spider_bundle.cases.localise import ISOCENTRE_IN_TEMPLATE, locate_head
from spider_bundle.cases.prepare import MIN_CORRELATION
from spider_bundle.geometry import Grid
from tests.cases.scans import SHIFT, acquired, head_scan


def everywhere(hu: np.ndarray) -> np.ndarray:
    return np.ones(hu.shape, dtype=bool)


WANTED = SHIFT + ISOCENTRE_IN_TEMPLATE


@pytest.mark.parametrize("spacing", [4.0, 2.5])
def test_a_head_is_found_where_it_is(spacing: float) -> None:
    hu, grid = head_scan(spacing, round(240 / spacing))
    location = locate_head(hu, everywhere(hu), grid)
    assert np.linalg.norm(location.isocentre - WANTED) < 2.0
    assert location.correlation > 0.9


def test_the_order_of_axes_does_not_matter() -> None:
    hu, grid = acquired(*head_scan(), "PIR")
    assert np.linalg.norm(locate_head(hu, everywhere(hu), grid).isocentre - WANTED) < 2.0


def test_a_scan_without_vault_is_placed_by_the_rest() -> None:
    hu, grid = head_scan()
    cut = slice(0, 36)  # up to 26 mm above the phantom's origin
    part = Grid((60, 60, 36), grid.affine)
    location = locate_head(hu[..., cut], everywhere(hu[..., cut]), part)
    assert np.linalg.norm(location.isocentre - WANTED) < 4.0


def test_filled_in_values_have_no_influence() -> None:
    hu, grid = head_scan()
    known = everywhere(hu)
    known[..., 45:] = False
    clean = locate_head(hu, known, grid)
    spoiled = locate_head(np.where(known, hu, 3000.0), known, grid)
    assert np.allclose(clean.isocentre, spoiled.isocentre)


@pytest.mark.parametrize("kind", ["noise", "air"])
def test_what_is_no_head_does_not_look_like_one(kind: str) -> None:
    grid = Grid.centred(4.0, 64)
    rng = np.random.default_rng(3)
    hu = {
        "noise": ndimage.gaussian_filter(rng.normal(size=grid.shape), 2) * 5000 - 500,
        "air": np.full(grid.shape, -1000.0),
    }[kind]
    assert locate_head(hu, everywhere(hu), grid).correlation < MIN_CORRELATION


@pytest.mark.slow
def test_the_isocentre_of_the_training_heads_is_found(shared_data: Path) -> None:
    folder = shared_data / "heads" / "openkbp_4mm"
    misses = []
    for entry in head_datalist(folder, "training"):
        image = nibabel.load(entry["ct"])
        hu = image.get_fdata(dtype=np.float32)
        measured = nibabel.load(entry["valid"]).get_fdata() > 0
        location = locate_head(hu, measured, Grid.from_ras(image.affine, hu.shape))
        assert location.correlation > 0.6
        misses.append(location.isocentre)
    distance = np.linalg.norm(misses, axis=1)
    assert np.abs(np.mean(misses, axis=0)).max() < 1.0  # no bias
    assert np.median(distance) < 6.0
    assert np.percentile(distance, 90) < 12.0
    assert distance.max() < 22.0
