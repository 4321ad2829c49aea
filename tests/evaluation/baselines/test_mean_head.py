"""The training-mean CT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.evaluation.baselines.mean_head import MeanHead
from spider_bundle.evaluation.comparison import score_method
from spider_bundle.evaluation.methods import Item, Reconstruction
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label

GRID = Grid.from_ras(np.diag([4.0, 4.0, 4.0, 1.0]), (40, 40, 40))


def write_case(folder: Path, name: str, bone_hu: float) -> dict[str, str]:
    """A 120 mm ball of water with a ball of bone in it."""
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), axis=-1)
    radius = np.linalg.norm(index - 19.5, axis=-1) * 4
    hu = np.where(radius < 60, 40.0, -1000.0)
    hu[radius < 20] = bone_hu
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine), folder / f"{name}.nii.gz")
    return {"case": name, "ct": str(folder / f"{name}.nii.gz")}


def item_on(grid: Grid, shift: float = 0.0) -> Item:
    """What the mean looks at of an item: its grid and its pose."""
    pose = np.eye(4)
    pose[0, 3] = shift
    return {"ct": np.zeros(grid.shape), "affine": grid.affine, "pose": pose}


def mean_of(entries: Sequence[dict[str, str]]) -> Reconstruction:
    """The mean on the grid of the cases."""
    return MeanHead(entries)(item_on(GRID))


def test_mean_is_the_mean_within_the_window(tmp_path: Path) -> None:
    entries = [write_case(tmp_path, "a", 800.0), write_case(tmp_path, "b", 3000.0)]
    mean = mean_of(entries)
    hu, labels = mean.hu, mean.labels
    assert hu[19, 19, 19] == pytest.approx((800 + 2000) / 2, abs=0.01)
    assert hu[0, 0, 0] == -1000
    assert labels[19, 19, 19] == Label.BONE
    assert labels[0, 0, 0] == Label.BACKGROUND


def test_a_known_error_gives_a_known_score(tmp_path: Path) -> None:
    training, validation = write_case(tmp_path, "a", 800.0), write_case(tmp_path, "b", 1100.0)
    reference = nibabel.load(validation["ct"]).get_fdata()
    share = (reference == 1100).mean()
    item = LoadHeadCased()(validation)
    (row,) = score_method(MeanHead([training]), [item])
    assert row["mae_hu"] == pytest.approx(300 * share, rel=1e-4)
    assert row["psnr_db"] == pytest.approx(10 * np.log10(3000**2 / (300**2 * share)), rel=1e-4)
    assert row["dice_bone"] == 1


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no cases"):
        mean_of([])


def test_the_mean_is_read_on_any_grid(tmp_path: Path) -> None:
    method = MeanHead([write_case(tmp_path, "a", 800.0), write_case(tmp_path, "b", 1100.0)])
    hu = method(item_on(GRID)).hu
    assert hu[19, 19, 19] == pytest.approx(950, abs=0.01)
    # every other voxel of a grid of half the spacing lies on a voxel of the mean
    fine = Grid.from_ras(np.diag([2.0, 2.0, 2.0, 1.0]), (79, 79, 79))
    finer = method(item_on(fine))
    np.testing.assert_allclose(finer.hu[::2, ::2, ::2], hu, atol=0.01)
    middle = (finer.hu[::2, ::2, ::2][1:] + finer.hu[::2, ::2, ::2][:-1]) / 2
    np.testing.assert_allclose(finer.hu[1::2, ::2, ::2], middle, atol=0.01)


def test_the_mean_misses_a_moved_head_unless_its_pose_is_known(tmp_path: Path) -> None:
    entry = write_case(tmp_path, "a", 800.0)
    mean = mean_of([entry])
    hu, labels = mean.hu, mean.labels
    moved = item_on(GRID, shift=8.0)  # two voxels towards the left; the axis runs to the right
    missed = MeanHead([entry])(moved)
    np.testing.assert_allclose(missed.hu[2:], hu[:-2], atol=0.01)
    assert np.array_equal(missed.labels[2:], labels[:-2])
    known = MeanHead([entry], known_pose=True)(moved)
    np.testing.assert_allclose(known.hu, hu, atol=0.01)
