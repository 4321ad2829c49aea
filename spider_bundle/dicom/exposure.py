"""From stored pixel values to a dense-is-high image and the field in which it is usable.

Line integrals come out where DICOM says how the values relate to the intensity of the X-rays:
FOR PROCESSING and fluoroscopic images marked LIN, or with a look-up table to linear values. All
others passed an unknown monotone curve and give a tone image: polarity, edges and order are right,
densities are not. VOI windows and presentation look-up tables are for display; a window that does
not fit would saturate the image, so they are not applied.
"""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import UID

from spider_bundle.dicom.codestream import check_codestream
from spider_bundle.dicom.errors import (
    CODES,
    Code,
    Finding,
    RadiographError,
    Severity,
    finding,
)
from spider_bundle.dicom.evidence import OVERRIDE, Sourced
from spider_bundle.dicom.header import Header, quiet, transfer_syntax
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.geometry import View, orientation_vector

LINE_INTEGRAL = "line integral"
TONE = "tone"

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Direct exposure as a percentile of the intensities in the field: high enough to lie in the air
#: beside the head, low enough to ignore a few bright pixels.
DIRECT_EXPOSURE_PERCENTILE = 99.5
#: Background of a LOG image as a percentile of its dense-is-high values.
_BACKGROUND_PERCENTILE = 100.0 - DIRECT_EXPOSURE_PERCENTILE
# Statistics of the whole image are taken from about this many rows and columns.
_SAMPLE_SIZE = 512
# A blade's step: levels between the image's percentiles 1 and 99, width relative to the image.
_BLADE_LEVEL = 0.25
_BLADE_WIDTH = 0.02

#: Most vertices of a polygonal shutter or collimator, and largest coordinate of one.
_MAXIMUM_VERTICES = 1000
_MAXIMUM_COORDINATE = 1e6
#: Largest value after the modality step; float32 must hold sums and differences too.
_MAXIMUM_VALUE = 1e30

_DECODER_ATTRIBUTES = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_SURE_PLUGINS = {
    **dict.fromkeys(
        ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
        ("pylibjpeg", ("pylibjpeg", "openjpeg")),
    ),
    **dict.fromkeys(
        ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), ("pyjpegls", ("jpeg_ls",))
    ),
}
"""Plugins and their modules for JPEG 2000 and JPEG-LS.

GDCM, pydicom's first choice, ends the process on some damaged codestreams of these.
"""
_NAMES_IN_PYDICOM_2 = {"pyjpegls": "jpeg_ls"}
_CODECS = {
    "jpeg 2000": (("gdcm", "openjpeg"), "python-gdcm or pylibjpeg with pylibjpeg-openjpeg"),
    "high-throughput": (("openjpeg",), "pylibjpeg with pylibjpeg-openjpeg"),
    "jpeg-ls": (("gdcm", "jpeg_ls"), "python-gdcm or pyjpegls"),
    "jpeg": (("gdcm",), "python-gdcm"),
}


@dataclass
class Exposure:
    """A decoded radiograph.

    Attributes:
        pixels: Dense-is-high values, shape ``(rows, columns)``.
        mask: True where a pixel is usable, same shape.
        quantity: :data:`LINE_INTEGRAL` or :data:`TONE`.
        provenance: Sources of quantity and polarity.
        findings: What was found.
        conventions_disagree: Whether the polarity is not that of bones shown white.
    """

    pixels: Image
    mask: Mask
    quantity: str
    provenance: dict[str, Sourced]
    findings: list[Finding]
    conventions_disagree: bool


