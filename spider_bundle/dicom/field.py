"""Find the field of a radiograph in which its pixels are usable.

The file may declare it (shutter, collimator, padding); undeclared blades, film edges and blanked
margins are found in the pixels. The numbers of the latter were tuned together on radiographs of
several makes: a margin of one value, and a step along a whole side, which no head makes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from spider_bundle.dicom.decode import StoredPixels, padding
from spider_bundle.dicom.header import Header
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.errors import Code, Finding, finding

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Share of the pixels that a declared field must leave.
MINIMUM_FIELD = 0.05
# Statistics of the whole image are taken from about this many rows and columns.
_SAMPLE_SIZE = 512
# A blade's step: levels between the image's percentiles 1 and 99, width relative to the image.
_BLADE_LEVEL = 0.25
_BLADE_WIDTH = 0.02
#: Most vertices of a polygonal shutter or collimator, and largest coordinate of one.
_MAXIMUM_VERTICES = 1000
_MAXIMUM_COORDINATE = 1e6


def declared_field(
    header: Header, stored: StoredPixels, overrides: Overrides, role: str
) -> tuple[Mask, list[Finding]]:
    """Return the field that shutter, collimator, padding and mask boxes leave, and E18.

    Args:
        header: Look-up for the frame.
        stored: Stored values.
        overrides: Its mask boxes.
        role: Role for findings.

    Raises:
        SpiderError: E31, the padding is malformed.
    """
    shape = stored.values.shape
    field = np.ones(shape, dtype=np.bool_)
    found = []
    for device in ("Shutter", "Collimator"):
        inside = _device_field(header, device, shape)
        if inside.mean() < MINIMUM_FIELD:
            # Some systems write millimetres about the middle in place of pixels.
            message = f"the declared {device.lower()} leaves no plausible field and is ignored"
            attribute = f"{device}Shape"
            found.append(finding(Code.FIELD_CUTS_HEAD, role, message, attribute=attribute))
        else:
            field &= inside
    limits = padding(header, role)
    if limits is not None:
        field &= ~stored.between(*limits)
    for top, left, bottom, right in overrides.mask_boxes:
        field[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = False
    return field, found


def _device_field(header: Header, device: str, shape: tuple[int, ...]) -> Mask:
    """Return the field inside a shutter (DICOM C.7.6.11) or a collimator (C.8.7.3)."""
    row = np.arange(1, shape[0] + 1)[:, None]
    column = np.arange(1, shape[1] + 1)[None, :]
    field = np.ones(shape, dtype=np.bool_)
    shapes = header.texts(f"{device}Shape")
    if "RECTANGULAR" in shapes:
        top, bottom, left, right = (
            header.number(f"{device}{edge}")
            for edge in (
                "UpperHorizontalEdge",
                "LowerHorizontalEdge",
                "LeftVerticalEdge",
                "RightVerticalEdge",
            )
        )
        if top is not None and bottom is not None:
            field &= (row >= top) & (row <= bottom)
        if left is not None and right is not None:
            field &= (column >= left) & (column <= right)
    if "CIRCULAR" in shapes:
        centre = header.numbers(f"CenterOfCircular{device}")
        radius = header.number(f"RadiusOfCircular{device}")
        if len(centre) == 2 and radius:
            field &= np.hypot(row - centre[0], column - centre[1]) <= abs(radius)
    if "POLYGONAL" in shapes:
        vertices = np.array(header.numbers(f"VerticesOfThePolygonal{device}"))
        if vertices.size >= 6 and vertices.size % 2 == 0:
            field &= _inside_polygon(shape, vertices.reshape(-1, 2))
    return field


def _inside_polygon(shape: tuple[int, ...], vertices: npt.NDArray[np.float64]) -> Mask:
    """Return what is inside vertices ``(row, column)``, from 1; nothing if implausible (even-odd).

    Time grows with vertices times rows and with the pixels, not with vertices times pixels.
    """
    # ends[r, n]: whether an odd number of edges ends row r's run of its first n columns.
    ends = np.zeros((shape[0], shape[1] + 1), dtype=np.bool_)
    if len(vertices) <= _MAXIMUM_VERTICES and np.abs(vertices).max() <= _MAXIMUM_COORDINATE:
        row = np.arange(1, shape[0] + 1)
        for (r0, c0), (r1, c1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
            crossed = np.flatnonzero((row >= r0) != (row >= r1))
            if crossed.size:
                column = c0 + (row[crossed] - r0) * (c1 - c0) / (r1 - r0)
                left = np.clip(np.ceil(column) - 1, 0, shape[1]).astype(np.int64)
                ends[crossed, left] ^= True
    inside: Mask = np.logical_xor.accumulate(ends[:, :0:-1], axis=1)[:, ::-1]
    return inside


def without_constant_margins(attenuation: Image, field: Mask) -> Mask:
    """Leave out margins of one value: unexposed, blanked or outside the film.

    A margin whose value goes on in the line next to it is saturated air and stays.
    """
    mask = field.copy()
    edges = [0, attenuation.shape[0], 0, attenuation.shape[1]]
    moved = True
    while moved and edges[0] < edges[1] and edges[2] < edges[3]:
        moved = False
        inner = attenuation[edges[0] : edges[1], edges[2] : edges[3]]
        for side, lines in enumerate((inner, inner[::-1], inner.T, inner.T[::-1])):
            count = _constant_lines(lines)
            if count:
                edges[side] += count if side % 2 == 0 else -count
                moved = True
                break
    mask[: edges[0]] = mask[edges[1] :] = False
    mask[:, : edges[2]] = mask[:, edges[3] :] = False
    return mask


def _constant_lines(lines: Image) -> int:
    """Return the number of leading rows of the first one's single value, 0 if it is real air."""
    value = lines[0, 0]
    count = 0
    while count < len(lines) and (lines[count] == value).all():
        count += 1
    goes_on = count < len(lines) and (lines[count] == value).mean() > 0.5
    return 0 if goes_on else count


