"""From a pair of radiographs to the network's image.

Training applies :func:`normalise_radiograph` to its simulated radiographs as well, so both sides
see values on the same scale. Nothing in this module needs DICOM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from spider_bundle.geometry import View

if TYPE_CHECKING:
    from spider_bundle.dicom.load import RadiographPair

#: Pixel size at the isocentre in mm, and rows and columns, of the network's image.
PIXEL_SIZE = 1.2
SIZE = 256

LOW_PERCENTILE = 1.0
HIGH_PERCENTILE = 99.0


def normalise_radiograph(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scale radiographs so that their 1st and 99th percentile inside the mask become 0 and 1.

    The result does not depend on the unknown gain and offset of a radiograph, so line integrals
    and images of unknown scale meet on common ground.

    Args:
        image: Dense-is-high radiographs, shape ``(..., H, W)``, any scale.
        mask: True where a pixel is usable, shape broadcastable to that of ``image``.

    Returns:
        Same shape as ``image`` and floating dtype (float32 for integers), clipped to [0, 1], 0
        outside the mask, and 0 everywhere if the mask is empty or the image inside it is constant.
        Differentiable with respect to ``image``.
    """
    values = image if image.is_floating_point() else image.float()
    usable = mask.to(torch.bool).expand(values.shape)
    # Sorting with the masked pixels last serves every image of a batch at once, and has not the
    # limit on the number of elements that torch.quantile has.
    ordered = torch.where(usable, values, torch.inf).flatten(-2).sort(dim=-1).values
    count = usable.flatten(-2).sum(dim=-1, keepdim=True)
    low = _percentile(ordered, count, LOW_PERCENTILE)
    high = _percentile(ordered, count, HIGH_PERCENTILE)
    valid = (high > low) & (count > 0)
    low = torch.where(valid, low, torch.zeros_like(low))[..., None]
    span = torch.where(valid, high - low[..., 0], torch.ones_like(high))[..., None]
    scaled = ((torch.where(usable, values, low) - low) / span).clamp(0.0, 1.0)
    return torch.where(usable & valid[..., None], scaled, torch.zeros_like(scaled))


def _percentile(ordered: torch.Tensor, count: torch.Tensor, percent: float) -> torch.Tensor:
    """Interpolated percentile of the first ``count`` values, ``(..., N)`` to ``(..., 1)``."""
    position = (count - 1).clamp_min(0).to(torch.float64) * (percent / 100)
    below = position.floor().long()
    above = torch.minimum(below + 1, (count - 1).clamp_min(0))
    weight = (position - below).to(ordered.dtype)
    first, second = ordered.gather(-1, below), ordered.gather(-1, above)
    return first + weight * (second - first)


@dataclass(frozen=True)
class NetworkInput:
    """What the network sees of a pair.

    Attributes:
        image: Frontal and lateral, dense-is-high in [0, 1], 0 outside the mask, float32, shape
            ``(2, size, size)``. Row 0 is the most superior; columns run towards the patient's left
            in the frontal image and towards posterior in the lateral one.
        mask: True where a pixel is usable, shape ``(2, size, size)``.
        projection: LPS mm to (column, row) of ``image``, float64, shape ``(2, 4, 4)``.
    """

    image: torch.Tensor
    mask: torch.Tensor
    projection: torch.Tensor


def network_input(
    pair: RadiographPair, pixel_size: float = PIXEL_SIZE, size: int = SIZE
) -> NetworkInput:
    """Resample both radiographs to the canonical orientation and grid, and normalise them.

    Args:
        pair: The two radiographs.
        pixel_size: Pixel size at the isocentre, mm.
        size: Rows and columns, centred on the projected isocentre.
    """
    images, masks, matrices = [], [], []
    for radiograph in pair.radiographs:
        target = radiograph.view.canonical(pixel_size, size, radiograph.position)
        image, usable = resample_radiograph(
            radiograph.pixels, radiograph.mask, radiograph.view, target
        )
        images.append(torch.from_numpy(image))
        masks.append(torch.from_numpy(usable))
        matrices.append(torch.from_numpy(target.matrix))
    mask = torch.stack(masks)
    return NetworkInput(
        normalise_radiograph(torch.stack(images), mask), mask, torch.stack(matrices)
    )