def expose(dataset: pydicom.Dataset, header: Header, overrides: Overrides, role: str) -> Exposure:
    """Decode a frame and convert it (knowledge: DICOM C.8.11.3.1.2 and C.8.7.1.1).

    Args:
        dataset: The data set with its pixel data.
        header: Look-up for the frame.
        overrides: Statements of the operator.
        role: Role for findings.

    Raises:
        RadiographError: E02 if it cannot be decoded, E16 if the values are no image.
    """
    stored = _stored_values(dataset, header, role)
    field, found = _declared_field(header, stored, overrides, role)
    values, decreasing = _modality_values(header, stored)
    if not np.abs(values).max() < _MAXIMUM_VALUE:
        message = "the modality step leaves the range of numbers"
        raise RadiographError([finding(Code.E16, role, message, attribute="RescaleSlope")])
    dense_high, source = _polarity(header, overrides, decreasing)
    shown = f"high values {'dense' if dense_high else 'transparent'}"
    polarity: Sourced = {"value": shown, "source": source}
    dense = values if dense_high else -values
    mask = _without_blades(dense, _without_constant_margins(dense, field))
    _check_values(stored, values, mask, role)
    pixels, quantity = _line_integrals(header, values, dense, mask, overrides)
    if not header.text("PixelIntensityRelationship"):
        found.append(finding(Code.E15, role))
    name = str(quantity["value"])
    white_high = header.text("PhotometricInterpretation") != "MONOCHROME1"
    disagree = source != OVERRIDE and dense_high != white_high
    return Exposure(
        pixels, mask, name, {"quantity": quantity, "polarity": polarity}, found, disagree
    )


def _stored_values(dataset: pydicom.Dataset, header: Header, role: str) -> npt.NDArray[np.int64]:
    """Decode the frame and keep the stored bits only. Shape ``(rows, columns)``."""
    try:
        with quiet():
            array = np.asarray(_decode(dataset, header.frame, header.frames))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the panic of a decoder written in Rust is no Exception
        raise RadiographError(
            [finding(Code.E02, role, _decoding_message(dataset, error))]
        ) from None
    if array.shape != (int(header.number("Rows") or 0), int(header.number("Columns") or 0)):
        message = "the pixel data do not have the declared size"
        raise RadiographError([finding(Code.E02, role, message, attribute="Rows")])
    if not np.issubdtype(array.dtype, np.integer):
        message = "the pixel data are not integers"
        raise RadiographError([finding(Code.E16, role, message)])
    bits = int(header.number("BitsStored") or 8 * array.itemsize)
    if bits < 1:
        message = f"{bits} bits stored"
        raise RadiographError([finding(Code.E16, role, message, attribute="BitsStored")])
    if not np.issubdtype(array.dtype, np.signedinteger) and bits < 8 * array.itemsize:
        # Old files keep overlays in the unused high bits.
        high = header.number("HighBit")
        top = 8 * array.itemsize - 1
        shift = int(high) + 1 - bits if high is not None and bits <= high + 1 <= top + 1 else 0
        array = (array >> shift) & ((1 << bits) - 1)
    return array


def _decode(dataset: pydicom.Dataset, frame: int, frames: int) -> npt.NDArray[np.generic]:
    """The frame's array with pydicom 2.4 or 3."""
    for keyword in _DECODER_ATTRIBUTES:
        # pydicom quotes a value that it does not like, and the text of a sequence can be endless
        if isinstance(dataset.get(keyword), pydicom.Sequence):
            raise ValueError(f"{keyword} is a sequence")
    syntax = transfer_syntax(dataset.file_meta)
    if syntax == _JPEG_EXTENDED and dataset.get("BitsAllocated", 8) > 8:
        # pydicom 2.4 lets GDCM try, although GDCM does not support it.
        raise NotImplementedError
    _check_encoded(dataset, syntax, frame, frames)
    plugin = _decoding_plugin(syntax)
    try:
        from pydicom.pixels import pixel_array
    except ImportError:
        if plugin:
            dataset.convert_pixel_data(_NAMES_IN_PYDICOM_2.get(plugin, plugin))
        array = dataset.pixel_array
        return array[frame] if frames > 1 else array
    decoded: npt.NDArray[np.generic] = pixel_array(dataset, index=frame, decoding_plugin=plugin)
    return decoded


def _decoding_plugin(syntax: str) -> str:
    """The one plugin that may decode a syntax; none where pydicom may choose."""
    plugin, modules = _SURE_PLUGINS.get(syntax, ("", ()))
    return plugin if all(importlib.util.find_spec(name) for name in modules) else ""


