"""Volumes on another grid, without aliasing and without mixing in what was not measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spider_bundle.arrays import Float32Array
from spider_bundle.geometry import Grid

_FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian of unit standard deviation."""


def resample(
    values: npt.NDArray[Any], measured: npt.NDArray[np.bool_], source: Grid, target: Grid
) -> tuple[Float32Array, Float32Array]:
    """Resample by a Gaussian as wide as the target's voxels and linear interpolation.

    Where source and target voxels coincide, values are kept exactly. Grids may be oblique or
    sheared (gantry tilt).

    Args:
        values: Volume on the source grid, shape ``(X, Y, Z)``.
        measured: Where it is known, same shape; the rest has no influence.
        source: Its grid, LPS mm.
        target: Wanted grid, LPS mm of the same space.

    Returns:
        Values on the target grid, 0 where nothing is known, and the share of each voxel that was
        measured, 0..1.
    """
    to_source = np.linalg.inv(source.affine) @ target.affine
    step = np.array(source.spacing)
    sigma = np.sqrt(np.maximum(min(target.spacing) ** 2 - step**2, 0.0)) / _FWHM / step
    box = _needed(to_source, target, source, np.ceil(4 * sigma).astype(int) + 1)
    known = measured[box].astype(np.float32)
    weighted = np.where(known > 0, values[box], 0).astype(np.float32)
    if min(known.shape) == 0:
        return np.zeros(target.shape, np.float32), np.zeros(target.shape, np.float32)
    offset = to_source[:3, 3] - [part.start for part in box]
    weighted, known = (
        ndimage.affine_transform(
            ndimage.gaussian_filter(part, sigma, mode="constant") if sigma.any() else part,
            to_source[:3, :3],
            offset,
            target.shape,
            order=1,
            mode="grid-constant",
        )
        for part in (weighted, known)
    )
    share = np.clip(known, 0.0, 1.0)
    return np.where(share > 1e-3, weighted / np.maximum(share, 1e-3), 0.0), share


def block_means(values: npt.NDArray[Any], grid: Grid, spacing: float) -> tuple[Float32Array, Grid]:
    """Means over blocks of whole voxels, for a quick look at a large volume.

    Args:
        values: Volume, shape ``(X, Y, Z)``; incomplete blocks at the end are left out.
        grid: Its grid, LPS mm.
        spacing: Blocks are at most this long, mm, and at least one voxel.
    """
    most = np.maximum(spacing / np.array(grid.spacing) + 1e-6, 1).astype(int)
    size = np.minimum(most, grid.shape)
    shape = np.array(grid.shape) // size
    means = values[tuple(slice(n) for n in shape * size)]
    for axis in range(3):
        split = (*means.shape[:axis], shape[axis], size[axis], *means.shape[axis + 1 :])
        means = means.reshape(split).mean(axis=axis + 1, dtype=np.float32)
    coarser = np.diag([*size, 1.0])
    coarser[:3, 3] = (np.array(size) - 1) / 2
    return means, Grid((int(shape[0]), int(shape[1]), int(shape[2])), grid.affine @ coarser)


def covering_grid(grid: Grid, spacing: float) -> Grid:
    """Axis-aligned RAS grid that covers all voxels of another grid.

    Args:
        grid: Any grid.
        spacing: Voxel size of the new one, mm.
    """
    corners = np.stack(np.meshgrid(*((-0.5, n - 0.5) for n in grid.shape)), axis=-1).reshape(-1, 3)
    world = corners @ grid.ras_affine[:3, :3].T + grid.ras_affine[:3, 3]
    low, high = world.min(axis=0), world.max(axis=0)
    shape = np.maximum(np.ceil((high - low) / spacing - 1e-6), 1).astype(int)
    ras = np.diag([spacing, spacing, spacing, 1.0])
    ras[:3, 3] = (low + high) / 2 - spacing * (shape - 1) / 2
    return Grid.from_ras(ras, shape)


def _needed(
    to_source: npt.NDArray[np.float64], target: Grid, source: Grid, margin: npt.NDArray[np.int64]
) -> tuple[slice, ...]:
    """Return the part of the source that the target can depend on."""
    corners = np.stack(np.meshgrid(*((0, n - 1) for n in target.shape)), axis=-1).reshape(-1, 3)
    index = corners @ to_source[:3, :3].T + to_source[:3, 3]
    low = np.clip(np.floor(index.min(axis=0)) - margin, 0, source.shape).astype(int)
    high = np.clip(np.ceil(index.max(axis=0)) + margin + 1, 0, source.shape).astype(int)
    return tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
