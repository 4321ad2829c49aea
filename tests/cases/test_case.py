"""Loading of head cases from NIfTI files and phantoms."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from spider_bundle.cases.case import MANDIBLE_CONTOUR, HeadCase, load_case, phantom_case
from spider_bundle.cases.labelling import BONE_HU, label_head
from spider_bundle.labels import BONES, Label

BRAINSTEM_CONTOUR = 1


@pytest.fixture(scope="module")
def head() -> HeadCase:
    return phantom_case(1)


def stored(path: Path, voxels: npt.NDArray, affine: npt.NDArray[np.float64]) -> str:
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), affine), path)
    return str(path)


def contours_of(head: HeadCase, value: int = MANDIBLE_CONTOUR) -> npt.NDArray[np.uint8]:
    """A rough expert contour: the mandible and some soft tissue around it."""
    rough = ndimage.binary_dilation(head.structure == Label.MANDIBLE)
    return np.where(rough, value, 0).astype(np.uint8)


def test_phantom_case_is_exact_and_fully_known(head: HeadCase) -> None:
    assert not head.ambiguous.any()
    assert head.measured.all()
    assert set(np.unique(head.structure)) == set(Label)
    again, other = phantom_case(1), phantom_case(2)
    np.testing.assert_array_equal(head.hu, again.hu)
    assert (head.hu != other.hu).any()
    np.testing.assert_allclose(head.grid.affine @ [31.5, 31.5, 31.5, 1], [0, 0, 0, 1], atol=1e-9)


def test_ct_alone_has_labels_but_bone_and_mandible_are_not_told_apart(
    head: HeadCase, tmp_path: Path
) -> None:
    case = load_case({"ct": stored(tmp_path / "ct.nii.gz", head.hu, head.grid.ras_affine)})
    np.testing.assert_array_equal(case.hu, head.hu)
    assert case.hu.dtype == np.float32
    np.testing.assert_array_equal(case.structure, label_head(head.hu, (4.0, 4.0, 4.0)))
    np.testing.assert_array_equal(case.ambiguous, case.structure == Label.BONE)
    assert case.ambiguous.any()
    assert case.measured.all()
    np.testing.assert_allclose(case.grid.affine, head.grid.affine, atol=1e-5)


def test_axis_directions_of_the_file_do_not_move_the_head(head: HeadCase, tmp_path: Path) -> None:
    """The same head stored as RAS and as LPS voxels is the same head in the world."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    flip[:2, 3] = 63
    lps_affine = head.grid.ras_affine @ flip
    assert (np.diag(lps_affine)[:2] < 0).all()
    ras, lps = (
        load_case(
            {
                "ct": stored(tmp_path / f"{name}_ct.nii.gz", turn(head.hu), affine),
                "contours": stored(
                    tmp_path / f"{name}_oar.nii.gz", turn(contours_of(head)), affine
                ),
            }
        )
        for name, turn, affine in (
            ("ras", lambda v: v, head.grid.ras_affine),
            ("lps", lambda v: v[::-1, ::-1], lps_affine),
        )
    )
    np.testing.assert_array_equal(lps.hu[::-1, ::-1], ras.hu)
    np.testing.assert_array_equal(lps.structure[::-1, ::-1], ras.structure)
    np.testing.assert_array_equal(lps.ambiguous[::-1, ::-1], ras.ambiguous)
    np.testing.assert_allclose(lps.grid.points()[::-1, ::-1], ras.grid.points(), atol=1e-4)
    # the chin is anterior, which is negative LPS y, and below the isocentre
    chin = lps.grid.points()[lps.structure == Label.MANDIBLE].mean(axis=0)
    assert chin[1] < -20
    assert chin[2] < -40


def test_rough_mandible_contour_leaves_a_band_open(head: HeadCase, tmp_path: Path) -> None:
    affine = head.grid.ras_affine
    contour = contours_of(head) == MANDIBLE_CONTOUR
    case = load_case(
        {
            "ct": stored(tmp_path / "ct.nii.gz", head.hu, affine),
            "contours": stored(tmp_path / "oar.nii.gz", contours_of(head), affine),
        }
    )
    plain = label_head(head.hu, (4.0, 4.0, 4.0)) == Label.BONE
    mandible = case.structure == Label.MANDIBLE
    # only dense voxels inside the contour become mandible, so a rough contour does no harm
    np.testing.assert_array_equal(mandible, contour & plain & (head.hu > BONE_HU))
    exact = head.structure == Label.MANDIBLE
    assert (mandible & exact).sum() > 0.7 * (exact & plain).sum()
    np.testing.assert_array_equal(np.isin(case.structure, BONES), plain)
    # near the contour bone may be either; far from it, and inside it, it is known
    distance = ndimage.distance_transform_edt(~contour, sampling=4.0)
    known = mandible | (distance > 8.0)
    np.testing.assert_array_equal(case.ambiguous, plain & ~known)
    assert case.ambiguous.any()
    assert (plain & (distance > 8.0) & ~case.ambiguous).any()
    assert not (case.ambiguous & ~plain).any()


def test_contours_without_a_mandible_leave_all_bone_open(head: HeadCase, tmp_path: Path) -> None:
    affine = head.grid.ras_affine
    others = contours_of(head, BRAINSTEM_CONTOUR)
    case = load_case(
        {
            "ct": stored(tmp_path / "ct.nii.gz", head.hu, affine),
            "contours": stored(tmp_path / "oar.nii.gz", others, affine),
        }
    )
    assert Label.MANDIBLE not in case.structure
    np.testing.assert_array_equal(case.ambiguous, case.structure == Label.BONE)


def test_completed_voxels_are_not_measured(head: HeadCase, tmp_path: Path) -> None:
    affine = head.grid.ras_affine
    valid = np.zeros(head.hu.shape, dtype=np.uint8)
    valid[:, :, :50] = 1
    case = load_case(
        {
            "ct": stored(tmp_path / "ct.nii.gz", head.hu, affine),
            "valid": stored(tmp_path / "valid.nii.gz", valid, affine),
        }
    )
    assert case.measured.dtype == bool
    np.testing.assert_array_equal(case.measured, valid == 1)


@pytest.mark.parametrize("companion", ["valid", "contours"])
@pytest.mark.parametrize("fault", ["shape", "origin", "spacing", "direction"])
def test_files_on_different_grids_are_refused(tmp_path: Path, companion: str, fault: str) -> None:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    shape, other = (8, 8, 8), affine.copy()
    if fault == "shape":
        shape = (8, 8, 7)
    elif fault == "origin":
        other[1, 3] = 2.0
    elif fault == "spacing":
        other[2, 2] = 3.9
    else:
        other[0, 0] = -4.0
    entry = {
        "ct": stored(tmp_path / "ct.nii.gz", np.zeros((8, 8, 8)), affine),
        companion: stored(tmp_path / "other.nii.gz", np.ones(shape), other),
    }
    with pytest.raises(ValueError, match="same grid"):
        load_case(entry)