def _check_encoded(dataset: pydicom.Dataset, syntax: str, frame: int, frames: int) -> None:
    """Look at the codestream of a compressed frame before a decoder believes it.

    Raises:
        ValueError: It is not of the declared size.
    """
    if not UID(syntax).is_encapsulated:
        return
    try:
        from pydicom.encaps import get_frame
    except ImportError:
        from pydicom.encaps import generate_pixel_data_frame

        frames_before = generate_pixel_data_frame(dataset.PixelData, frames)
        encoded = next(itertools.islice(frames_before, frame, None))
    else:
        encoded = get_frame(dataset.PixelData, frame, number_of_frames=frames)
    size = (int(dataset[keyword].value) for keyword in ("Rows", "Columns", "BitsAllocated"))
    check_codestream(encoded, syntax, *size)


def _decoding_message(dataset: pydicom.Dataset, error: BaseException) -> str:
    with quiet():
        syntax = UID(transfer_syntax(dataset.file_meta))
        # The name of a UID that pydicom does not know is the UID itself.
        name = "" if syntax.name == syntax else syntax.name
    for word, (modules, packages) in _CODECS.items():
        if word in name.lower():
            if any(importlib.util.find_spec(module) for module in modules):
                return f"{name}: damaged, or a variant that the installed plugins do not support"
            return f"{name}: needs the plugin {packages}"
    return f"{name or 'unknown transfer syntax'}: decoding failed ({type(error).__name__})"


def _modality_values(header: Header, stored: npt.NDArray[np.int64]) -> tuple[Image, bool]:
    """Apply the modality step (DICOM C.11.1); a look-up table wins over rescaling.

    Returns:
        Values, and whether they decrease with the stored ones.
    """
    luts = header.items("ModalityLUTSequence") or [
        item
        for item in header.items("PixelIntensityRelationshipLUTSequence")
        if Header(item).text("LUTFunction") == "TO_LINEAR"
    ]
    if luts:
        table, first = _lut(luts[0])
        if table.size:
            index = np.clip(stored.astype(np.int64) - first, 0, table.size - 1)
            return table[index], bool(table[-1] < table[0])
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    values = stored.astype(np.float32)
    # DX allows identity only, and a slope of zero is no rescaling at all.
    if header.kind == "DX" or not slope:
        return values, False
    return values * np.float32(slope) + np.float32(intercept or 0.0), slope < 0


def _lut(item: pydicom.Dataset) -> tuple[Image, int]:
    """Entries of a LUT item and the stored value of the first; no entries if malformed."""
    header = Header(item)
    descriptor = header.numbers("LUTDescriptor")
    data = header.value("LUTData")
    nothing = np.zeros(0, np.float32), 0
    if len(descriptor) != 3 or data is None:
        return nothing
    count, first = int(descriptor[0]) or 65536, int(descriptor[1])
    if not 0 < count <= 65536 or abs(first) > 65536:
        return nothing
    try:
        if isinstance(data, bytes):
            table = np.frombuffer(data, np.uint8 if len(data) == count else np.dtype("<u2"))
        else:
            table = np.asarray(data).reshape(-1)
        return table[:count].astype(np.float32), first
    except (TypeError, ValueError, OverflowError):  # text, an odd number of bytes, a sequence
        return nothing


def _has_linear_lut(header: Header) -> bool:
    """Whether the modality step gives values proportional to the intensity."""
    to_linear = any(
        Header(item).text("LUTFunction") == "TO_LINEAR"
        for item in header.items("PixelIntensityRelationshipLUTSequence")
    )
    # XA and XRF: a LOG image's modality LUT leads back to linear values (C.8.7.1.1.2).
    x_ray = header.kind in ("XA", "XRF") and header.text("PixelIntensityRelationship") == "LOG"
    return to_linear or (x_ray and bool(header.items("ModalityLUTSequence")))


