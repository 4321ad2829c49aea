"""Decode a grid coarsely, and finely only where the answer changes.

A lattice of a few millimetres is decoded first. Its spacing is then halved until it is the grid's:
new points in cells whose corners differ in label or by more HU than tolerated are decoded, all
others are interpolated (multiresolution isosurface extraction: Mescheder et al., Occupancy
Networks, CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

COARSEST_MM = 4.0
"""Largest spacing of the first lattice, mm: the network is trained on voxels of this size."""
TOLERANCE_HU = 30.0
"""Largest difference in HU between the corners of a cell that is interpolated."""
_SLAB = 8
"""Cells along x that are refined at a time; bounds the working memory."""

Decode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""HU (int16) and labels (uint8), ``(P,)``, at voxel indices along x, y and z, ``(P,)`` each."""


def halvings(spacing: Sequence[float]) -> int:
    """Return how often the first lattice is halved to reach a spacing in mm, ``(x, y, z)``."""
    count = 0
    while max(spacing) * 2 ** (count + 1) <= COARSEST_MM:
        count += 1
    return count


def padded(size: int, count: int) -> int:
    """Return the voxels along an axis, at least ``size``, that a lattice halved so often fills."""
    factor = 2**count
    return -(-(size - 1) // factor) * factor + 1


def coarse_to_fine(
    decode: Decode,
    shape: Sequence[int],
    count: int,
    device: torch.device,
    tolerance: float = TOLERANCE_HU,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode a grid.

    Args:
        decode: Decodes voxels; it is also asked for those that :func:`padded` adds at the end.
        shape: Voxels of the grid, ``(X, Y, Z)``.
        count: How often the first lattice is halved, see :func:`halvings`.
        device: Device of the result.
        tolerance: See :data:`TOLERANCE_HU`.

    Returns:
        HU, int16, and labels, uint8, both ``(X, Y, Z)``.
    """
    step = 2**count
    size = [(padded(n, count) - 1) // step + 1 for n in shape]
    hu = torch.empty(size, dtype=torch.int16, device=device)
    labels = torch.empty(size, dtype=torch.uint8, device=device)
    every = torch.ones(size[1:], dtype=torch.bool, device=device)
    for x in range(size[0]):
        _decode_where(every[None], decode, step, hu[x : x + 1], labels[x : x + 1], x)
    while step > 1:
        step //= 2
        hu, labels = _refined(hu, labels, decode, step, tolerance)
        # what lies beyond the grid is of no use from here on
        x, y, z = (-(-(n - 1) // step) + 1 for n in shape)
        hu, labels = hu[:x, :y, :z], labels[:x, :y, :z]
    return hu.contiguous(), labels.contiguous()


def _refined(
    hu: torch.Tensor, labels: torch.Tensor, decode: Decode, step: int, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return HU and labels on the lattice of half the spacing, ``step`` voxels."""
    size = [2 * n - 1 for n in hu.shape]
    fine_hu, fine_labels = hu.new_empty(size), labels.new_empty(size)
    # cells beyond the border change nothing about a point on it
    changing = F.pad(_changing(hu, labels, tolerance), (1,) * 6, value=True)
    for first in range(0, max(hu.shape[0] - 1, 1), _SLAB):
        last = min(first + _SLAB, hu.shape[0] - 1)
        done = 1 if first else 0  # the slab before ends with the plane that this one begins with
        planes = slice(2 * first + done, 2 * last + 1)
        coarse = hu[first : last + 1].float()[None, None]
        between = F.interpolate(
            coarse, (2 * (last - first) + 1, *size[1:]), mode="trilinear", align_corners=True
        )
        fine_hu[planes] = between[0, 0, done:].round().to(torch.int16)
        fine_labels[planes] = _lower_corner(labels[first : last + 1])[done:]
        wanted = _in_changing_cells(changing[first : last + 2])
        wanted[::2, ::2, ::2] = False  # decoded on the coarse lattice
        _decode_where(
            wanted[done:], decode, step, fine_hu[planes], fine_labels[planes], planes.start
        )
    return fine_hu, fine_labels


def _decode_where(
    wanted: torch.Tensor,
    decode: Decode,
    step: int,
    hu: torch.Tensor,
    labels: torch.Tensor,
    first: int,
) -> None:
    """Decode the points of a slab that starts at plane ``first`` of a lattice, in place."""
    x, y, z = wanted.nonzero(as_tuple=True)
    if len(x) == 0:
        return
    hu[x, y, z], labels[x, y, z] = decode((x + first) * step, y * step, z * step)


def _changing(hu: torch.Tensor, labels: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Return which cells ``(X - 1, Y - 1, Z - 1)`` have corners that differ."""
    apart = _over_corners(hu, torch.maximum).int() - _over_corners(hu, torch.minimum) > tolerance
    return apart | (_over_corners(labels, torch.maximum) != _over_corners(labels, torch.minimum))


def _over_corners(
    values: torch.Tensor, combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Combine the eight corners of every cell."""
    for axis in range(3):
        n = values.shape[axis] - 1
        values = combine(values.narrow(axis, 0, n), values.narrow(axis, 1, n))
    return values


def _in_changing_cells(cells: torch.Tensor) -> torch.Tensor:
    """Return which points of the fine lattice touch changing cells only.

    Args:
        cells: Cells with one more at every border, shape ``(X + 1, Y + 1, Z + 1)`` for coarse
            points ``(X, Y, Z)``.

    Returns:
        Shape ``(2 X - 1, 2 Y - 1, 2 Z - 1)``.
    """
    for axis in range(3):
        n = cells.shape[axis] - 1
        at_points = cells.narrow(axis, 0, n) & cells.narrow(axis, 1, n)
        inside = cells.narrow(axis, 1, n)
        both = torch.stack([at_points, inside], dim=axis + 1).flatten(axis, axis + 1)
        cells = both.narrow(axis, 0, 2 * n - 1)
    return cells.clone()


def _lower_corner(labels: torch.Tensor) -> torch.Tensor:
    """Labels at the corner that every cell around a point of the fine lattice has."""
    for axis in range(3):
        n = 2 * labels.shape[axis] - 1
        labels = labels.repeat_interleave(2, dim=axis).narrow(axis, 0, n)
    return labels
