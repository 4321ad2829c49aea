"""The demo's DICOM pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from spider_bundle.demo import write_demo_pair
from spider_bundle.geometry import ViewPosition, isocentric_view
from spider_bundle.phantom import HeadPhantom
from tests.films import read_pair


def test_pair_reads_back_as_the_exact_line_integrals(tmp_path: Path) -> None:
    frontal, lateral = write_demo_pair(tmp_path, shape=(120, 120), pitch=1.8)
    pair = read_pair(frontal, lateral)
    for radiograph, position in zip(
        pair.radiographs, (ViewPosition.PA, ViewPosition.LL), strict=True
    ):
        view = isocentric_view(position, sod=1000, sdd=1150, spacing=(1.8, 1.8), shape=(120, 120))
        truth = HeadPhantom.nominal().line_integrals(view)
        assert radiograph.quantity == "line integral"
        assert np.allclose(radiograph.view.matrix, view.matrix, atol=1e-6)
        assert np.abs(radiograph.pixels - truth)[radiograph.mask].max() < 0.05


def test_files_hold_no_real_identity(tmp_path: Path) -> None:
    for path in write_demo_pair(tmp_path, shape=(32, 32), pitch=1.8):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        assert dataset.PatientName == "Synthetic^Head"
        assert not dataset.get("PatientBirthDate")