def _polarity(header: Header, overrides: Overrides, decreasing: bool) -> tuple[bool, str]:
    """Whether high values after the modality step are dense, and what says so."""
    sign = header.number("PixelIntensityRelationshipSign")
    if overrides.dense_is_high is not None:
        dense_high, source = overrides.dense_is_high, OVERRIDE
    elif _has_linear_lut(header):
        dense_high, source = False, "look-up table to linear values"
    elif sign in (1.0, -1.0):
        # The sign speaks of stored values.
        dense_high, source = (sign == -1.0) != decreasing, "PixelIntensityRelationshipSign"
    elif header.kind in ("XA", "XRF") and header.text("PixelIntensityRelationship") == "LIN":
        dense_high, source = False, "PixelIntensityRelationship"
    else:
        # Bones are shown white by convention; the border check guards it.
        dense_high = header.text("PhotometricInterpretation") != "MONOCHROME1"
        source = "PhotometricInterpretation"
    return dense_high, source


def _line_integrals(
    header: Header, values: Image, dense: Image, mask: Mask, overrides: Overrides
) -> tuple[Image, Sourced]:
    """Line integrals where the header allows them, otherwise the dense-is-high values as they are.

    The direct exposure beside the head gives I0. Where the field lies inside the head there is
    none, and all line integrals are too low by the same amount.
    """
    relation = header.text("PixelIntensityRelationship")
    film = header.text("DetectorType") == "FILM" or header.text("ConversionType") == "DF"
    physical = header.for_processing or header.kind in ("XA", "XRF", "Enhanced XA", "Enhanced XRF")
    tone: Sourced = {"value": TONE, "source": "no linear or logarithmic relationship"}
    if film or not physical:
        what = "scanned film" if film else f"{header.kind} as displayed"
        tone["source"] = f"{what}: an unknown tone curve was applied"
    elif _has_linear_lut(header) or relation == "LIN":
        stated = relation if relation in ("LIN", "LOG") else "look-up table to linear values"
        source = f"PixelIntensityRelationship {stated}"
        intensity = values
        if dense is values:
            # The offset of an inverted image is not in the file; the largest value is usual.
            intensity = np.float32(2 ** int(header.number("BitsStored") or 16) - 1) - values
            source += ", inverted about the largest stored value"
        direct = _percentile(intensity, mask, DIRECT_EXPOSURE_PERCENTILE)
        if direct > 0:
            # Half a step of the quantisation keeps the logarithm of dark pixels finite.
            floor = direct * 2.0 ** -(int(header.number("BitsStored") or 16) + 1)
            integrals = -np.log(np.maximum(intensity, floor) / direct)
            return integrals.astype(np.float32), {"value": LINE_INTEGRAL, "source": source}
    elif relation == "LOG":
        if overrides.log_scale is not None and overrides.log_scale > 0:
            background = _percentile(dense, mask, _BACKGROUND_PERCENTILE)
            integrals = (dense - background) / overrides.log_scale
            scale = f"{overrides.log_scale:g} per unit: override"
            source = f"PixelIntensityRelationship LOG, {scale}"
            return integrals.astype(np.float32), {"value": LINE_INTEGRAL, "source": source}
        tone["source"] = "PixelIntensityRelationship LOG of unknown scale"
    return dense, tone


def _percentile(values: Image, mask: Mask, percent: float) -> float:
    """Percentile of the usable values."""
    return float(np.percentile(_sample(values, mask), percent))


_Number = TypeVar("_Number", bound=np.generic)


