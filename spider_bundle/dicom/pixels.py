"""Decode a radiograph and convert stored values to attenuation, high where tissue is dense.

Line integrals come out where DICOM says how the values relate to the intensity of the X-rays:
FOR PROCESSING and fluoroscopic images marked LIN, or with a look-up table to linear values. All
others passed an unknown monotone curve and give a tone image: polarity, edges and order are right,
densities are not. VOI windows and presentation look-up tables are for display; a window that does
not fit would saturate the image, so they are not applied.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import UID

from spider_bundle.dicom.codestream import check_codestream
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
from spider_bundle.dicom.header import Header, transfer_syntax
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.provenance import OVERRIDE, ProvenancedValue, provenanced_value
from spider_bundle.errors import Code, Finding, SpiderError, finding
from spider_bundle.logs import silent_pydicom

LINE_INTEGRAL = "line integral"
TONE = "tone"

#: Direct exposure as a percentile of the intensities in the field: high enough to lie in the air
#: beside the head, low enough to ignore a few bright pixels.
DIRECT_EXPOSURE_PERCENTILE = 99.5
#: Background of a LOG image as a percentile of its attenuation.
_BACKGROUND_PERCENTILE = 100.0 - DIRECT_EXPOSURE_PERCENTILE
#: Fewest distinct values of an image, and largest share of pixels at its two extremes.
MINIMUM_DISTINCT_VALUES, MAXIMUM_SATURATED = 16, 0.9
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


@dataclass(frozen=True)
class PixelData:
    """A decoded radiograph.

    Attributes:
        pixels: Line integrals or tones, high where dense, shape ``(rows, columns)``.
        mask: True where a pixel is usable, same shape.
        quantity: :data:`LINE_INTEGRAL` or :data:`TONE`.
        provenance: Sources of quantity and polarity.
        findings: What was found.
        conventions_disagree: Whether the polarity is not that of bones shown white.
    """

    pixels: Image
    mask: Mask
    quantity: str
    provenance: Mapping[str, ProvenancedValue]
    findings: tuple[Finding, ...]
    conventions_disagree: bool


def load_pixels(dataset: pydicom.Dataset, film: Film, overrides: Overrides, role: str) -> PixelData:
    """Decode a frame and convert it (knowledge: DICOM C.8.11.3.1.2 and C.8.7.1.1).

    Args:
        dataset: The data set with its pixel data.
        film: The film, with the values of the frame wanted.
        overrides: Overrides of this radiograph.
        role: Role for findings.

    Raises:
        SpiderError: E02 if it cannot be decoded, E16 if the values are no image.
    """
    header = Header(dataset, film.frame)
    stored = _stored_values(dataset, header, role)
    field, found = declared_field(header, stored, overrides, role)
    values, decreasing = _modality_values(film, header, stored)
    if not np.abs(values).max() < _MAXIMUM_VALUE:
        message = "the modality step leaves the range of numbers"
        raise _invalid(role, message, "RescaleSlope")
    dense_high, source = _polarity(film, header, overrides, decreasing)
    shown = f"high values {'dense' if dense_high else 'transparent'}"
    attenuation = values if dense_high else -values
    mask = without_blades(attenuation, without_constant_margins(attenuation, field))
    _check_values(stored, values, mask, role)
    pixels, quantity, why = _line_integrals(film, header, values, attenuation, mask, overrides)
    if not header.text("PixelIntensityRelationship"):
        found.append(finding(Code.UNKNOWN_INTENSITY_RELATIONSHIP, role))
    white_high = header.text("PhotometricInterpretation") != "MONOCHROME1"
    disagree = source != OVERRIDE and dense_high != white_high
    provenance = {
        "quantity": provenanced_value("quantity", quantity, why),
        "polarity": provenanced_value("polarity", shown, source),
    }
    return PixelData(pixels, mask, quantity, provenance, tuple(found), disagree)


def _stored_values(dataset: pydicom.Dataset, header: Header, role: str) -> npt.NDArray[np.int64]:
    """Decode the frame and keep the stored bits only, shape ``(rows, columns)``."""
    try:
        with silent_pydicom():
            array = np.asarray(_decode(dataset, header.frame, header.frames))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the panic of a decoder written in Rust is no Exception
        message = _decoding_message(dataset, error)
        raise SpiderError(Code.UNDECODABLE_PIXEL_DATA, message, role=role) from None
    if array.shape != (int(header.number("Rows") or 0), int(header.number("Columns") or 0)):
        message = "the pixel data do not have the declared size"
        raise SpiderError(Code.UNDECODABLE_PIXEL_DATA, message, role=role, attribute="Rows")
    if not np.issubdtype(array.dtype, np.integer):
        message = "the pixel data are not integers"
        raise _invalid(role, message)
    bits = int(header.number("BitsStored") or 8 * array.itemsize)
    if bits < 1:
        message = f"{bits} bits stored"
        raise _invalid(role, message, "BitsStored")
    if not np.issubdtype(array.dtype, np.signedinteger) and bits < 8 * array.itemsize:
        # Old files keep overlays in the unused high bits.
        high = header.number("HighBit")
        top = 8 * array.itemsize - 1
        shift = int(high) + 1 - bits if high is not None and bits <= high + 1 <= top + 1 else 0
        array = (array >> shift) & ((1 << bits) - 1)
    return array


def _decode(dataset: pydicom.Dataset, frame: int, frames: int) -> npt.NDArray[np.generic]:
    """Return the frame's array with pydicom 2.4 or 3."""
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
    """Return the one plugin that may decode a syntax; none where pydicom may choose."""
    plugin, modules = _SURE_PLUGINS.get(syntax, ("", ()))
    return plugin if all(importlib.util.find_spec(name) for name in modules) else ""


