"""Decode a frame, and hold what the header says of its pixels against the pixels.

A header that describes other pixels than the file has is refused (E31): no rule tells which of the
two is right, and the wrong one makes no radiograph of them.
"""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import UID, RLELossless

from spider_bundle.dicom.codestream import check_codestream
from spider_bundle.dicom.header import Header, transfer_syntax
from spider_bundle.errors import Code, SpiderError
from spider_bundle.logs import silent_pydicom

Integers = npt.NDArray[np.signedinteger[Any]]

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
class StoredPixels:
    """Stored values of a frame.

    Attributes:
        values: The bits stored, shape ``(rows, columns)``.
        cells: All bits allocated, as they would read if all were stored, same shape.
        width: Number of bits of a cell.
        bits: BitsStored.
        is_signed: Whether PixelRepresentation says so.
    """

    values: Integers
    cells: Integers
    width: int
    bits: int
    is_signed: bool

    def number(self, stated: float, bits: int) -> int:
        """Return a pixel value that an attribute states as US or SS, whatever VR the file gives it.

        The bits are the same; PixelRepresentation says what they mean (DICOM PS3.5 section 6.2).

        Args:
            stated: Its value; one beyond the bits stays.
            bits: Bits of a pixel.
        """
        number = int(stated)
        if not -(1 << bits - 1) <= number < 1 << bits:
            return number
        number %= 1 << bits
        return number - (self.is_signed and number >> bits - 1) * (1 << bits)

    def between(self, first: float, last: float) -> npt.NDArray[np.bool_]:
        """Return where the pixels lie within two values that attributes state."""
        found = np.zeros(self.values.shape, dtype=np.bool_)
        for pixels, bits in ((self.cells, self.width), (self.values, self.bits)):
            low, high = sorted((self.number(first, bits), self.number(last, bits)))
            found |= (pixels >= low) & (pixels <= high)
        return found


def contradiction(role: str, message: str, attribute: str) -> SpiderError:
    """Return the error of a header that contradicts the pixels: E31."""
    return SpiderError(Code.HEADER_CONTRADICTS_PIXELS, message, role=role, attribute=attribute)


def padding(header: Header, role: str) -> tuple[float, float] | None:
    """Return PixelPaddingValue and PixelPaddingRangeLimit (DICOM C.7.5.1.1.2) as the file has them.

    Raises:
        SpiderError: E31, one of them is malformed.
    """
    stated = header.sound_numbers(("PixelPaddingValue", "PixelPaddingRangeLimit"), role)
    value, limit = stated
    return None if value is None else (value, value if limit is None else limit)


def stored_pixels(dataset: pydicom.Dataset, header: Header, role: str) -> StoredPixels:
    """Decode a frame.

    Args:
        dataset: The data set with its pixel data.
        header: Look-up for the frame.
        role: Role for findings.

    Raises:
        SpiderError: E02 if it cannot be decoded, E16 if the values are no integers, E31 if they are
            not what BitsAllocated, BitsStored, HighBit, PixelRepresentation, Rows, Columns and
            NumberOfFrames say.
    """
    bits, high, is_signed = _description(header, role)
    try:
        with silent_pydicom():
            overlays = _overlay_bits(dataset)
            _check_length(dataset, header, role)
            array = np.asarray(_decode(dataset, header.frame, header.frames))
    except (KeyboardInterrupt, SystemExit, SpiderError):
        raise
    except BaseException as error:  # the panic of a decoder written in Rust is no Exception
        raise _undecodable(dataset, error, role) from None
    if array.shape != (int(header.number("Rows") or 0), int(header.number("Columns") or 0)):
        message = "the pixel data do not have the declared size"
        raise SpiderError(Code.UNDECODABLE_PIXEL_DATA, message, role=role, attribute="Rows")
    if not np.issubdtype(array.dtype, np.integer):
        message = "the pixel data are not integers"
        raise SpiderError(Code.INVALID_PIXEL_VALUES, message, role=role)
    width = 8 * array.itemsize
    bits = min(bits or width, width)
    # A codestream holds values, not cells, so HighBit says nothing about it.
    shift = 0 if high is None or is_codestream(dataset) else max(0, min(high + 1, width) - bits)
    full, stored = (1 << width) - 1, ((1 << bits) - 1) << shift
    raw: Integers = array.astype(np.int64 if width > 16 else np.int32)
    raw = raw & full
    values = (raw & stored) >> shift
    cells = raw
    if is_signed:
        values = values - ((values >> bits - 1) << bits)
        cells = raw - ((raw >> width - 1) << width)
    pixels = StoredPixels(values, cells, width, bits, is_signed)
    other = raw & full & ~(stored | overlays)
    # A sign may be repeated above the highest bit.
    unexplained = (other != 0) & (other != ((values << shift) & full & ~(stored | overlays)))
    if unexplained.any():
        limits = padding(header, role)
        if limits is None or (unexplained & ~pixels.between(*limits)).any():
            message = f"the pixels hold more than the {bits} bits stored and no overlay is declared"
            attribute = "BitsStored" if high is None or high + 1 == bits else "HighBit"
            raise contradiction(role, message, attribute)
    return pixels