def _sample(values: npt.NDArray[_Number], mask: Mask) -> npt.NDArray[_Number]:
    """Usable values of a regular sample of the image, shape ``(N,)``."""
    step = tuple(slice(None, None, max(1, n // _SAMPLE_SIZE)) for n in values.shape)
    chosen = values[step][mask[step]]
    return chosen if chosen.size else values[mask]


def _declared_field(
    header: Header, stored: npt.NDArray[np.int64], overrides: Overrides, role: str
) -> tuple[Mask, list[Finding]]:
    """Usable field from shutter, collimator, padding and mask boxes."""
    field = np.ones(stored.shape, dtype=np.bool_)
    found = []
    least = CODES[Code.E18].limits["minimum_field_fraction"]
    for device in ("Shutter", "Collimator"):
        inside = _device_field(header, device, stored.shape)
        if inside.mean() < least:
            # Some systems write millimetres about the middle in place of pixels.
            message = f"the declared {device.lower()} leaves no plausible field and is ignored"
            attribute = f"{device}Shape"
            found.append(finding(Code.E18, role, message, attribute=attribute))
        else:
            field &= inside
    padding = header.number("PixelPaddingValue")
    if padding is not None:
        limit = header.number("PixelPaddingRangeLimit")
        low, high = sorted((padding, padding if limit is None else limit))
        field &= (stored < low) | (stored > high)
    for top, left, bottom, right in overrides.mask_boxes:
        field[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = False
    return field, found


def _device_field(header: Header, device: str, shape: tuple[int, ...]) -> Mask:
    """Field inside a shutter (DICOM C.7.6.11) or a collimator (C.8.7.3)."""
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
    """Even-odd rule over ``(row, column)`` vertices, which count from 1; nothing if implausible.

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


def _without_constant_margins(dense: Image, field: Mask) -> Mask:
    """Leave out margins of one value: unexposed, blanked or outside the film.

    A margin whose value goes on in the line next to it is saturated air and stays.
    """
    mask = field.copy()
    edges = [0, dense.shape[0], 0, dense.shape[1]]
    moved = True
    while moved and edges[0] < edges[1] and edges[2] < edges[3]:
        moved = False
        inner = dense[edges[0] : edges[1], edges[2] : edges[3]]
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
    """Number of leading rows that all hold the first one's single value, 0 if it is real air."""
    value = lines[0, 0]
    count = 0
    while count < len(lines) and (lines[count] == value).all():
        count += 1
    goes_on = count < len(lines) and (lines[count] == value).mean() > 0.5
    return 0 if goes_on else count


def _without_blades(dense: Image, mask: Mask) -> Mask:
    """Leave out what lies behind undeclared blades and film edges.

    A blade is a straight step along a whole side, from dense outside to transparent inside. The
    outline of a head is round, so its lines do not change all at once.
    """
    if not mask.any():
        return mask
    low, high = _percentile(dense, mask, 1.0), _percentile(dense, mask, 99.0)
    if high <= low:
        return mask
    kept = mask.copy()
    scaled = (dense - low) / (high - low)
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
    """Percentiles of each line, NaN left out: ``(lines, N)`` to ``(percents, lines)``.

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
    """Number of leading lines behind a blade.

    Args:
        most: 10th percentile of each line.
        half: Median of each line.
    """
    width = max(1, round(_BLADE_WIDTH * len(most)))
    outside = most[: len(most) // 2] > 1 - _BLADE_LEVEL
    count = int(outside.argmin()) if not outside.all() else 0
    return count if count and half[count : count + width + 1].min() < _BLADE_LEVEL else 0


def _check_values(stored: npt.NDArray[np.int64], values: Image, mask: Mask, role: str) -> None:
    """E16: constant or saturated images, as stored or after the modality step."""
    limits = CODES[Code.E16].limits
    message = ""
    if not mask.any():
        message = "no usable pixel: the image is constant or fully masked"
    else:
        different, counts = np.unique(_sample(stored, mask), return_counts=True)
        extremes = (counts[0] + counts[-1]) / counts.sum()
        least = min(len(different), len(np.unique(_sample(values, mask))))
        if least < limits["minimum_distinct_values"]:
            message = f"only {least} distinct values"
        elif extremes > limits["maximum_saturated_fraction"]:
            message = f"{100 * extremes:.0f} % of the pixels are saturated"
    if message:
        raise RadiographError([finding(Code.E16, role, message)])


_SIDES = ("top", "bottom", "left", "right")


def border_findings(
    exposure: Exposure, view: View | None, role: str, overrides: Overrides
) -> list[Finding]:
    """Check polarity at the border (E24) and what the field cuts (E18).

    Air beside the head must come out transparent. With no air at any border nothing can be said.

    Args:
        exposure: The decoded radiograph.
        view: Its view, if known.
        role: Role for findings.
        overrides: A stated polarity turns a contradiction into a warning.
    """
    found = []
    strips = _border_strips(exposure)
    air = {side: _air(strips[side]) for side in _SIDES}
    transparent = [side for side in _SIDES if air[side] == "transparent"]
    dense = [side for side in _SIDES if air[side] == "dense"]
    if not transparent and len(dense) >= CODES[Code.E24].limits["contradicting_sides"]:
        message = f"the densest values lie along the {' and '.join(dense)} border"
        stated = overrides.dense_is_high is not None
        found.append(
            finding(Code.E24, role, message, severity=Severity.WARNING if stated else None)
        )
    elif not transparent and exposure.conventions_disagree:
        message = "the sign of the pixel intensity would show bones black, and no air can decide"
        found.append(finding(Code.E24, role, message, severity=Severity.WARNING))
    if view is None:
        return found
    limits = CODES[Code.E18].limits
    radius = limits["isocentre_radius_mm"] * view.magnification
    centre = view.project(np.zeros(3))
    rows, columns = (np.arange(n) for n in view.shape)
    distance = np.hypot(
        (rows[:, None] - centre[1]) * view.spacing[0], (columns - centre[0]) * view.spacing[1]
    )
    near = exposure.mask[distance < radius]
    expected = np.pi * radius**2 / (view.spacing[0] * view.spacing[1])
    if near.sum() < limits["isocentre_usable_fraction"] * expected:
        message = "the surroundings of the isocentre are outside the exposed field"
        found.append(finding(Code.E18, role, message, severity=Severity.ERROR))
    # The neck always leaves the image at the bottom.
    inferior = orientation_vector("F")
    outward = dict(
        zip(
            _SIDES,
            (-view.row_vector, view.row_vector, -view.column_vector, view.column_vector),
            strict=True,
        )
    )
    cut = [
        _direction_name(outward[side])
        for side in _SIDES
        if outward[side] @ inferior < 0.5
        and strips[side].size
        and (strips[side] > 0.5).mean() > limits["edge_fraction"]
    ]
    if cut and not any(f.code is Code.E24 for f in found):
        found.append(finding(Code.E18, role, f"the head may be cut: {', '.join(cut)}"))
    return found


def _air(strip: Image) -> str:
    """Whether a strip is flat and extreme as air is, and at which end; empty if it is not."""
    limits = CODES[Code.E24].limits
    if not strip.size:
        return ""
    low, middle, high = np.percentile(strip, (25, 50, 75))
    if high - low > limits["air_spread"]:
        return ""
    if middle < limits["air_level"]:
        return "transparent"
    return "dense" if middle > 1 - limits["air_level"] else ""


def _direction_name(vector: npt.NDArray[np.float64]) -> str:
    names = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))
    axis = int(np.abs(vector).argmax())
    return names[axis][int(vector[axis] > 0)]


def _border_strips(exposure: Exposure) -> dict[str, Image]:
    """Usable values along each side of the field, 0 and 1 at the image's percentiles 1 and 99.

    The outermost strip is left out: blades, film edges and identification sit there.
    """
    low = _percentile(exposure.pixels, exposure.mask, 1.0)
    high = _percentile(exposure.pixels, exposure.mask, 99.0)
    rows = np.flatnonzero(exposure.mask.any(axis=1))
    columns = np.flatnonzero(exposure.mask.any(axis=0))
    inner = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    scaled = (exposure.pixels[inner] - low) / max(high - low, 1e-12)
    usable = exposure.mask[inner]
    fraction = CODES[Code.E24].limits["strip_fraction"]
    strips = {}
    for side, values, keep in (
        ("top", scaled, usable),
        ("bottom", scaled[::-1], usable[::-1]),
        ("left", scaled.T, usable.T),
        ("right", scaled.T[::-1], usable.T[::-1]),
    ):
        width = max(1, round(fraction * len(values)))
        strip = slice(width, 2 * width)
        strips[side] = values[strip][keep[strip]]
    return strips
