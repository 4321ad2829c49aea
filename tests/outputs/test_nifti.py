"""What other readers see in the files: same values at the same place in the patient."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage

from spider_bundle.geometry import Grid, rotation_about
from spider_bundle.outputs.nifti import write_ct, write_labels

MARKER = (31, 4, 17)


@pytest.fixture(params=["aligned", "rotated"])
def placed(request: pytest.FixtureRequest, grid: Grid) -> Grid:
    if request.param == "aligned":
        return grid
    turn = np.eye(4)
    turn[:3, :3] = rotation_about(2, 20.0) @ rotation_about(0, -10.0)
    return Grid(grid.shape, turn @ grid.affine)


@pytest.fixture
def hu(placed: Grid) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(1).integers(-1000, 2000, placed.shape).astype(np.int16)
    values[MARKER] = 3000
    return values


def lps(grid: Grid, index: tuple[int, ...]) -> np.ndarray[Any, Any]:
    position: np.ndarray[Any, Any] = grid.points()[index]
    return position


def test_nibabel_sees_hu_at_the_right_ras_point(
    tmp_path: Path, placed: Grid, hu: np.ndarray[Any, Any]
) -> None:
    write_ct(tmp_path / "ct.nii.gz", hu, placed)
    image = nibabel.load(tmp_path / "ct.nii.gz")
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), hu)
    expected = lps(placed, MARKER) * (-1, -1, 1)
    for affine, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(affine @ (*MARKER, 1), [*expected, 1], atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert bytes(image.header["descrip"]).rstrip(b"\0") == b"research use only, not for diagnosis"
    assert image.dataobj.slope == 1
    assert image.dataobj.inter == 0


def test_itk_sees_hu_at_the_right_lps_point(
    tmp_path: Path, placed: Grid, hu: np.ndarray[Any, Any]
) -> None:
    write_ct(tmp_path / "ct.nii.gz", hu, placed)
    image = itk.imread(str(tmp_path / "ct.nii.gz"))
    array = itk.array_from_image(image)
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array.transpose(2, 1, 0), hu)
    point = image.TransformIndexToPhysicalPoint([int(i) for i in MARKER])
    np.testing.assert_allclose(list(point), lps(placed, MARKER), atol=1e-4)


def test_monai_sees_hu_at_the_right_ras_point(
    tmp_path: Path, placed: Grid, hu: np.ndarray[Any, Any]
) -> None:
    write_ct(tmp_path / "ct.nii.gz", hu, placed)
    image = LoadImage(image_only=True)(str(tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(image.numpy(), hu)
    point = image.affine.numpy() @ (*MARKER, 1)
    np.testing.assert_allclose(point[:3], lps(placed, MARKER) * (-1, -1, 1), atol=1e-4)


def test_labels_come_back_identical_and_aligned_with_the_ct(tmp_path: Path, grid: Grid) -> None:
    labels = np.random.default_rng(2).integers(0, 6, grid.shape).astype(np.uint8)
    write_labels(tmp_path / "label.nii.gz", labels, grid)
    image = nibabel.load(tmp_path / "label.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_intent()[0] == "label"
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), labels)
    np.testing.assert_allclose(image.affine, grid.ras_affine, atol=1e-5)
    from_itk = itk.array_from_image(itk.imread(str(tmp_path / "label.nii.gz")))
    np.testing.assert_array_equal(from_itk.transpose(2, 1, 0), labels)
    assert from_itk.dtype == np.uint8


def test_float_hu_are_rounded_and_clipped_without_wrapping(tmp_path: Path) -> None:
    grid = Grid.centred(1.0, (5, 1, 1))
    hu = np.array([-40000.0, -0.6, 12.4, 12.6, 1e6], dtype=np.float32).reshape(5, 1, 1)
    write_ct(tmp_path / "ct.nii.gz", hu, grid)
    values = np.asanyarray(nibabel.load(tmp_path / "ct.nii.gz").dataobj).ravel()
    assert values.tolist() == [-1024, -1, 12, 13, 3071]


def test_equal_volumes_give_equal_bytes_at_any_time_and_name(
    tmp_path: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    hu = np.arange(np.prod(grid.shape), dtype=np.int16).reshape(grid.shape) % 1000
    write_ct(tmp_path / "ct.nii.gz", hu, grid)
    monkeypatch.setattr(time, "time", lambda: 2.0e9)
    write_ct(tmp_path / "another_name.nii.gz", np.asfortranarray(hu), grid)
    first = (tmp_path / "ct.nii.gz").read_bytes()
    assert first == (tmp_path / "another_name.nii.gz").read_bytes()
    assert first[3] == 0  # no name, no comment in the gzip header
    assert first[4:8] == bytes(4)  # no time
    assert gzip.decompress(first)[:4] == (348).to_bytes(4, "little")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_hu_must_be_finite(tmp_path: Path, bad: float) -> None:
    hu = np.zeros((2, 2, 2))
    hu[1, 1, 1] = bad
    with pytest.raises(ValueError, match="finite"):
        write_ct(tmp_path / "ct.nii.gz", hu, Grid.centred(1.0, 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [-1, 256, 0.5])
def test_labels_must_fit(tmp_path: Path, bad: float) -> None:
    with pytest.raises(ValueError, match="labels must be"):
        write_labels(tmp_path / "label.nii.gz", np.full((2, 2, 2), bad), Grid.centred(1.0, 2))


def test_shape_must_be_the_grids(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        write_ct(tmp_path / "ct.nii.gz", np.zeros((2, 3, 4)), Grid.centred(1.0, (4, 3, 2)))