def without_blades(attenuation: Image, mask: Mask) -> Mask:
    """Leave out what lies behind undeclared blades and film edges.

    A blade is a straight step along a whole side, from dense outside to transparent inside. The
    outline of a head is round, so its lines do not change all at once.
    """
    if not mask.any():
        return mask
    low, high = percentile(attenuation, mask, 1.0), percentile(attenuation, mask, 99.0)
    if high <= low:
        return mask
    kept = mask.copy()
    scaled = (attenuation - low) / (high - low)
    for axis in (0, 1):
        lines = scaled if axis == 0 else scaled.T
        usable = mask if axis == 0 else mask.T
        step = max(1, lines.shape[1] // _SAMPLE_SIZE)
        sampled = np.where(usable[:, ::step], lines[:, ::step], np.nan)
        present = np.flatnonzero(usable[:, ::step].any(axis=1))
        if not present.size:
            continue
        most, half = _line_percentiles(sampled[present], (10.0, 50.0))
        target = kept if axis == 0 else kept.T
        target[present[: _blade(most, half)]] = False
        target[present[len(present) - _blade(most[::-1], half[::-1]) :]] = False
    return kept


def _line_percentiles(
    lines: npt.NDArray[np.floating[Any]], percents: tuple[float, ...]
) -> npt.NDArray[np.float64]:
    """Return percentiles of each line, NaN left out: ``(lines, N)`` to ``(percents, lines)``.

    As ``np.nanpercentile``, which takes the lines one by one.
    """
    ordered = np.sort(lines, axis=1)  # NaN last
    last = (~np.isnan(lines)).sum(axis=1) - 1
    positions = np.multiply.outer(np.asarray(percents) / 100.0, last)
    below = np.floor(positions).astype(np.intp)
    each = np.arange(len(lines))
    low = ordered[each, below].astype(np.float64)
    high = ordered[each, np.minimum(below + 1, last)]
    return low + (positions - below) * (high - low)


def _blade(most: npt.NDArray[np.float64], half: npt.NDArray[np.float64]) -> int:
    """Return the number of leading lines behind a blade.

    Args:
        most: 10th percentile of each line.
        half: Median of each line.
    """
    width = max(1, round(_BLADE_WIDTH * len(most)))
    outside = most[: len(most) // 2] > 1 - _BLADE_LEVEL
    count = int(outside.argmin()) if not outside.all() else 0
    return count if count and half[count : count + width + 1].min() < _BLADE_LEVEL else 0


def percentile(values: Image, mask: Mask, percent: float) -> float:
    """Return a percentile of the usable values."""
    return float(np.percentile(sample(values, mask), percent))


_Number = TypeVar("_Number", bound=np.generic)


def sample(values: npt.NDArray[_Number], mask: Mask) -> npt.NDArray[_Number]:
    """Return the usable values of a regular sample of the image, shape ``(N,)``."""
    step = tuple(slice(None, None, max(1, n // _SAMPLE_SIZE)) for n in values.shape)
    chosen = values[step][mask[step]]
    return chosen if chosen.size else values[mask]
