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

from spider_bundle.arrays import FloatArray
from spider_bundle.cases.resampling import block_means, covering_grid, resample
from spider_bundle.geometry import Grid
from spider_bundle.matching import correlate, refined
from spider_bundle.phantom import ISOCENTRE_IN_TEMPLATE as ISOCENTRE_IN_TEMPLATE
from spider_bundle.phantom import HeadPhantom

_SPACING = 8.0
_VOXELS = 28


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
    correlation = correlate(image.astype(float), (weight > 0.5).astype(float), _template())
    best = np.unravel_index(correlation.argmax(), correlation.shape)
    # index of the template's middle in the image
    index = refined(correlation, best) - (_VOXELS - 1) / 2
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
