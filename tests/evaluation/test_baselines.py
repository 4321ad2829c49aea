"""The training-mean CT."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.evaluation.baselines import MeanHead, mean_head
from spider_bundle.evaluation.comparison import score_method
from spider_bundle.evaluation.methods import Item
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label


def write_case(folder: Path, name: str, bone_hu: float) -> dict[str, str]:
    """A 120 mm ball of water with a ball of bone in it."""
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), axis=-1)
    radius = np.linalg.norm(index - 19.5, axis=-1) * 4
    hu = np.where(radius < 60, 40.0, -1000.0)
    hu[radius < 20] = bone_hu
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine), folder / f"{name}.nii.gz")
    return {"case": name, "ct": str(folder / f"{name}.nii.gz")}


def test_mean_is_the_mean_within_the_window(tmp_path: Path) -> None:
    entries = [write_case(tmp_path, "a", 800.0), write_case(tmp_path, "b", 3000.0)]
    hu, labels = mean_head(entries)
    assert hu[19, 19, 19] == (800 + 2000) / 2
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
        mean_head([])


def item_on(grid: Grid, shift: float = 0.0) -> Item:
    """What the mean looks at of an item: its grid and its pose."""
    pose = np.eye(4)
    pose[0, 3] = shift
    return {"ct": np.zeros(grid.shape), "affine": grid.affine, "pose": pose}


def test_the_mean_is_read_on_any_grid(tmp_path: Path) -> None:
    method = MeanHead([write_case(tmp_path, "a", 800.0), write_case(tmp_path, "b", 1100.0)])
    hu, labels = mean_head(method.training)
    grid = Grid.from_ras(np.diag([4.0, 4.0, 4.0, 1.0]), (40, 40, 40))
    same = method(item_on(grid))
    np.testing.assert_allclose(same.hu, hu, atol=0.01)
    assert np.array_equal(same.labels, labels)
    # every other voxel of a grid of half the spacing lies on a voxel of the mean
    fine = Grid.from_ras(np.diag([2.0, 2.0, 2.0, 1.0]), (79, 79, 79))
    finer = method(item_on(fine))
    np.testing.assert_allclose(finer.hu[::2, ::2, ::2], hu, atol=0.01)
    middle = (finer.hu[::2, ::2, ::2][1:] + finer.hu[::2, ::2, ::2][:-1]) / 2
    np.testing.assert_allclose(finer.hu[1::2, ::2, ::2], middle, atol=0.01)


def test_the_mean_misses_a_moved_head_unless_it_is_told(tmp_path: Path) -> None:
    entry = write_case(tmp_path, "a", 800.0)
    hu, labels = mean_head([entry])
    grid = Grid.from_ras(np.diag([4.0, 4.0, 4.0, 1.0]), (40, 40, 40))
    moved = item_on(grid, shift=8.0)  # two voxels towards the left; the axis runs to the right
    missed = MeanHead([entry])(moved)
    np.testing.assert_allclose(missed.hu[2:], hu[:-2], atol=0.01)
    assert np.array_equal(missed.labels[2:], labels[:-2])
    told = MeanHead([entry], told_pose=True)(moved)
    np.testing.assert_allclose(told.hu, hu, atol=0.01)
