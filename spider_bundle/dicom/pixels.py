"""Decode a radiograph and convert stored values to attenuation, high where tissue is dense.

Line integrals come out where DICOM says how the values relate to the intensity of the X-rays:
FOR PROCESSING and fluoroscopic images marked LIN, or with a look-up table to linear values. All
others passed an unknown monotone curve and give a tone image: polarity, edges and order are right,
densities are not. VOI windows and presentation look-up tables are for display; a window that does
not fit would saturate the image, so they are not applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from spider_bundle.dicom.decode import StoredPixels, contradiction, stored_pixels
from spider_bundle.dicom.field import (
    Image,
    Mask,
    declared_field,
    percentile,
    sample,
    without_blades,
    without_constant_margins,
)
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.header import Header
from spider_bundle.dicom.likeness import check_likeness
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.provenance import OVERRIDE, ProvenancedValue, provenanced_value
from spider_bundle.errors import Code, Finding, SpiderError, finding

LINE_INTEGRAL = "line integral"
TONE = "tone"

#: Direct exposure as a percentile of the intensities in the field: high enough to lie in the air
#: beside the head, low enough to ignore a few bright pixels.
DIRECT_EXPOSURE_PERCENTILE = 99.5
#: Background of a LOG image as a percentile of its attenuation.
_BACKGROUND_PERCENTILE = 100.0 - DIRECT_EXPOSURE_PERCENTILE
#: Fewest distinct values of an image, and largest share of pixels at its two extremes.
MINIMUM_DISTINCT_VALUES, MAXIMUM_SATURATED = 16, 0.9
#: Largest share of negative intensities, and least line integral of the densest part of a head,
#: which may fill the field.
MAXIMUM_NEGATIVE, MINIMUM_INTEGRAL = 0.01, 0.3
#: Largest value after the modality step; float32 must hold sums and differences too.
_MAXIMUM_VALUE = 1e30


@dataclass(frozen=True)
class PixelData:
    """A decoded radiograph.

    Attributes:
        pixels: Line integrals or tones, high where dense, shape ``(rows, columns)``.
        mask: True where a pixel is usable, same shape.
        quantity: :data:`LINE_INTEGRAL` or :data:`TONE`.
        provenance: Sources of quantity and polarity.
        findings: What was found.
        contradicting: Attributes that say the opposite of the polarity taken.
    """

    pixels: Image
    mask: Mask
    quantity: str
    provenance: Mapping[str, ProvenancedValue]
    findings: tuple[Finding, ...]
    contradicting: tuple[str, ...]


def load_pixels(dataset: pydicom.Dataset, film: Film, overrides: Overrides, role: str) -> PixelData:
    """Decode a frame and convert it (knowledge: DICOM C.8.11.3.1.2 and C.8.7.1.1).

    Args:
        dataset: The data set with its pixel data.
        film: The film, with the values of the frame wanted.
        overrides: Overrides of this radiograph.
        role: Role for findings.

    Raises:
        SpiderError: E02 if it cannot be decoded, E16 if the values are no image, E31 if the header
            contradicts them.
    """
    header = Header(dataset, film.frame)
    stored = stored_pixels(dataset, header, role)
    field, found = declared_field(header, stored, overrides, role)
    values, decreasing = _modality_values(film, header, stored, role)
    if not np.abs(values).max() < _MAXIMUM_VALUE:
        message = "the modality step leaves the range of numbers"
        raise _invalid(role, message, "RescaleSlope")
    dense_high, source, contradicting = _polarity(film, header, overrides, stored, decreasing, role)
    shown = f"high values {'dense' if dense_high else 'transparent'}"
    attenuation = values if dense_high else -values
    mask = without_blades(attenuation, without_constant_margins(attenuation, field))
    _check_values(stored.values, values, mask, role)
    check_likeness(stored, role)
    pixels, quantity, why = _line_integrals(
        film, header, values, attenuation, mask, overrides, stored, role
    )
    if film.ct is None and not header.text("PixelIntensityRelationship"):
        found.append(finding(Code.UNKNOWN_INTENSITY_RELATIONSHIP, role))
    provenance = {
        "quantity": provenanced_value("quantity", quantity, why),
        "polarity": provenanced_value("polarity", shown, source),
    }
    return PixelData(pixels, mask, quantity, provenance, tuple(found), contradicting)


def _modality_values(
    film: Film, header: Header, stored: StoredPixels, role: str
) -> tuple[Image, bool]:
    """Apply the modality step (DICOM C.11.1); a look-up table wins over rescaling.

    Returns:
        Values, and whether they decrease with the stored ones.

    Raises:
        SpiderError: E31, a look-up table is damaged, or a DX image is rescaled (PS3.3 C.8.11.3
            allows slope 1 and intercept 0 only) and it makes a difference.
    """
    tables = _tables(header, "ModalityLUTSequence") or _linear_tables(header)
    if tables:
        lut = _lut(tables[0], stored)
        steps = None if lut is None else np.diff(lut[0])
        if lut is None or steps is None or not ((steps >= 0).all() or (steps <= 0).all()):
            message = "the look-up table is damaged: it is not what its descriptor says"
            raise contradiction(role, message, "ModalityLUTSequence")
        table, first = lut
        index = np.clip(stored.values.astype(np.int64) - first, 0, table.size - 1)
        return table[index], bool(table[-1] < table[0])
    slope, intercept = header.sound_numbers(("RescaleSlope", "RescaleIntercept"), role)
    slope, intercept = slope or 1.0, intercept or 0.0  # a slope of zero is no rescaling at all
    values = stored.values.astype(np.float32)
    if film.kind != "DX":
        return values * np.float32(slope) + np.float32(intercept), slope < 0
    # What a processed image shows stays the same, whether this is meant or not.
    if (slope, intercept) != (1.0, 0.0) and (film.for_processing or slope < 0):
        message = f"a DX image must not be rescaled: slope {slope:g}, intercept {intercept:g}"
        attribute = "RescaleSlope" if slope != 1.0 else "RescaleIntercept"
        raise contradiction(role, message, attribute)
    return values, False


def _tables(header: Header, keyword: str) -> list[pydicom.Dataset]:
    """Return the items of a sequence of look-up tables that hold one."""
    items = header.items(keyword)
    return [i for i in items if Header(i).value("LUTData") is not None or "LUTDescriptor" in i]


def _linear_tables(header: Header) -> list[pydicom.Dataset]:
    """Return the look-up tables to values proportional to the intensity."""
    tables = _tables(header, "PixelIntensityRelationshipLUTSequence")
    return [item for item in tables if Header(item).text("LUTFunction") == "TO_LINEAR"]


def _lut(item: pydicom.Dataset, stored: StoredPixels) -> tuple[Image, int] | None:
    """Return a LUT item's entries and the stored value of the first; None if it is damaged.

    The descriptor tells bytes from words (DICOM C.11.1.1), whatever VR the file gives either, and
    the order of the bytes in a word is the one that makes its numbers of them.
    """
    header = Header(item)
    descriptor, data = header.numbers("LUTDescriptor"), header.value("LUTData")
    if len(descriptor) != 3 or not 1 <= descriptor[2] <= 16:
        return None
    count = int(descriptor[0]) % 65536 or 65536
    first, bits = stored.number(descriptor[1], stored.width), int(descriptor[2])
    try:
        if not isinstance(data, bytes):
            words = np.atleast_1d(np.asarray(data)).astype(np.int64) % 65536
            data = words.astype("<u2").tobytes()
    except (TypeError, ValueError, OverflowError):  # text, a sequence
        return None
    if bits <= 8 and len(data) in (count, count + 1):
        return np.frombuffer(data, np.uint8)[:count].astype(np.float32), first
    tables = [
        np.frombuffer(data[: 2 * count], order).astype(np.float32)
        for order in ("<u2", ">u2")
        if len(data) >= 2 * count
    ]
    fitting = [table for table in tables if table.max() < 1 << bits]
    # Of two orders that are possible the smoother one is meant.
    best = min(fitting, key=lambda table: float(np.abs(np.diff(table)).sum()), default=None)
    return None if best is None else (best, first)


def _has_linear_lut(film: Film, header: Header) -> bool:
    """Return whether the modality step gives values proportional to the intensity."""
    # XA and XRF: a LOG image's modality LUT leads back to linear values (C.8.7.1.1.2).
    x_ray = film.kind in ("XA", "XRF") and header.text("PixelIntensityRelationship") == "LOG"
    return bool(_linear_tables(header)) or (x_ray and bool(_tables(header, "ModalityLUTSequence")))


def _polarity(
    film: Film,
    header: Header,
    overrides: Overrides,
    stored: StoredPixels,
    decreasing: bool,
    role: str,
) -> tuple[bool, str, tuple[str, ...]]:
    """Return whether high values after the modality step are dense, what says so, and what not.

    Raises:
        SpiderError: E31, PixelIntensityRelationshipSign is neither 1 nor -1.
    """
    if overrides.dense_is_high is not None:
        return overrides.dense_is_high, OVERRIDE, ()
    (sign,) = header.sound_numbers(("PixelIntensityRelationshipSign",), role)
    if sign not in (None, 1.0, -1.0):
        message = f"a sign of {sign:g}"
        raise contradiction(role, message, "PixelIntensityRelationshipSign")
    said: dict[str, bool] = {}
    if _has_linear_lut(film, header):
        said["look-up table to linear values"] = False
    if sign is not None:
        # The sign speaks of stored values.
        said["PixelIntensityRelationshipSign"] = (sign == -1.0) != decreasing
    if film.kind in ("XA", "XRF") and header.text("PixelIntensityRelationship") == "LIN":
        said["PixelIntensityRelationship"] = False
    # Bones are shown white by convention; the border check guards it.
    inverted = _voi_decreases(header, stored)
    white_high = header.text("PhotometricInterpretation") != "MONOCHROME1"
    said["PhotometricInterpretation"] = white_high != inverted
    shape = header.text("PresentationLUTShape")
    if shape in ("IDENTITY", "INVERSE"):
        said["PresentationLUTShape"] = (shape == "IDENTITY") != inverted
    source, dense_high = next(iter(said.items()))
    return dense_high, source, tuple(name for name, other in said.items() if other != dense_high)


def _voi_decreases(header: Header, stored: StoredPixels) -> bool:
    """Return whether a VOI look-up table shows high values dark."""
    tables = _tables(header, "VOILUTSequence")
    lut = _lut(tables[0], stored) if tables else None
    return lut is not None and bool(lut[0][-1] < lut[0][0])


def _line_integrals(
    film: Film,
    header: Header,
    values: Image,
    attenuation: Image,
    mask: Mask,
    overrides: Overrides,
    stored: StoredPixels,
    role: str,
) -> tuple[Image, str, str]:
    """Return line integrals where the header allows them, otherwise the attenuation as it is.

    The direct exposure beside the head gives I0. Where the field lies inside the head there is
    none, and all line integrals are too low by the same amount.

    Returns:
        The image, :data:`LINE_INTEGRAL` or :data:`TONE`, and why.

    Raises:
        SpiderError: E31, as intensities the values would be negative, or weaken the beam less than
            any head does.
    """
    relation = header.text("PixelIntensityRelationship")
    if film.ct is not None:
        return attenuation, TONE, "CT localiser: attenuation as the scanner processed it"
    scanned = header.text("DetectorType") == "FILM" or header.text("ConversionType") == "DF"
    physical = film.for_processing or film.kind in ("XA", "XRF", "Enhanced XA", "Enhanced XRF")
    if scanned or not physical:
        what = "scanned film" if scanned else f"{film.kind} as displayed"
        return attenuation, TONE, f"{what}: an unknown tone curve was applied"
    if _has_linear_lut(film, header) or relation == "LIN":
        said = relation if relation in ("LIN", "LOG") else "look-up table to linear values"
        source = f"PixelIntensityRelationship {said}"
        intensity = values
        if attenuation is values:
            # The offset of an inverted image is not in the file; the largest value is usual.
            intensity = np.float32(2**stored.bits - 1) - values
            source += ", inverted about the largest stored value"
        direct = percentile(intensity, mask, DIRECT_EXPOSURE_PERCENTILE)
        if direct > 0:
            # Half a step of the quantisation keeps the logarithm of dark pixels finite.
            floor = direct * 2.0 ** -(stored.bits + 1)
            integrals = -np.log(np.maximum(intensity, floor) / direct)
            _check_intensities(intensity, integrals, mask, stored, role)
            return integrals.astype(np.float32), LINE_INTEGRAL, source
    elif relation == "LOG":
        if overrides.log_scale is not None and overrides.log_scale > 0:
            background = percentile(attenuation, mask, _BACKGROUND_PERCENTILE)
            integrals = (attenuation - background) / overrides.log_scale
            scale = f"{overrides.log_scale:g} per unit: override"
            source = f"PixelIntensityRelationship LOG, {scale}"
            return integrals.astype(np.float32), LINE_INTEGRAL, source
        return attenuation, TONE, "PixelIntensityRelationship LOG of unknown scale"
    return attenuation, TONE, "no linear or logarithmic relationship"


def _check_intensities(
    intensity: Image, integrals: Image, mask: Mask, stored: StoredPixels, role: str
) -> None:
    negative = float((sample(intensity, mask) < 0).mean())
    if negative > MAXIMUM_NEGATIVE:
        message = f"{100 * negative:.0f} % of the pixels would be negative intensities"
        attribute = "PixelRepresentation" if stored.is_signed else "PixelIntensityRelationship"
        raise contradiction(role, message, attribute)
    densest = percentile(integrals, mask, DIRECT_EXPOSURE_PERCENTILE)
    if densest < MINIMUM_INTEGRAL:
        message = f"the densest part would weaken the beam by exp({densest:.2f}) only"
        raise contradiction(role, message, "PixelIntensityRelationship")


def _check_values(
    stored: npt.NDArray[np.integer[Any]], values: Image, mask: Mask, role: str
) -> None:
    """Refuse constant or saturated images, as stored or after the modality step.

    Raises:
        SpiderError: E16.
    """
    message = ""
    if not mask.any():
        message = "no usable pixel: the image is constant or fully masked"
    else:
        different, counts = np.unique(sample(stored, mask), return_counts=True)
        extremes = (counts[0] + counts[-1]) / counts.sum()
        least = min(len(different), len(np.unique(sample(values, mask))))
        if least < MINIMUM_DISTINCT_VALUES:
            message = f"only {least} distinct values"
        elif extremes > MAXIMUM_SATURATED:
            message = f"{100 * extremes:.0f} % of the pixels are saturated"
    if message:
        raise _invalid(role, message)


def _invalid(role: str, message: str, attribute: str | None = None) -> SpiderError:
    return SpiderError(Code.INVALID_PIXEL_VALUES, message, role=role, attribute=attribute)
