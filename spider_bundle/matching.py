"""Matching of a template to an image or volume by masked normalised cross-correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from spider_bundle.arrays import FloatArray

_MIN_OVERLAP = 0.3  # of the template that must be measured


def correlate(image: FloatArray, weight: FloatArray, template: FloatArray) -> FloatArray:
    """Correlation coefficient over the measured elements for every shift of the template.

    Padfield's masked normalised cross-correlation (IEEE Trans. Image Process. 21, 2012).

    Args:
        image: Any number of axes.
        weight: 1 where it was measured, 0 elsewhere, same shape.
        template: As many axes.

    Returns:
        At index ``i`` the correlation with the template's last element at ``i`` of the image.
    """
    size = [n + m - 1 for n, m in zip(image.shape, template.shape, strict=True)]
    shape = [fft.next_fast_len(n, real=True) for n in size]

    def transformed(values: FloatArray) -> npt.NDArray[np.complex128]:
        return fft.rfftn(values, shape)

    def back(product: npt.NDArray[np.complex128]) -> FloatArray:
        return fft.irfftn(product, shape)[tuple(slice(n) for n in size)]

    flipped = np.flip(template)
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


def refined(values: FloatArray, best: tuple[Any, ...]) -> FloatArray:
    """Top of the parabola through the largest value and its neighbours along each axis."""
    index = np.array(best, dtype=np.float64)
    for axis in range(values.ndim):
        if 0 < best[axis] < values.shape[axis] - 1:
            step = np.eye(values.ndim, dtype=int)[axis]
            low, high = values[tuple(best - step)], values[tuple(best + step)]
            curvature = low - 2 * values[best] + high
            if curvature < 0:
                index[axis] += np.clip(0.5 * (low - high) / curvature, -0.5, 0.5)
    return index
