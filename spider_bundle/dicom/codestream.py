"""What a compressed image says about its own size, read before any decoder runs.

Decoders allocate what the codestream declares, whatever the DICOM attributes say: a file of one
kilobyte can ask for gigabytes. Markers are those of ISO/IEC 10918-1 and 14495-1 (JPEG, JPEG-LS) and
ISO/IEC 15444-1 (JPEG 2000).
"""

from __future__ import annotations

import struct

_RLE = "1.2.840.10008.1.2.5"
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203))
_JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81))
_SIZ = b"\xff\x4f\xff\x51"
# Start-of-frame markers; C4, C8 and CC are tables and extensions, F7 is JPEG-LS.
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_START_OF_SCAN, _END = 0xDA, 0xD9
#: Bytes per byte of the image that run-length coding can need: one more in 128, and headers.
_RLE_GROWTH = 1.1
_RLE_HEADERS = 4096
#: Least edge of a JPEG 2000 tile; a million tiles cost more than their pixels.
_MINIMUM_TILE = 32


def check_codestream(
    frame: bytes, syntax: str, rows: int, columns: int, bits_allocated: int
) -> int:
    """Refuse a frame whose codestream is not of the size that the attributes declare.

    Returns:
        Bits of a sample; 0 where the codestream does not say so.

    Args:
        frame: Encoded frame.
        syntax: Transfer syntax UID; others than RLE, JPEG, JPEG-LS and JPEG 2000 pass.
        rows: Declared rows.
        columns: Declared columns.
        bits_allocated: Declared bits of a pixel.

    Raises:
        ValueError: Its size differs, is unknown, or is out of proportion.
    """
    if syntax == _RLE:
        image = rows * columns * max(1, bits_allocated // 8)
        if len(frame) > _RLE_GROWTH * image + _RLE_HEADERS:
            raise ValueError("more run-length data than the image can need")
    elif syntax in _JPEG_2000:
        return _checked(_jpeg_2000_size(frame), rows, columns)
    elif syntax in _JPEG:
        return _checked(_jpeg_size(frame), rows, columns)
    return 0


def _checked(size: tuple[int, int, int, int] | None, rows: int, columns: int) -> int:
    if size is None:
        raise ValueError("the codestream does not declare a size")
    if size[:3] != (rows, columns, 1):
        raise ValueError("the codestream has another size than the attributes declare")
    return size[3]


def _jpeg_2000_size(frame: bytes) -> tuple[int, int, int, int] | None:
    """Rows, columns, components and bits of the SIZ segment; None if none is sound."""
    at = frame.find(_SIZ)
    if at < 0 or len(frame) < at + 43:
        return None
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = (
        struct.unpack_from(">8IH", frame, at + 8)
    )
    # the first tile holds the image's corner (ISO/IEC 15444-1 B.3); GDCM aborts where it does not
    if not (
        tile_left <= left < tile_left + tile_width and tile_top <= top < tile_top + tile_height
    ):
        return None
    least = min(_MINIMUM_TILE, right - left, bottom - top)
    if min(tile_width, tile_height) < least:
        return None
    return bottom - top, right - left, components, (frame[at + 42] & 0x7F) + 1


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int] | None:
    """Rows, columns, components and bits of the only frame header before the first scan."""
    size = None
    at = 2 if frame[:2] == b"\xff\xd8" else len(frame)
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in (_START_OF_SCAN, _END):
            break
        if marker in _START_OF_FRAME:
            if size is not None or at + 10 > len(frame):
                return None
            size = (*struct.unpack_from(">HHB", frame, at + 5), frame[at + 4])
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return size
