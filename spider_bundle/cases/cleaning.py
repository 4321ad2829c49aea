"""Remove table and headrest from a head CT."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spider_bundle.cases.labelling import SMOOTHING_MM, head_mask
from spider_bundle.geometry import Grid

OUTSIDE_HU = -1000.0
"""Air around the head."""

_SKIN_MM = 2.0  # kept around the head mask
_SKIN_VOXELS = 1.5  # at least; the skin's edge is spread over neighbouring voxels


def remove_table(
    hu: npt.NDArray[np.floating[Any]], grid: Grid
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Set everything that is not the head to air.

    The head is the largest body after opening (see :func:`~.labelling.head_mask`); a headrest
    that touches it is cut off close to the skin.

    Args:
        hu: CT in HU, shape ``(X, Y, Z)``.
        grid: Its grid.

    Returns:
        Cleaned HU, and the head with its cavities and skin, both of shape ``(X, Y, Z)``.
    """
    step = np.array(grid.spacing)
    values = np.asarray(hu, dtype=np.float32)
    head = head_mask(ndimage.gaussian_filter(values, SMOOTHING_MM / step), grid.spacing)
    if not head.any():
        return np.full_like(values, OUTSIDE_HU), head
    margin = max(_SKIN_MM, _SKIN_VOXELS * float(step.max()))
    kept = ndimage.distance_transform_edt(~head, sampling=step) <= margin
    return np.where(kept, values, np.float32(OUTSIDE_HU)), kept