def _check_encoded(dataset: pydicom.Dataset, syntax: str, frame: int, frames: int) -> None:
    """Check the codestream header of a compressed frame before decoding.

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
    with silent_pydicom():
        syntax = UID(transfer_syntax(dataset.file_meta))
        # The name of a UID that pydicom does not know is the UID itself.
        name = "" if syntax.name == syntax else syntax.name
    for word, (modules, packages) in _CODECS.items():
        if word in name.lower():
            if any(importlib.util.find_spec(module) for module in modules):
                return f"{name}: damaged, or a variant that the installed plugins do not support"
            return f"{name}: needs the plugin {packages}"
    return f"{name or 'unknown transfer syntax'}: decoding failed ({type(error).__name__})"


def _modality_values(
    film: Film, header: Header, stored: npt.NDArray[np.int64]
) -> tuple[Image, bool]:
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
    if film.kind == "DX" or not slope:
        return values, False
    return values * np.float32(slope) + np.float32(intercept or 0.0), slope < 0


def _lut(item: pydicom.Dataset) -> tuple[Image, int]:
    """Return a LUT item's entries and the stored value of the first; none if malformed."""
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


def _has_linear_lut(film: Film, header: Header) -> bool:
    """Return whether the modality step gives values proportional to the intensity."""
    to_linear = any(
        Header(item).text("LUTFunction") == "TO_LINEAR"
        for item in header.items("PixelIntensityRelationshipLUTSequence")
    )
    # XA and XRF: a LOG image's modality LUT leads back to linear values (C.8.7.1.1.2).
    x_ray = film.kind in ("XA", "XRF") and header.text("PixelIntensityRelationship") == "LOG"
    return to_linear or (x_ray and bool(header.items("ModalityLUTSequence")))


def _polarity(
    film: Film, header: Header, overrides: Overrides, decreasing: bool
) -> tuple[bool, str]:
    """Return whether high values after the modality step are dense, and what says so."""
    sign = header.number("PixelIntensityRelationshipSign")
    if overrides.dense_is_high is not None:
        dense_high, source = overrides.dense_is_high, OVERRIDE
    elif _has_linear_lut(film, header):
        dense_high, source = False, "look-up table to linear values"
    elif sign in (1.0, -1.0):
        # The sign speaks of stored values.
        dense_high, source = (sign == -1.0) != decreasing, "PixelIntensityRelationshipSign"
    elif film.kind in ("XA", "XRF") and header.text("PixelIntensityRelationship") == "LIN":
        dense_high, source = False, "PixelIntensityRelationship"
    else:
        # Bones are shown white by convention; the border check guards it.
        dense_high = header.text("PhotometricInterpretation") != "MONOCHROME1"
        source = "PhotometricInterpretation"
    return dense_high, source


def _line_integrals(
    film: Film,
    header: Header,
    values: Image,
    attenuation: Image,
    mask: Mask,
    overrides: Overrides,
) -> tuple[Image, str, str]:
    """Return line integrals where the header allows them, otherwise the attenuation as it is.

    The direct exposure beside the head gives I0. Where the field lies inside the head there is
    none, and all line integrals are too low by the same amount.

    Returns:
        The image, :data:`LINE_INTEGRAL` or :data:`TONE`, and why.
    """
    relation = header.text("PixelIntensityRelationship")
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
            intensity = np.float32(2 ** int(header.number("BitsStored") or 16) - 1) - values
            source += ", inverted about the largest stored value"
        direct = percentile(intensity, mask, DIRECT_EXPOSURE_PERCENTILE)
        if direct > 0:
            # Half a step of the quantisation keeps the logarithm of dark pixels finite.
            floor = direct * 2.0 ** -(int(header.number("BitsStored") or 16) + 1)
            integrals = -np.log(np.maximum(intensity, floor) / direct)
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


def _check_values(stored: npt.NDArray[np.int64], values: Image, mask: Mask, role: str) -> None:
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
