"""Reading feature maps at projected points."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def map_projection(projection: torch.Tensor, stride: int) -> torch.Tensor:
    """Projection matrices of maps averaged down by a whole factor, from those of the image.

    Args:
        projection: LPS mm to (column, row) image pixels, shape ``(..., 3, 4)``.
        stride: Image pixels per map pixel.

    Returns:
        Matrices of the same shape.
    """
    if stride == 1:
        return projection
    shift = (stride - 1) / 2
    pixels = (projection[..., :2, :] - shift * projection[..., 2:, :]) / stride
    return torch.cat([pixels, projection[..., 2:, :]], dim=-2)


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

    Args:
        pixels: (column, row) map pixels, shape ``(V, P, 2)``.
        height: Rows of the maps.
        width: Columns of the maps.

    Returns:
        Indices into the maps flattened to ``(V * height * width, C)`` and their weights, both of
        shape ``(P, 4 * V)``; taps outside a map have weight zero.
    """
    views = pixels.shape[0]
    size = torch.tensor([width, height], device=pixels.device, dtype=pixels.dtype)
    inside = torch.minimum(pixels.clamp_min(-1.0), size)  # whole taps of weight zero beyond
    floor = inside.floor()
    fraction = inside - floor
    corner = floor.long()
    offset = torch.arange(views, device=pixels.device)[:, None] * (height * width)
    indices, weights = [], []
    for row in (0, 1):
        y = corner[..., 1] + row
        wy = fraction[..., 1] if row == 1 else 1 - fraction[..., 1]
        wy = wy * ((y >= 0) & (y < height))
        for column in (0, 1):
            x = corner[..., 0] + column
            wx = fraction[..., 0] if column == 1 else 1 - fraction[..., 0]
            wx = wx * ((x >= 0) & (x < width))
            indices.append(offset + y.clamp(0, height - 1) * width + x.clamp(0, width - 1))
            weights.append(wy * wx)
    return torch.cat(indices).T.contiguous(), torch.cat(weights).T.contiguous()
