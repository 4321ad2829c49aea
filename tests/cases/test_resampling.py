"""Volumes on other grids."""

from __future__ import annotations

import numpy as np
import pytest

from spider_bundle.cases.resampling import block_means, covering_grid, resample
from spider_bundle.geometry import Grid, rotation_about


def everywhere(grid: Grid) -> np.ndarray:
    return np.ones(grid.shape, dtype=bool)


def test_coinciding_voxels_keep_their_values_exactly() -> None:
    source = Grid.centred(3.0, 12)
    values = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)
    target = Grid.centred(3.0, 8)
    result, share = resample(values, everywhere(source), source, target)
    assert np.array_equal(result, values[2:10, 2:10, 2:10])
    assert (share == 1).all()


@pytest.mark.parametrize("spacing", [1.0, 2.0, 5.0])
def test_a_linear_field_is_kept_on_oblique_and_sheared_grids(spacing: float) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation_about(0, 20) @ rotation_about(2, -15) @ np.diag([1.0, 1.5, 2.0])
    affine[:3, 2] += affine[:3, 1] * 0.4  # as by a tilted gantry
    affine[:3, 3] = -affine[:3, :3] @ np.array([40.0, 30.0, 25.0])
    source = Grid((81, 61, 51), affine)
    slope = np.array([2.0, -3.0, 5.0])
    target = Grid.centred(spacing, 6)
    result, share = resample(source.points() @ slope, everywhere(source), source, target)
    assert share.min() > 0.999
    assert np.abs(result - target.points() @ slope).max() < 0.02


def test_fine_detail_is_averaged_not_aliased() -> None:
    source = Grid.centred(1.0, 64)
    stripes = np.where(np.arange(64) % 2, 1000.0, -1000.0)[:, None, None] * np.ones(source.shape)
    result, _ = resample(stripes, everywhere(source), source, Grid.centred(4.0, 10))
    assert np.abs(result).max() < 20  # every fourth voxel alone would be +-1000


def test_what_was_not_measured_has_no_influence() -> None:
    source = Grid.centred(1.0, 32)
    measured = everywhere(source)
    measured[:16] = False
    values = np.where(measured, 40.0, -30000.0)
    result, share = resample(values, measured, source, Grid.centred(4.0, 8))
    assert np.allclose(result[share > 0.01], 40.0, atol=0.01)
    assert np.allclose(share[:3], 0.0, atol=0.01)
    assert np.allclose(share[5:7, 2:6, 2:6], 1.0, atol=0.01)


def test_outside_of_the_source_nothing_is_known() -> None:
    source = Grid.centred(2.0, 10)
    affine = source.affine.copy()
    affine[0, 3] += 500.0
    result, share = resample(
        np.ones(source.shape), everywhere(source), source, Grid((5, 5, 5), affine)
    )
    assert not share.any()
    assert not result.any()


def test_block_means_keep_mean_and_place() -> None:
    source = Grid.centred((1.0, 2.0, 3.0), (16, 9, 7))
    means, coarse = block_means(source.points()[..., 2], source, 4.0)
    assert coarse.shape == (4, 4, 7)
    assert coarse.spacing == (4.0, 4.0, 3.0)
    # the mean of a coordinate over a block is that of its middle
    assert np.allclose(means, coarse.points()[..., 2], atol=1e-5)
    x, _ = block_means(source.points()[..., 0], source, 4.0)
    assert np.allclose(x, coarse.points()[..., 0], atol=1e-5)


def test_covering_grid_is_aligned_and_covers_every_voxel() -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation_about(1, 30) * 2.0
    source = Grid((20, 10, 15), affine)
    grid = covering_grid(source, 5.0)
    low, high = (np.array([f(a) for a in grid.axes()]) for f in (np.min, np.max))
    points = source.points().reshape(-1, 3)
    assert (points.min(axis=0) >= low - 2.5).all()
    assert (points.max(axis=0) <= high + 2.5).all()
    assert np.prod(grid.shape) < 20 * 18 * 20
