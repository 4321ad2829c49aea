"""Shaded pictures of the skin and the bones of a label map, drawn with NumPy alone."""

from __future__ import annotations

from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from spider_bundle.arrays import AnyFloatArray, FloatArray
from spider_bundle.geometry import Grid
from spider_bundle.labels import LABEL_COLOURS, Label

_LARGEST = 192
"""Voxels along an axis; of finer volumes every second, third, ... voxel is drawn."""
_HALF = 729 // 2
"""Half of what the smoothing makes of a voxel deep inside: 27 for each of two passes."""
_LIGHT = np.array([-0.35, -0.35, -0.87])
"""Unit vector to the light: above and left of the viewer (row, column, depth)."""
_AMBIENT = 0.15
_SKIN, _BEHIND = 0.45, 0.25
"""Brightness of the skin where it is seen alone, and where it lies before bone."""


def render_surfaces(labels: npt.NDArray[Any], grid: Grid) -> tuple[list[AnyFloatArray], FloatArray]:
    """Draw what is seen from in front and from the patient's left, in parallel projection.

    Args:
        labels: Values of :class:`~spider_bundle.labels.Label`, shape ``(X, Y, Z)``.
        grid: Its grid (LPS mm). A grid that is turned is drawn along its own axes.

    Returns:
        The two pictures, shape ``(rows, columns, 3)``, values 0 to 1, rows from superior to
        inferior, one pixel for each voxel about the head; and the affine of these voxels, index
        ascending in LPS to LPS mm, shape ``(4, 4)``.
    """
    turn = nibabel.orientations.io_orientation(grid.affine)  # axes as near to LPS as they are
    volume = nibabel.orientations.apply_orientation(labels, turn)
    affine = grid.affine @ nibabel.orientations.inv_ornt_aff(turn, labels.shape)
    step = -(-max(volume.shape) // _LARGEST)
    volume = volume[::step, ::step, ::step]
    # the head alone, and at least a voxel
    box = (find_objects((volume != Label.BACKGROUND).astype(np.uint8)) or [(slice(0, 1),) * 3])[0]
    volume = volume[box]
    affine = affine @ np.diag([step, step, step, 1.0])
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]
    body = _smooth(volume != Label.BACKGROUND)
    bone, mandible = _smooth(volume == Label.BONE), _smooth(volume == Label.MANDIBLE)
    pictures = []
    for axes, backwards in (((2, 0, 1), False), ((2, 1, 0), True)):
        fields = [field.transpose(axes)[::-1] for field in (body, bone, mandible)]
        if backwards:  # from the left, increasing depth is decreasing x
            fields = [field[..., ::-1] for field in fields]
        pictures.append(_picture(*fields))
    return pictures, affine


def _smooth(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Sum over 3 x 3 x 3 voxels, twice. Same shape; beyond the volume there is nothing."""
    field = np.pad(mask, 2).astype(np.uint16)
    for axis in (0, 1, 2, 0, 1, 2):
        count = field.shape[axis]
        before, here, after = (
            field[(slice(None),) * axis + (slice(first, count - 2 + first),)] for first in range(3)
        )
        field = before + here + after
    return field


def _picture(
    body: npt.NDArray[np.uint16], bone: npt.NDArray[np.uint16], mandible: npt.NDArray[np.uint16]
) -> AnyFloatArray:
    """Draw bones in their labels' colours under a translucent skin; depth is the last axis."""
    bones = bone + mandible
    skin, _ = _shaded(body)
    hard, first = _shaded(bones)
    is_jaw = np.take_along_axis(mandible, first, 2) * 2 > np.take_along_axis(bones, first, 2)
    colours = np.array([LABEL_COLOURS[Label.BONE], LABEL_COLOURS[Label.MANDIBLE]]) / 255
    tint = np.array(LABEL_COLOURS[Label.SOFT_TISSUE]) / 255
    skin_seen = np.where(hard > 0, _BEHIND, 1.0) * _SKIN * skin
    picture: AnyFloatArray = hard * colours[is_jaw[..., 0].astype(int)] + skin_seen * tint
    return picture.clip(0, 1)


def _shaded(field: npt.NDArray[np.uint16]) -> tuple[AnyFloatArray, npt.NDArray[np.intp]]:
    """Light the surface where a field first exceeds half (Lambert); its brightness and depth.

    Both have shape ``(rows, columns, 1)``; the brightness is 0 where no surface is seen.
    """
    inside = field > _HALF
    first = inside.argmax(axis=-1)[..., None]
    rows, columns = np.nonzero(inside.any(axis=-1))
    at = np.stack([rows, columns, first[rows, columns, 0]])
    limits = np.array(field.shape)[:, None] - 1
    normal = np.empty(at.shape)
    for axis in range(3):
        ahead, behind = at.copy(), at.copy()
        ahead[axis] += 1
        behind[axis] -= 1
        high = field[tuple(np.minimum(ahead, limits))].astype(float)
        normal[axis] = field[tuple(np.maximum(behind, 0))] - high  # points out of the body
    length = np.linalg.norm(normal, axis=0)
    cosine = _LIGHT @ np.divide(normal, length, out=normal, where=length > 0)
    brightness = np.zeros(first.shape)
    brightness[rows, columns, 0] = _AMBIENT + (1 - _AMBIENT) * cosine.clip(0)
    return brightness, first
