"""Written objects conform, and what DICOM cannot express is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from spider_bundle.dicom.write import (
    DIRECT_EXPOSURE,
    SyntheticIdentity,
    log_scale,
    reorient,
    stored_values,
    write_dx,
)
from spider_bundle.geometry import ViewPosition, rotation_about

from .conftest import Writer, make_view


@pytest.mark.parametrize("bits", [10, 16])
def test_stored_values_follow_their_definition(bits: int) -> None:
    integrals = np.array([0.0, 1.0, 3.0])
    largest = 2**bits - 1
    linear = stored_values(integrals, "LIN", 1, bits)
    assert np.abs(linear - DIRECT_EXPOSURE * largest * np.exp(-integrals)).max() <= 0.5
    assert np.array_equal(largest - linear, stored_values(integrals, "LIN", -1, bits))
    dense = stored_values(integrals, "LOG", -1, bits).astype(float)
    assert np.abs(np.diff(dense) - log_scale(bits) * np.diff(integrals)).max() <= 1
    assert np.array_equal(largest - dense, stored_values(integrals, "LOG", 1, bits))


@pytest.mark.parametrize(
    ("relationship", "sign", "bits"), [("DISP", 1, 12), ("LIN", 0, 12), ("LIN", 1, 17)]
)
def test_what_cannot_be_stored_is_refused(relationship: str, sign: int, bits: int) -> None:
    with pytest.raises(ValueError, match="cannot store"):
        stored_values(np.zeros(3), relationship, sign, bits)


def test_views_that_dicom_cannot_express_are_refused(tmp_path: Path) -> None:
    identity = SyntheticIdentity("x")
    for view in (
        make_view("PA", rotation=rotation_about(2, 5.0)),
        make_view("PA", offset=(10.0, 0.0)),
        make_view("LL"),
    ):
        with pytest.raises(ValueError, match="cannot be written"):
            write_dx(tmp_path / "x", np.zeros(view.shape), view, ViewPosition.PA, identity)


def test_reorienting_moves_image_and_view_together() -> None:
    view = make_view("PA")
    image = np.random.default_rng(0).random(view.shape)
    turned, other = reorient(image, view, ("F", "L"))
    assert turned.shape == other.shape == view.shape[::-1]
    for pixel in ((3, 5), (100, 20)):
        column, row = np.rint(other.project(view.pixel_position(pixel))).astype(int)
        assert turned[row, column] == image[pixel[1], pixel[0]]
    with pytest.raises(ValueError, match="does not fit"):
        reorient(image, view, ("P", "F"))


def test_identity_is_made_up_and_reproducible(write: Writer) -> None:
    first, second = (pydicom.dcmread(write("PA")) for _ in range(2))
    assert first.SOPInstanceUID == second.SOPInstanceUID
    lateral = pydicom.dcmread(write("LL"))
    assert lateral.StudyInstanceUID == first.StudyInstanceUID
    assert lateral.PatientID == first.PatientID
    assert lateral.SOPInstanceUID != first.SOPInstanceUID
    other = pydicom.dcmread(write("PA", identity=SyntheticIdentity("y")))
    assert other.StudyInstanceUID != first.StudyInstanceUID


@pytest.mark.integration
@pytest.mark.parametrize("for_processing", [True, False])
@pytest.mark.parametrize("cr", [True, False])
def test_objects_conform(write: Writer, cr: bool, for_processing: bool) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools is not installed")
    options: dict[str, object] = {} if cr else {"for_processing": for_processing}
    path = write("LL", cr=cr, options=options)
    checked = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "Error" not in checked.stdout + checked.stderr