def resample_radiograph(
    pixels: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], view: View, target: View
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Resample a radiograph to another pixel grid of the same detector plane.

    The kernel is a triangle as wide as the coarser pitch, so shrinking does not alias. Masked
    pixels have no weight; a pixel of which less than half was usable is masked.

    Args:
        pixels: Image, shape ``view.shape``.
        mask: True where usable, same shape.
        view: Geometry of ``pixels``.
        target: Geometry wanted; its pixel axes may be turned in the plane against those of
            ``view``.

    Returns:
        Image (0 where masked) and mask, both of shape ``target.shape``.
    """
    swapped = abs(float(target.column_vector @ view.column_vector)) < 0.5
    if swapped:
        pixels, mask, view = pixels.T, mask.T, view.transposed()
    layers = np.stack([np.where(mask, pixels, 0.0), mask]).astype(np.float32)
    if abs(float(target.column_vector @ view.column_vector)) < 1 - 1e-9:
        total, coverage = _turned(layers, view, target)
    else:
        total, coverage = _rescaled(layers, view, target)
    usable = coverage >= 0.5
    return np.where(usable, total / np.maximum(coverage, 0.5), 0.0).astype(np.float32), usable


def _rescaled(layers: npt.NDArray[np.float32], view: View, target: View) -> npt.NDArray[np.float32]:
    """Layers ``(N, rows, columns)`` on another grid with parallel axes."""
    corners = view.project(target.pixel_position([[0, 0], [c - 1 for c in target.shape[::-1]]]))
    columns = _kernel(corners[:, 0], target.shape[1], layers.shape[2])
    rows = _kernel(corners[:, 1], target.shape[0], layers.shape[1])
    return np.stack([rows @ (layer @ columns.T) for layer in layers])


def _turned(layers: npt.NDArray[np.float32], view: View, target: View) -> npt.NDArray[np.float32]:
    """Layers ``(N, rows, columns)`` on another grid that is turned in the plane.

    They are rescaled to half the pitch, turned there by bilinear interpolation and averaged two by
    two: all in all as smooth as the triangle of the grids that are not turned.
    """
    rows, columns = target.shape
    half = (target.spacing[0] / 2, target.spacing[1] / 2)
    fine = target.resampled(half, (2 * rows, 2 * columns), ((columns - 1) / 2, (rows - 1) / 2))
    row, column = np.meshgrid(np.arange(2 * rows), np.arange(2 * columns), indexing="ij")
    wanted = fine.pixel_position(np.stack([column, row], axis=-1))
    reach = [
        2 + int(np.ceil(np.abs((wanted - fine.centre) @ vector).max() / min(half)))
        for vector in (view.row_vector, view.column_vector)
    ]
    straight = view.resampled(
        (min(half), min(half)), (2 * reach[0] + 1, 2 * reach[1] + 1), view.project(fine.centre)
    )
    size = np.array(straight.shape[::-1])
    unit = 2 * straight.project(wanted) / (size - 1) - 1
    turned = F.grid_sample(
        torch.from_numpy(_rescaled(layers, view, straight))[None],
        torch.from_numpy(unit.astype(np.float32))[None],
        align_corners=True,
    )
    averaged: npt.NDArray[np.float32] = F.avg_pool2d(turned, 2)[0].numpy()
    return averaged


def _kernel(ends: npt.NDArray[np.float64], count: int, available: int) -> npt.NDArray[np.float32]:
    """Interpolation weights ``(count, available)`` for positions from the first end to the last.

    Rows sum to 1 inside the image and to less where the kernel reaches outside.
    """
    positions = np.linspace(ends[0], ends[1], count)
    width = max(1.0, abs(ends[1] - ends[0]) / (count - 1))
    reach = int(np.ceil(width))
    index = np.arange(-reach, available + reach)
    weights = np.maximum(0.0, 1.0 - np.abs(index - positions[:, None]) / width)
    total = weights.sum(axis=1, keepdims=True)
    inside = weights[:, reach : reach + available] / np.maximum(total, 1e-12)
    return inside.astype(np.float32)
