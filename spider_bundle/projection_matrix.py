"""Projection matrices of both cameras: 4x4, from LPS mm to (column, row) pixels.

The rows are the numerators of column and row, then the denominators of column and row. A pinhole
repeats its denominator; a slot scan divides its column only. Denominators of a perspective are the
depth divided by SDD: 0 at the source, 1 at the detector. A 3x4 matrix of a pinhole is accepted by
:func:`both_cameras`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]


def both_cameras(projection: torch.Tensor) -> torch.Tensor:
    """Return matrices ``(..., 4, 4)`` of such matrices or of 3x4 matrices of pinholes."""
    if projection.shape[-2] == 4:
        return projection
    return torch.cat([projection, projection[..., 2:, :]], dim=-2)


def resize_matrix(old: tuple[int, int], new: tuple[int, int]) -> FloatArray:
    """Pixel transform of resizing an image edge to edge.

    Multiply a projection matrix from the left by it to get the matrix of the resized image.

    Args:
        old: ``(rows, columns)`` before.
        new: ``(rows, columns)`` after.

    Returns:
        Shape ``(4, 4)``.
    """
    row, column = new[0] / old[0], new[1] / old[1]
    matrix = np.diag([column, row, 1.0, 1.0])
    matrix[0, 2], matrix[1, 3] = (column - 1) / 2, (row - 1) / 2
    return matrix


def project_points(projection: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Project points on every view.

    Args:
        projection: Projection matrices, shape ``(B, V, 4, 4)``, or ``(B, V, 3, 4)``.
        points: LPS mm, shape ``(B, P, 3)``.

    Returns:
        (column, row) pixel coordinates, shape ``(B, V, P, 2)``, dtype of ``points``. Points at or
        behind the source are sent far outside the image.
    """
    matrix = both_cameras(projection).to(points)
    # products and sums, not a matrix product: autocast must not round pixel coordinates
    terms = matrix[:, :, None, :, :3] * points[:, None, :, None, :]
    return dehomogenise(terms.sum(dim=-1) + matrix[:, :, None, :, 3], -1)


def dehomogenise(homogeneous: torch.Tensor, dim: int) -> torch.Tensor:
    """Pixel coordinates from numerators and denominators.

    Args:
        homogeneous: What the matrix gives, of size 4 along ``dim``.
        dim: The dimension that holds them.

    Returns:
        (column, row) pixel coordinates, of size 2 along ``dim``. Points at or behind the source
        are sent far outside the image.
    """
    depth = homogeneous.narrow(dim, 2, 2)
    pixels = homogeneous.narrow(dim, 0, 2) / depth.clamp_min(1e-6)
    return torch.where(depth > 1e-6, pixels, torch.full_like(pixels, -1e6))


def rays(projection: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sources and directions of the rays through pixels.

    A ray is the meet of the plane of its column and the plane of its row. All rays of a pinhole
    have one source; those of a slot scan have one for each row.

    Args:
        projection: Projection matrices, shape ``(..., 4, 4)``, or ``(..., 3, 4)``.
        pixels: (column, row) coordinates, shape ``(P, 2)``.

    Returns:
        Sources and vectors from them to the pixels on the detector, both LPS mm ``(..., P, 3)``.
    """
    matrix = both_cameras(projection)[..., None, :, :]
    planes = matrix[..., :2, :] - pixels.to(matrix)[:, :, None] * matrix[..., 2:, :]
    column, row = planes[..., 0, :], planes[..., 1, :]
    depth = matrix[..., 2, :].expand_as(column)
    along = torch.linalg.cross(column[..., :3], row[..., :3])
    # one unit of depth leads from the source to the detector
    scale = (depth[..., :3] * along).sum(dim=-1, keepdim=True)
    # the source is on both planes, at depth 0
    source = (
        column[..., 3:] * torch.linalg.cross(row[..., :3], depth[..., :3])
        + row[..., 3:] * torch.linalg.cross(depth[..., :3], column[..., :3])
        + depth[..., 3:] * along
    ) / -scale
    return source, along / scale
