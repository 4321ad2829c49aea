"""A small study whose content is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spider_bundle.dicom.provenance import Provenance, ProvenancedValue, ViewProvenance
from spider_bundle.errors import Code, finding
from spider_bundle.files import file_sha256
from spider_bundle.geometry import LPS_TO_RAS, Grid
from spider_bundle.outputs.consistency import reprojection_consistency
from spider_bundle.reconstructor import Result


@pytest.fixture
def grid() -> Grid:
    """Anisotropic and off-centre: x, y and z can not be confused."""
    ras = np.diag([1.0, 2.0, 3.0, 1.0])
    ras[:3, 3] = (-21.0, -35.0, -13.0)
    return Grid((40, 30, 20), LPS_TO_RAS @ ras)


@pytest.fixture
def provenance() -> Provenance:
    geometry = {
        "sdd": ProvenancedValue(1500.0, "attribute", "DistanceSourceToDetector", "mm"),
        "sod": ProvenancedValue(1000.0, "default", unit="mm"),
        "pitch": ProvenancedValue((0.2, np.float32(0.2)), "override", unit="mm"),
    }
    matrix = tuple(map(tuple, np.arange(12.0).reshape(3, 4).tolist()))
    return Provenance(
        views=(
            ViewProvenance("frontal", "PA", geometry, matrix),
            ViewProvenance("lateral", "LL", {}, None),
        ),
        isocentric_assumed=True,
        burned_in=(False, False),
        lossy=None,
        findings=(
            finding(Code.PIXEL_SPACING_MISMATCH, "frontal", "the pitches differ"),
            finding(Code.PIXEL_SPACING_MISMATCH, "lateral", "also in the other view"),
        ),
        read_seconds=0.25,
    )


@pytest.fixture
def result(grid: Grid, provenance: Provenance) -> Result:
    """A study of random voxels."""
    generator = np.random.default_rng(0)
    image = generator.random((2, 32, 32)).astype(np.float32)
    mask = image > 0
    consistency = reprojection_consistency(image[0], image[0] ** 2, mask[0])
    return Result(
        study_key="0f3a9c",
        hu=generator.integers(-1000, 2000, grid.shape).astype(np.int16),
        labels=generator.integers(0, 6, grid.shape).astype(np.uint8),
        grid=grid,
        image=image,
        mask=mask,
        reprojection=image**2,
        pixel_size=1.2,
        consistency={"frontal": consistency, "lateral": consistency},
        provenance=provenance,
        device="cpu",
        weights_sha256="ab" * 32,
        timings={"read": 0.25, "decode": float("nan")},
    )


def read_whole(folder: Path) -> SimpleNamespace:
    """A visible study must hold exactly what its report lists, byte for byte."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    listed = {entry["name"]: entry for entry in report["files"]}
    present = {path.name for path in folder.iterdir()} - {"report.json"}
    assert present == set(listed)
    for name, entry in listed.items():
        assert (folder / name).stat().st_size == entry["bytes"]
        assert file_sha256(folder / name) == entry["sha256"]
    return SimpleNamespace(report=report, ct=listed["ct.nii.gz"]["sha256"])


@pytest.fixture
def read_study() -> Any:
    return read_whole
