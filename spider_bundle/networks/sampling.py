"""Reading feature maps at projected points."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from spider_bundle.projection_matrix import both_cameras


def map_projection(projection: torch.Tensor, stride: int) -> torch.Tensor:
    """Projection matrices of maps averaged down by a whole factor, from those of the image.

    Args:
        projection: LPS mm to (column, row) image pixels, shape ``(..., 4, 4)``, or ``(..., 3, 4)``.
        stride: Image pixels per map pixel.

    Returns:
        Matrices of shape ``(..., 4, 4)``.
    """
    matrix = both_cameras(projection)
    if stride == 1:
        return matrix
    shift = (stride - 1) / 2
    pixels = (matrix[..., :2, :] - shift * matrix[..., 2:, :]) / stride
    return torch.cat([pixels, matrix[..., 2:, :]], dim=-2)


def sample_maps(maps: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Bilinear samples of every view's map, joined; zero outside the map.

    Args:
        maps: Feature maps, shape ``(B, V, C, H, W)``.
        pixels: (column, row) map pixels, shape ``(B, V, P, 2)``.

    Returns:
        Shape ``(B, P, V * C)``, the views one after the other.
    """
    b, v, c, h, w = maps.shape
    scale = torch.tensor([2.0 / (w - 1), 2.0 / (h - 1)], device=pixels.device)
    grid = (pixels * scale - 1).reshape(b * v, -1, 1, 2)
    sampled = F.grid_sample(
        maps.float().reshape(b * v, c, h, w), grid, padding_mode="zeros", align_corners=True
    )
    return sampled.reshape(b, v * c, -1).transpose(1, 2)


def bilinear_taps(
    pixels: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and weights with which :func:`sample_maps` reads the maps of one case.

    The maps have a border of one pixel of zeros all around, so that every tap exists: taps outside
    a map read the border, and points further outside have weight on the border only.

    Args:
        pixels: (column, row) map pixels, shape ``(V, 2, P)``.
        height: Rows of the maps without border.
        width: Columns of the maps without border.

    Returns:
        Indices (int32) into the maps flattened to ``(V * (height + 2) * (width + 2), C)`` and their
        weights, both of shape ``(4 * V, P)``.
    """
    column = pixels[:, 0].clamp(-1.0, float(width))
    row = pixels[:, 1].clamp(-1.0, float(height))
    left = column.floor().clamp_max(float(width - 1))
    top = row.floor().clamp_max(float(height - 1))
    right_share, bottom_share = column - left, row - top
    left_share, top_share = 1 - right_share, 1 - bottom_share
    stride = width + 2
    view = torch.arange(pixels.shape[0], device=pixels.device, dtype=torch.int32)[:, None]
    corner = (view * (height + 2) + top.int() + 1) * stride + left.int() + 1
    taps = torch.cat([corner, corner + 1, corner + stride, corner + stride + 1])
    weights = torch.cat(
        [
            top_share * left_share,
            top_share * right_share,
            bottom_share * left_share,
            bottom_share * right_share,
        ]
    )
    return taps, weights
