"""Differentiable forward projector: attenuation volumes to line integrals, for any view.

Joseph's method: every ray is sampled once on each voxel plane across the axis it runs along best,
by bilinear interpolation inside the plane (P. M. Joseph, IEEE Trans Med Imaging 1(3), 1982). It is
exact for the trilinear model up to second order and needs a fraction of the samples of a plain ray
march. Gradients flow to the volume and to the projection matrices (pose).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from spider_bundle.projection_matrix import both_cameras, rays

# Samples of one chunk of planes. On a CPU a chunk stays in the caches, three times as fast as one
# of 100 MB; on a GPU few large ones are better.
_CPU_SAMPLES, _GPU_SAMPLES = 1 << 19, 1 << 23


def project_volume(
    attenuation: torch.Tensor,
    affine: torch.Tensor,
    projection: torch.Tensor,
    shape: tuple[int, int],
) -> torch.Tensor:
    """Return line integrals of attenuation along the rays from the source to every pixel.

    The source and the detector must lie outside the volume; attenuation outside it is zero.

    Args:
        attenuation: Linear attenuation in 1/mm, shape ``(B, X, Y, Z)``, index order (x, y, z).
        affine: Voxel index to LPS mm, shape ``(B, 4, 4)``.
        projection: LPS mm to (column, row) pixels, shape ``(B, V, 4, 4)``, or ``(B, V, 3, 4)``.
        shape: ``(rows, columns)`` of the radiographs.

    Returns:
        Dimensionless line integrals, shape ``(B, V, rows, columns)``.
    """
    rows, columns = shape
    # rays are set up in double: the source is a metre away and the matrices are nearly singular
    to_pixels = both_cameras(projection).double() @ affine.double()[:, None]
    row, column = torch.meshgrid(
        torch.arange(rows, device=attenuation.device),
        torch.arange(columns, device=attenuation.device),
        indexing="ij",
    )
    pixels = torch.stack([column.flatten(), row.flatten()], dim=1)
    source, direction = rays(to_pixels, pixels)
    images = [
        torch.stack(
            [
                _project_view(attenuation[b], affine[b].double(), source[b, v], direction[b, v])
                for v in range(projection.shape[1])
            ]
        )
        for b in range(attenuation.shape[0])
    ]
    return torch.stack(images).reshape(*projection.shape[:2], rows, columns)


def _project_view(
    volume: torch.Tensor, affine: torch.Tensor, source: torch.Tensor, direction: torch.Tensor
) -> torch.Tensor:
    """Project one volume ``(X, Y, Z)``: source ``(3,)``, rays ``(P, 3)`` in index units."""
    axis = int(direction.detach().abs().median(dim=0).values.argmax())
    others = [i for i in range(3) if i != axis]
    planes = volume.permute(axis, *others)
    step = direction / direction[:, axis : axis + 1]
    length = torch.linalg.vector_norm(step @ affine[:3, :3].T, dim=1).to(volume)
    # where the ray meets plane k: start + k * slope, in grid_sample's -1..1 (y = first, x = second)
    start = source[:, others] - source[:, axis : axis + 1] * step[:, others]
    scale = 2.0 / (torch.tensor(planes.shape[1:], device=volume.device, dtype=start.dtype) - 1)
    start = (start * scale - 1).flip(1).to(volume)
    slope = (step[:, others] * scale).flip(1).to(volume)
    total = torch.zeros_like(length)
    samples = _CPU_SAMPLES if volume.device.type == "cpu" else _GPU_SAMPLES
    chunk = max(1, samples // len(direction))
    for first in range(0, planes.shape[0], chunk):
        part = planes[first : first + chunk, None]
        index = torch.arange(first, first + len(part), device=volume.device, dtype=volume.dtype)
        grid = start + index[:, None, None] * slope
        sampled = F.grid_sample(part, grid[:, None], align_corners=True, padding_mode="zeros")
        total = total + sampled.sum(dim=(0, 1, 2))
    return total * length
