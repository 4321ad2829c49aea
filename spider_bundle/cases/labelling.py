"""Tissue labels of a head CT by thresholds and anatomy, without trained weights.

The constants are frozen: they define the reference that results are scored against.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spider_bundle.arrays import Mask
from spider_bundle.labels import Label

BODY_HU = -300.0
"""Body is denser than this."""
BONE_HU = 250.0
"""Bone is denser than this; the same threshold scores bone in reconstructions."""
AIR_HU = -400.0
"""Air inside the head is thinner than this."""
SOFT_HU = (-50.0, 150.0)
"""Range of the soft tissue through which the intracranial space may grow; not orbital fat."""
SMOOTHING_MM = 1.0
"""Gaussian sigma before thresholding; keeps labels stable under noise."""

_OPENING_MM = 4.0
_REGROWTH_MM = 2.0
_CLOSING_MM = 12.0
_CORE_MM = 8.0
_CORE_REGROWTH_MM = 8.5
_CORE_MIN_ML = 50.0
_INTRACRANIAL_OPENING_MM = 2.0
_BONE_MIN_ML = 0.2
_AIR_MIN_ML = 0.1


def label_head(hu: npt.NDArray[np.floating], spacing: Sequence[float]) -> npt.NDArray[np.uint8]:
    """Label a head CT.

    Args:
        hu: CT in HU, shape ``(X, Y, Z)``, z towards the head.
        spacing: Voxel size along the axes, mm.

    Returns:
        :class:`~spider_bundle.labels.Label` values, shape ``(X, Y, Z)``; the mandible is part of
        bone, as thresholds cannot tell them apart.
    """
    step = np.asarray(spacing, dtype=np.float64)
    voxel_ml = float(np.prod(step)) / 1000.0
    smooth = ndimage.gaussian_filter(np.asarray(hu, dtype=np.float32), SMOOTHING_MM / step)
    head = head_mask(smooth, spacing)
    bone = _without_specks(head & (smooth > BONE_HU), _BONE_MIN_ML / voxel_ml)
    air = _without_specks(head & (smooth < AIR_HU), _AIR_MIN_ML / voxel_ml)
    soft = head & ~bone & (smooth > SOFT_HU[0]) & (smooth < SOFT_HU[1])
    labels = np.full(hu.shape, Label.BACKGROUND, dtype=np.uint8)
    labels[head] = Label.SOFT_TISSUE
    labels[_intracranial(soft, bone, step, voxel_ml)] = Label.INTRACRANIAL
    labels[bone] = Label.BONE
    labels[air] = Label.INTERNAL_AIR
    return labels


def head_mask(hu: npt.NDArray[np.floating], spacing: Sequence[float]) -> Mask:
    """Head with all its cavities, without headrest and table.

    Args:
        hu: CT in HU, shape ``(X, Y, Z)``, z towards the head.
        spacing: Voxel size along the axes, mm.

    Returns:
        Mask of shape ``(X, Y, Z)``; empty if nothing is denser than air.
    """
    step = np.asarray(spacing, dtype=np.float64)
    dense = hu > BODY_HU
    body = _largest(_eroded(dense, _OPENING_MM, step))
    body = _dilated(body, _OPENING_MM, step) & dense
    body = _largest(_dilated(body, _REGROWTH_MM, step) & dense)
    pad = [(int(np.ceil(_CLOSING_MM / s)) + 1,) * 2 for s in step]
    inner = tuple(slice(p[0], -p[0]) for p in pad)
    closed = _dilated(np.pad(body, pad, mode="edge"), _CLOSING_MM, step)
    closed = (ndimage.distance_transform_edt(closed, sampling=step) > _CLOSING_MM)[inner] | body
    for index in range(closed.shape[2]):
        closed[:, :, index] = ndimage.binary_fill_holes(closed[:, :, index])
    return closed


def _intracranial(soft: Mask, bone: Mask, step: npt.NDArray[np.float64], voxel_ml: float) -> Mask:
    """Return the soft tissue around the deepest core: the brain and its surroundings."""
    depth = ndimage.distance_transform_edt(soft, sampling=step)
    parts, count = ndimage.label(depth > _CORE_MM)
    if count == 0:
        return np.zeros_like(soft)
    index = np.arange(1, count + 1)
    volume = ndimage.sum_labels(np.ones_like(depth), parts, index) * voxel_ml
    deepest = np.where(volume > _CORE_MIN_ML, ndimage.maximum(depth, parts, index), 0.0)
    if deepest.max() == 0:
        return np.zeros_like(soft)
    core = parts == 1 + int(deepest.argmax())
    grown = _dilated(core, _CORE_REGROWTH_MM, step) & soft
    opened = _dilated(
        _eroded(grown, _INTRACRANIAL_OPENING_MM, step), _INTRACRANIAL_OPENING_MM, step
    )
    return ndimage.binary_fill_holes(_largest(opened & grown)) & ~bone


def _eroded(mask: Mask, radius: float, step: npt.NDArray[np.float64]) -> Mask:
    """Erosion by a ball in mm; the border of the array does not erode."""
    padded = np.pad(mask, 1, mode="edge")
    if padded.all():
        return mask
    inner: Mask = ndimage.distance_transform_edt(padded, sampling=step) > radius
    return inner[1:-1, 1:-1, 1:-1]


def _dilated(mask: Mask, radius: float, step: npt.NDArray[np.float64]) -> Mask:
    """Dilation by a ball in mm."""
    if not mask.any():
        return mask
    outer: Mask = ndimage.distance_transform_edt(~mask, sampling=step) <= radius
    return outer


def _largest(mask: Mask) -> Mask:
    """Largest face-connected component."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: Mask = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    return largest


def _without_specks(mask: Mask, voxels: float) -> Mask:
    """Components (26-neighbourhood) of more than a number of voxels."""
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    large = np.bincount(parts.ravel()) > voxels
    large[0] = False
    kept: Mask = large[parts]
    return kept
