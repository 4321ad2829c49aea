"""Find the head in a CT and its isocentre by matching the head phantom.

The nominal head phantom is moved over the scan at 8 mm; its correlation with the measured voxels
is largest where the head is. This needs neither a complete vault nor a table-free scan, and one
Fourier transform tries all places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from spider_bundle.arrays import FloatArray
from spider_bundle.cases.resampling import block_means, covering_grid, resample
from spider_bundle.geometry import Grid
from spider_bundle.phantom import HeadPhantom

ISOCENTRE_IN_TEMPLATE: tuple[float, float, float] = (0.0, -14.4, -8.8)
"""Where the isocentre of the training heads lies in the head phantom, LPS mm.

Theirs is 25 mm anterior of the brainstem's centroid. Calibrated on the 57 training heads.
"""

_SPACING = 8.0
_VOXELS = 28
_MIN_OVERLAP = 0.3  # of the template that must be measured


@dataclass(frozen=True)
class Location:
    """Where the head is.

    Attributes:
        isocentre: LPS mm of the scan, shape ``(3,)``.
        correlation: How much the scan looks like a head there, -1 to 1.
    """

    isocentre: FloatArray
    correlation: float


def locate_head(hu: npt.NDArray[Any], measured: npt.NDArray[np.bool_], grid: Grid) -> Location:
    """Find the head of a scan.

    Args:
        hu: CT in HU, shape ``(X, Y, Z)``.
        measured: Where the CT was measured, same shape.
        grid: Its grid, LPS mm.
    """
    known, coarse = block_means(measured, grid, _SPACING)
    tones = _tones(np.asarray(hu, dtype=np.float32)) * measured
    means = block_means(tones, grid, _SPACING)[0] / np.maximum(known, 1e-3)
    aligned = covering_grid(coarse, _SPACING)
    image, weight = resample(means, known > 0.5, coarse, aligned)
    correlation = _correlate(image.astype(float), (weight > 0.5).astype(float), _template())
    best = np.unravel_index(correlation.argmax(), correlation.shape)
    # index of the template's middle in the image
    index = _refined(correlation, best) - (_VOXELS - 1) / 2
    middle = aligned.affine[:3, :3] @ index + aligned.affine[:3, 3]
    return Location(middle + np.array(ISOCENTRE_IN_TEMPLATE), float(correlation[best]))


def _tones(hu: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """HU as tones 0..1 in which skin and skull both count."""
    tones = 0.5 * np.clip((hu + 1000) / 1100, 0, 1) + 0.5 * np.clip((hu - 100) / 500, 0, 1)
    return tones.astype(np.float32, copy=False)


@lru_cache(maxsize=1)
def _template() -> FloatArray:
    hu, _ = HeadPhantom.nominal().voxelise(Grid.centred(_SPACING, _VOXELS), supersample=2)
    tones = _tones(hu.astype(np.float32)).astype(np.float64)
    tones.setflags(write=False)
    return tones


def _correlate(image: FloatArray, weight: FloatArray, template: FloatArray) -> FloatArray:
    """Correlation coefficient over the measured voxels for every shift of the template.

    Padfield's masked normalised cross-correlation (IEEE Trans. Image Process. 21, 2012).
    """
    size = [n + m - 1 for n, m in zip(image.shape, template.shape, strict=True)]
    shape = [fft.next_fast_len(n, real=True) for n in size]

    def transformed(volume: FloatArray) -> npt.NDArray[np.complex128]:
        return fft.rfftn(volume, shape)

    def back(product: npt.NDArray[np.complex128]) -> FloatArray:
        return fft.irfftn(product, shape)[tuple(slice(n) for n in size)]

    flipped = template[::-1, ::-1, ::-1]
    values, squares, known = (
        transformed(part) for part in (image * weight, image**2 * weight, weight)
    )
    mask = transformed(np.ones_like(flipped))
    pattern, pattern2 = transformed(flipped), transformed(flipped**2)
    count = np.maximum(back(known * mask), 1e-6)
    sum_i, sum_t = back(values * mask), back(known * pattern)
    covariance = back(values * pattern) - sum_i * sum_t / count
    variance_i = np.maximum(back(squares * mask) - sum_i**2 / count, 1e-3)
    variance_t = np.maximum(back(known * pattern2) - sum_t**2 / count, 1e-3)
    correlation = covariance / np.sqrt(variance_i * variance_t)
    correlation[count < _MIN_OVERLAP * template.size] = -1.0
    return correlation


def _refined(values: FloatArray, best: tuple[Any, ...]) -> FloatArray:
    """Top of the parabola through the largest value and its neighbours along each axis."""
    index = np.array(best, dtype=np.float64)
    for axis in range(3):
        if 0 < best[axis] < values.shape[axis] - 1:
            step = np.eye(3, dtype=int)[axis]
            low, high = values[tuple(best - step)], values[tuple(best + step)]
            curvature = low - 2 * values[best] + high
            if curvature < 0:
                index[axis] += np.clip(0.5 * (low - high) / curvature, -0.5, 0.5)
    return index
