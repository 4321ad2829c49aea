"""Shaded surfaces show the nearest bone, in its colour, the same for every order of the axes."""

from __future__ import annotations

import numpy as np
import pytest

from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from spider_bundle.outputs.surface import render_surfaces

FRONT, LEFT = 0, 1


def boxes(grid: Grid, *places: tuple[Label, tuple[float, float, float]]) -> np.ndarray:
    """Cubes of 24 mm of these labels about these points, LPS mm."""
    labels = np.zeros(grid.shape, np.uint8)
    for label, middle in places:
        labels[(abs(grid.points() - middle) < 12).all(axis=-1)] = label
    return labels


def test_the_nearer_bone_hides_the_other() -> None:
    grid = Grid.centred(2.0, 64)
    # the mandible in front of the bone, and the bone to the left of the mandible
    labels = boxes(grid, (Label.MANDIBLE, (0, -30, 0)), (Label.BONE, (0, 30, 0)))
    views, _ = render_surfaces(labels, grid)
    red, _, blue = views[FRONT][6, 6]
    assert red > 3 * blue  # orange
    beside = boxes(grid, (Label.MANDIBLE, (-30, 0, 0)), (Label.BONE, (30, 0, 0)))
    views, _ = render_surfaces(beside, grid)
    red, _, blue = views[LEFT][6, 6]
    assert blue > 0.5 * red  # ivory
    left, right = views[FRONT][6, -6], views[FRONT][6, 6]  # the patient's left is on the right
    assert left[2] > 0.5 * left[0]
    assert right[0] > 3 * right[2]


def test_skin_is_darker_than_bone_and_seen_through() -> None:
    grid = Grid.centred(2.0, 64)
    labels = boxes(grid, (Label.SOFT_TISSUE, (0, 0, 0)))
    skin = render_surfaces(labels, grid)[0][FRONT][6, 6]
    labels[28:36, 28:36, 28:36] = Label.BONE
    seen = render_surfaces(labels, grid)[0][FRONT][6, 6]
    assert 0.1 < skin.mean() < 0.5 < seen.mean()


def test_a_face_towards_the_light_is_brighter() -> None:
    grid = Grid.centred(1.0, 96)
    radius = np.linalg.norm(grid.points(), axis=-1)
    front, _ = render_surfaces(np.where(radius < 40, Label.BONE, 0), grid)[0]
    count = len(front)
    upper_left, lower_right = front[count // 4, count // 4], front[3 * count // 4, 3 * count // 4]
    assert upper_left.mean() > 1.5 * lower_right.mean()


def test_the_order_of_the_axes_does_not_matter() -> None:
    places = ((Label.BONE, (10, -20, 6)), (Label.SOFT_TISSUE, (-20, 10, -8)))
    grid = Grid.centred(2.0, 64)
    affine = np.array([[0, 2.0, 0, -63], [0, 0, -2.0, 63], [-2.0, 0, 0, 63], [0, 0, 0, 1]])
    other = Grid((64, 64, 64), affine)
    first, here = render_surfaces(boxes(grid, *places), grid)
    second, there = render_surfaces(boxes(other, *places), other)
    np.testing.assert_allclose(here, there)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


def test_fine_volumes_are_thinned_out_and_empty_ones_are_black() -> None:
    grid = Grid.centred(0.5, 200)
    views, affine = render_surfaces(boxes(grid, (Label.BONE, (0, 0, 0))), grid)
    assert affine[0, 0] == pytest.approx(1.0)
    assert views[FRONT].shape == (24, 24, 3)
    views, _ = render_surfaces(np.zeros(grid.shape, np.uint8), grid)
    assert not any(view.any() for view in views)
