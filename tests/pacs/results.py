"""Results as ``spider infer --dicom`` writes them, of a tiny volume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from spider_bundle.files import file_sha256
from spider_bundle.geometry import LPS_TO_RAS, Grid
from spider_bundle.outputs.dicom_ct import DicomIdentity, write_ct_series
from spider_bundle.outputs.dicom_seg import write_segmentation

SHAPE = (8, 9, 4)


def write_results(output: Path, study_key: str, seed: int = 0) -> list[Path]:
    """Write the folder of a study; returns its DICOM files."""
    folder = output / study_key
    grid = Grid(SHAPE, LPS_TO_RAS @ np.diag([2.0, 2.0, 3.0, 1.0]))
    generator = np.random.default_rng(seed)
    identity = DicomIdentity(study_key)
    hu = generator.integers(-1000, 2000, SHAPE).astype(np.float64)
    files = write_ct_series(folder / "dicom" / "ct", hu, grid, identity)
    labels = generator.integers(0, 6, SHAPE).astype(np.uint8)
    segmentation = folder / "dicom" / "seg.dcm"
    write_segmentation(segmentation, labels, grid, files, identity)
    write_report(folder)
    return [*files, segmentation]


def write_report(folder: Path) -> None:
    """List the files that are there now, as a report does."""
    listed = [
        {
            "name": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in sorted(folder.rglob("*.dcm"))
    ]
    (folder / "report.json").write_text(json.dumps({"files": listed}), encoding="utf-8")