def _description(header: Header, role: str) -> tuple[int, int | None, bool]:
    """Return BitsStored (0 if absent), HighBit (None if absent) and whether values are signed.

    Raises:
        SpiderError: E31, they are malformed or do not fit each other.
    """
    keywords = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    allocated, bits, high, sign = header.sound_numbers(keywords, role)
    most = allocated or 32
    for keyword, value, is_possible in (
        ("BitsAllocated", allocated, most in (8, 16, 32)),
        ("BitsStored", bits, bits is None or 1 <= bits <= most),
        ("HighBit", high, high is None or (bits or 1) <= high + 1 <= most),
        ("PixelRepresentation", sign, sign in (None, 0, 1)),
    ):
        if not is_possible:
            message = f"{keyword} {value:g} does not fit what else the header says of the pixels"
            raise contradiction(role, message, keyword)
    return int(bits or 0), None if high is None else int(high), sign == 1


def _overlay_bits(dataset: pydicom.Dataset) -> int:
    """Return the bits of a cell that hold overlays (PS3.5 section 8.1.2, retired)."""
    found = 0
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, 0x0102))
        value = getattr(position, "value", None)
        if (group, 0x3000) not in dataset and isinstance(value, int) and 0 < value < 32:
            found |= 1 << value
    return found


def is_codestream(dataset: pydicom.Dataset) -> bool:
    """Return whether the pixels are encoded as values; native and run-length ones are cells."""
    syntax = UID(transfer_syntax(dataset.file_meta))
    return syntax.is_encapsulated and syntax != RLELossless


def _check_length(dataset: pydicom.Dataset, header: Header, role: str) -> None:
    """Check that native pixel data are not longer than the header declares by a row or more.

    Raises:
        SpiderError: E31.
    """
    if UID(transfer_syntax(dataset.file_meta)).is_encapsulated:
        return
    data = dataset.get("PixelData")
    columns, rows, allocated = (header.number(k) for k in ("Columns", "Rows", "BitsAllocated"))
    if isinstance(data, bytes) and columns and rows and allocated:
        row = int(columns) * int(allocated) // 8
        excess = len(data) - row * int(rows) * header.frames
        if excess >= max(row, 2):
            message = "there are more pixel data than the header declares"
            whole = excess % (row * int(rows)) < 2
            raise contradiction(role, message, "NumberOfFrames" if whole else "Rows")


def _decode(dataset: pydicom.Dataset, frame: int, frames: int) -> npt.NDArray[np.generic]:
    """Return the frame's array with pydicom 2.4 or 3."""
    for keyword in _DECODER_ATTRIBUTES:
        # pydicom quotes a value that it does not like, and the text of a sequence can be endless
        if isinstance(dataset.get(keyword), pydicom.Sequence):
            raise ValueError(f"{keyword} is a sequence")
    syntax = transfer_syntax(dataset.file_meta)
    if syntax == _JPEG_EXTENDED and dataset.get("BitsAllocated", 8) > 8:
        # pydicom 2.4 lets GDCM try, although GDCM does not support it.
        raise ValueError("lossy JPEG of 12 bits is not supported")
    precision = _check_encoded(dataset, syntax, frame, frames)
    # All that is there is wanted; pydicom 3 would cut off what BitsStored leaves out.
    dataset.BitsStored = precision or dataset.BitsAllocated
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


def _check_encoded(dataset: pydicom.Dataset, syntax: str, frame: int, frames: int) -> int:
    """Check the codestream header of a compressed frame before decoding; return its precision.

    Raises:
        ValueError: It is not of the declared size.
    """
    if not UID(syntax).is_encapsulated:
        return 0
    try:
        from pydicom.encaps import get_frame
    except ImportError:
        from pydicom.encaps import generate_pixel_data_frame

        frames_before = generate_pixel_data_frame(dataset.PixelData, frames)
        encoded = next(itertools.islice(frames_before, frame, None))
    else:
        encoded = get_frame(dataset.PixelData, frame, number_of_frames=frames)
    size = (int(dataset[keyword].value) for keyword in ("Rows", "Columns", "BitsAllocated"))
    return check_codestream(encoded, syntax, *size)


def _undecodable(dataset: pydicom.Dataset, error: BaseException, role: str) -> SpiderError:
    with silent_pydicom():
        syntax = UID(transfer_syntax(dataset.file_meta))
        # The name of a UID that pydicom does not know is the UID itself.
        name = "" if syntax.name == syntax else syntax.name
    message, action = f"{name or 'unknown transfer syntax'}: decoding failed", None
    for word, (modules, packages) in _CODECS.items():
        if word in name.lower():
            if any(importlib.util.find_spec(module) for module in modules):
                message = f"{name}: damaged, or a variant that the installed plugins do not support"
            else:
                message = f"{name}: needs a plugin"
                action = f"install {packages}, or export the image again, uncompressed"
            break
    else:
        message += f" ({type(error).__name__})"
    return SpiderError(Code.UNDECODABLE_PIXEL_DATA, message, role=role, action=action)
