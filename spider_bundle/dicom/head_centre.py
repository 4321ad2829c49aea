"""Find the head in a pair of localisers: the isocentre of its reconstruction.

The analytic head, projected in parallel at a few sizes, is moved over both images; the rows are
common to both. Each image is read at the depth where the other one sees the head, so that the
perspective across the table does not move it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from spider_bundle.arrays import FloatArray
from spider_bundle.dicom.field import Image, Mask
from spider_bundle.geometry import Grid
from spider_bundle.intensity import attenuation
from spider_bundle.matching import correlate, refined
from spider_bundle.phantom import ISOCENTRE_IN_TEMPLATE, HeadPhantom
from spider_bundle.slot_view import SlotView

#: Pixels of the search, mm, and sizes of the head relative to the nominal one.
_STEP, _SIZES = 4.0, (0.85, 0.92, 1.0, 1.08)
_VOXELS = 64
_ROUNDS = 3
#: A pair of images looks at least this much like a head where the files say that it is one, and
#: where they do not. Heads reach 0.92, also cut, on a table and in noise; a trunk or legs 0.83.
MINIMUM_CORRELATION, TELLING_CORRELATION = 0.7, 0.88


@dataclass(frozen=True)
class HeadCentre:
    """Where the head is.

    Attributes:
        position: LPS mm of the views' frame, shape ``(3,)``.
        correlation: How much the images look like a head there, the mean of both, -1 to 1.
    """

    position: FloatArray
    correlation: float


def find_head(
    images: Sequence[Image], masks: Sequence[Mask], views: Sequence[SlotView]
) -> HeadCentre:
    """Find the head.

    Args:
        images: Frontal and lateral localiser, dense-is-high, any scale, shape ``view.shape``.
        masks: True where a pixel is usable, same shapes.
        views: Their geometry in one frame.
    """
    axis = np.array([views[0].source[0], views[1].source[1], 0.0])
    z = np.concatenate([_rows(view) for view in views])
    low, high = float(z.min()), float(z.max())
    centre, best = axis, -1.0
    sizes: Sequence[float] = _SIZES
    for _ in range(_ROUNDS):  # the first one finds the size too
        found = [
            (*_matched(images, masks, views, centre, (low, high), size), size) for size in sizes
        ]
        centre, best, size = max(found, key=lambda entry: entry[1])
        sizes = (size,)
    return HeadCentre(centre, best)


def _rows(view: SlotView) -> FloatArray:
    """Return LPS z of the first and the last row, mm."""
    half = (view.shape[0] - 1) / 2 * view.spacing[0]
    return np.array([view.centre[2] - half, view.centre[2] + half])


def _matched(
    images: Sequence[Image],
    masks: Sequence[Mask],
    views: Sequence[SlotView],
    centre: FloatArray,
    extent: tuple[float, float],
    size: float,
) -> tuple[FloatArray, float]:
    """Return the best place of a head of one size, given where it is across the views."""
    scores = []
    z = np.arange(extent[1], extent[0] - _STEP, -_STEP)
    for across, (image, mask, view) in enumerate(zip(images, masks, views, strict=True)):
        aside = _places(view, centre, across)
        points = np.zeros((len(z), len(aside), 3))
        points[..., 2], points[..., across] = z[:, None], aside
        points[..., 1 - across] = centre[1 - across]
        values, weight = _read(image, mask, view, points)
        scores.append((aside, correlate(values, weight, _template(across, size))))
    rows = scores[0][1].max(axis=1) + scores[1][1].max(axis=1)
    top = int(rows.argmax())
    middle = (_VOXELS - 1) / 2
    place = np.zeros(3)
    row = refined(rows, (top,))[0] - middle
    place[2] = z[0] - _STEP * row
    for across, (aside, score) in enumerate(scores):
        column = refined(score[top], (int(score[top].argmax()),))[0] - middle
        place[across] = aside[0] + _STEP * column
    return place + size * np.array(ISOCENTRE_IN_TEMPLATE), float(rows[top]) / 2


def _places(view: SlotView, centre: FloatArray, across: int) -> FloatArray:
    """Return the places along the columns that the view sees at the depth of the head, LPS mm."""
    columns = np.array([[0, 0], [view.shape[1] - 1, 0]])
    depth = (centre - view.source)[1 - across] / (view.centre - view.source)[1 - across]
    detector = view.pixel_position(columns)[:, across]
    seen = np.sort(view.source[across] + depth * (detector - view.source[across]))
    places: FloatArray = np.arange(seen[0], seen[1], _STEP)
    return places


def _read(
    image: Image, mask: Mask, view: SlotView, points: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Read an image at points ``(rows, columns, 3)``, smoothed to their distance; 0..1 weight."""
    where = np.moveaxis(view.project(points)[..., ::-1], -1, 0)
    sigma = [
        0.4 * abs(where[i].flat[-1] - where[i].flat[0]) / (where.shape[1 + i] - 1) for i in (0, 1)
    ]
    usable = mask.astype(np.float64)
    smooth = [ndimage.gaussian_filter(part, sigma) for part in (image * usable, usable)]
    total, weight = (ndimage.map_coordinates(part, where, order=1) for part in smooth)
    known = weight > 0.5
    values = np.where(known, total / np.maximum(weight, 0.5), 0.0)
    span = np.ptp(values[known]) if known.any() else 0.0
    return values / span if span > 0 else values, known.astype(np.float64)


@lru_cache(maxsize=2 * len(_SIZES))
def _template(across: int, size: float) -> FloatArray:
    """Return the head in parallel projection, rows from the top, shape ``(64, 64)``."""
    volume = _nominal()
    image = volume.sum(axis=1 - across).T[::-1]
    # RAS order: both columns run against LPS
    image = image[:, ::-1]
    middle = (_VOXELS - 1) / 2
    matrix = np.eye(2) / size
    scaled: FloatArray = ndimage.affine_transform(
        image, matrix, middle - matrix @ [middle, middle], order=1
    )
    scaled.setflags(write=False)
    return scaled


@lru_cache(maxsize=1)
def _nominal() -> FloatArray:
    """Return the attenuation of the nominal head, RAS order, 4 mm."""
    hu, _ = HeadPhantom.nominal().voxelise(Grid.centred(_STEP, _VOXELS))
    volume: FloatArray = attenuation(hu.astype(np.float64)) * _STEP
    return volume
