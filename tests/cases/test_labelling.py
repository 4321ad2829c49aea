"""The label recipe against the exact labels of voxelised head phantoms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from spider_bundle.cases.labelling import BONE_HU, head_mask, label_head
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from spider_bundle.phantom import HeadPhantom

Volume = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
COARSE, FINE = (4.0,) * 3, (2.0,) * 3

# Dice of each label that the recipe must reach at 4 mm and at 2 mm; two to three percent below
# what it reaches on the nominal head. What is missing is partial volume, and at the bones marrow.
LEAST = {
    COARSE: {
        Label.BACKGROUND: 0.98,
        Label.SOFT_TISSUE: 0.87,
        Label.BONE: 0.82,
        Label.INTRACRANIAL: 0.93,
        Label.INTERNAL_AIR: 0.78,
    },
    FINE: {
        Label.BACKGROUND: 0.99,
        Label.SOFT_TISSUE: 0.91,
        Label.BONE: 0.87,
        Label.INTRACRANIAL: 0.95,
        Label.INTERNAL_AIR: 0.84,
    },
}


def voxelised(head: HeadPhantom, spacing: float, size: int | tuple[int, int, int]) -> Volume:
    """HU and exact labels, the mandible counted as bone as the recipe does."""
    hu, structure = head.voxelise(Grid.centred(spacing, size), supersample=2)
    return hu.astype(np.float32), np.where(structure == Label.MANDIBLE, Label.BONE, structure)


def dice(found: npt.NDArray, exact: npt.NDArray, label: Label) -> float:
    a, b = found == label, exact == label
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def assert_good(
    found: npt.NDArray[np.uint8], exact: npt.NDArray[np.uint8], least: dict[Label, float]
) -> None:
    reached = {label: dice(found, exact, label) for label in least}
    assert all(reached[label] >= least[label] for label in least), reached


@pytest.fixture(scope="module")
def coarse() -> Volume:
    return voxelised(HeadPhantom.nominal(), 4.0, 64)


@pytest.fixture(scope="module")
def fine() -> Volume:
    return voxelised(HeadPhantom.nominal(), 2.0, (96, 116, 128))


def test_recipe_finds_the_labels_at_4_mm(coarse: Volume) -> None:
    assert_good(label_head(coarse[0], COARSE), coarse[1], LEAST[COARSE])


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 50.0])
def test_recipe_finds_the_labels_at_2_mm(fine: Volume, noise: float) -> None:
    noisy = fine[0] + np.random.default_rng(0).normal(0, noise, fine[0].shape).astype(np.float32)
    assert_good(label_head(noisy, FINE), fine[1], LEAST[FINE])


@pytest.mark.parametrize(
    "noise",
    [
        20.0,
        30.0,
        pytest.param(
            50.0,
            marks=pytest.mark.xfail(
                reason="1 mm of smoothing is nothing at 4 mm: noise breaks up the brain",
                strict=True,
            ),
        ),
    ],
)
def test_noise_at_4_mm_changes_little(coarse: Volume, noise: float) -> None:
    noisy = coarse[0] + np.random.default_rng(0).normal(0, noise, coarse[0].shape)
    assert_good(label_head(noisy, COARSE), coarse[1], LEAST[COARSE])


@pytest.mark.parametrize("seed", range(3))
def test_recipe_finds_the_labels_of_other_heads(seed: int) -> None:
    hu, exact = voxelised(HeadPhantom.random(seed), 4.0, 64)
    found = label_head(hu, COARSE)
    assert_good(found, exact, {Label.BONE: 0.8, Label.INTRACRANIAL: 0.9, Label.SOFT_TISSUE: 0.8})


def ball(grid: Grid, centre: tuple[float, float, float], radius: float) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = np.linalg.norm(grid.points() - centre, axis=-1) < radius
    return inside


@pytest.mark.parametrize(
    ("spacing", "shape", "speck", "bone"),
    [
        ((2.0, 2.0, 2.0), (48, 48, 48), (3, 3, 2), (3, 3, 4)),
        ((4.0, 4.0, 2.0), (24, 24, 48), (2, 2, 1), (2, 2, 2)),
        ((4.0, 2.0, 4.0), (24, 48, 24), (2, 1, 2), (2, 2, 2)),
    ],
)
def test_specks_are_told_from_bone_by_their_volume(
    spacing: tuple[float, float, float],
    shape: tuple[int, int, int],
    speck: tuple[int, int, int],
    bone: tuple[int, int, int],
) -> None:
    """0.13 to 0.14 ml is a speck and 0.26 to 0.29 ml is bone, whatever the voxels."""
    grid = Grid.centred(spacing, shape)
    hu = np.where(ball(grid, (0, 0, 0), 40.0), 40.0, -1000.0)
    middle = np.array(shape) // 2
    blocks = []
    for size, away in ((speck, -16.0), (bone, 16.0)):
        first = middle + np.array([round(away / spacing[0]), 0, 0])
        block = tuple(slice(f, f + n) for f, n in zip(first, size, strict=True))
        hu[block] = 600.0
        blocks.append(block)
    found = label_head(hu, spacing)
    assert (found[blocks[0]] != Label.BONE).all()
    assert (found[blocks[1]] == Label.BONE).all()
    assert (found == Label.BONE).sum() == np.prod(bone)


@pytest.mark.parametrize(("thickness", "kept"), [(6.0, False), (12.0, True)])
@pytest.mark.parametrize("axis", [0, 2])
def test_body_is_opened_by_a_length_in_mm(axis: int, thickness: float, kept: bool) -> None:
    """What hangs on by less than twice the 4 mm of the opening does not belong to the head."""
    spacing = [3.0, 3.0, 3.0]
    spacing[axis] = 1.5
    shape = [round(n / s) for n, s in zip((120, 180, 120), spacing, strict=True)]
    grid = Grid.centred(spacing, shape)
    head, thing = ball(grid, (0, -35, 0), 40.0), ball(grid, (0, 58, 0), 18.0)
    points = grid.points()
    bridge = (np.abs(points[..., axis]) < thickness / 2) & (np.abs(points[..., 2 - axis]) < 15)
    bridge &= (points[..., 1] > -30) & (points[..., 1] < 60)
    mask = head_mask(np.where(head | thing | bridge, 40.0, -1000.0), spacing)
    assert mask[head].all()
    assert mask[thing].all() if kept else not mask[thing].any()


def test_headrest_is_left_out(coarse: Volume) -> None:
    hu, exact = coarse
    clean = label_head(hu, COARSE)
    x, y, z = np.moveaxis(Grid.centred(4.0, 64).points(), -1, 0)
    back = y[exact != Label.BACKGROUND].max()
    shell = (y > back + 10) & (y < back + 20) & (np.abs(x) < 90) & (np.abs(z) < 80)
    assert shell.sum() * 0.064 > 50  # ml: far more than any speck
    with_rest = np.where(shell, 300.0, hu)
    found = label_head(with_rest, COARSE)
    assert (found[shell] == Label.BACKGROUND).all()
    assert np.mean(found == clean) > 0.9999


def test_headrest_that_touches_by_a_thin_support_is_left_out(coarse: Volume) -> None:
    hu, exact = coarse
    clean = label_head(hu, COARSE)
    x, y, z = np.moveaxis(Grid.centred(4.0, 64).points(), -1, 0)
    back = y[exact != Label.BACKGROUND].max()
    shell = (y > back + 10) & (y < back + 20) & (np.abs(x) < 90) & (np.abs(z) < 80)
    stalk = (np.abs(x) < 4) & (np.abs(z) < 4) & (y > back - 20) & (y <= back + 10)
    stalk &= exact == Label.BACKGROUND
    found = label_head(np.where(shell | stalk, 300.0, hu), COARSE)
    assert (found[shell] == Label.BACKGROUND).all()
    assert np.mean(found == clean) > 0.999


def test_labels_do_not_contradict_the_hu(coarse: Volume) -> None:
    hu, _ = coarse
    found = label_head(hu, COARSE)
    smooth = ndimage.gaussian_filter(hu, 1.0 / 4.0)
    assert smooth[found == Label.BONE].min() > BONE_HU
    assert smooth[found == Label.INTERNAL_AIR].max() < -400
    # bone inside the head is found, but for specks
    inside = head_mask(smooth, COARSE)
    missed = inside & (smooth > BONE_HU) & (found != Label.BONE)
    assert missed.sum() <= 0.01 * (found == Label.BONE).sum()
    assert Label.MANDIBLE not in found
    np.testing.assert_array_equal(inside, found != Label.BACKGROUND)


def test_intracranial_space_is_one_part_inside_the_skull(coarse: Volume) -> None:
    found = label_head(coarse[0], COARSE)
    _, count = ndimage.label(found == Label.INTRACRANIAL, structure=np.ones((3, 3, 3)))
    assert count == 1
    volume_ml = (found == Label.INTRACRANIAL).sum() * 0.064
    exact_ml = (coarse[1] == Label.INTRACRANIAL).sum() * 0.064
    assert volume_ml == pytest.approx(exact_ml, rel=0.1)
    # its outer border is the skull: nowhere does it see the outside air
    grown = ndimage.binary_dilation(found == Label.INTRACRANIAL)
    assert not (grown & (found == Label.BACKGROUND)).any()


def test_pure_air_has_no_head() -> None:
    empty = np.full((12, 12, 12), -1000.0, dtype=np.float32)
    assert (label_head(empty, COARSE) == Label.BACKGROUND).all()
