"""What a pair of radiographs says about lossy compression, for images derived from it.

An image that was compressed with loss stays one, also when it is decompressed and in what is
derived from it (DICOM PS3.3 C.7.6.1.1.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spider_bundle.dicom.header import Header, open_dataset, transfer_syntax

_METHODS = frozenset(
    {
        *("ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_15", "ISO_18181_1"),
        *("ISO_13818_2", "ISO_14496_10", "ISO_23008_2"),
    }
)
"""Defined terms of LossyImageCompressionMethod (DICOM PS3.3 C.7.6.1.1.5.1)."""

_LOSSY = {f"1.2.840.10008.1.2.4.{number}": "ISO_10918_1" for number in (50, 51)}
"""Methods of the transfer syntaxes that always lose something."""

_MAYBE_LOSSY = {
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
"""Methods of those that may also be used without loss, if the file says so."""

_MAXIMUM_STEPS = 8
"""Most compressions in succession that are believed."""


@dataclass(frozen=True)
class LossyCompression:
    """Lossy compression of an image; what is not known is empty.

    Attributes:
        methods: LossyImageCompressionMethod, one for each compression.
        ratios: LossyImageCompressionRatio, one for each compression.
    """

    methods: tuple[str, ...] = ()
    ratios: tuple[float, ...] = ()


def read_lossy_compression(paths: Sequence[Path | str]) -> LossyCompression | None:
    """Lossy compression of what is derived from a pair: that of the radiograph that lost more.

    Args:
        paths: The two files.

    Returns:
        None if neither was compressed with loss.

    Raises:
        RadiographError: E01 or E02 if a file cannot be read.
    """
    found = [lossy for path in paths if (lossy := _of_file(Path(path)))]
    # all values take part in the comparison, so that the order of the files does not matter
    return max(found, key=lambda x: (math.prod(x.ratios), x.methods, x.ratios), default=None)


def _of_file(path: Path) -> LossyCompression | None:
    dataset = open_dataset(path, "pair", pixels=False)
    header, syntax = Header(dataset), transfer_syntax(dataset.file_meta)
    stated = header.text("LossyImageCompression")
    maybe = syntax in _MAYBE_LOSSY and stated != "00"
    if stated != "01" and syntax not in _LOSSY and not maybe:
        return None
    methods = tuple(header.texts("LossyImageCompressionMethod"))
    # a term of the file's own could hold anything, also a name
    if len(methods) > _MAXIMUM_STEPS or not _METHODS.issuperset(methods):
        methods = ()
    ratios = tuple(header.numbers("LossyImageCompressionRatio"))
    if len(ratios) > _MAXIMUM_STEPS or not all(ratio > 0 for ratio in ratios):
        ratios = ()
    method = {**_LOSSY, **_MAYBE_LOSSY}.get(syntax)
    if method is None:
        return LossyCompression(methods, ratios)
    return LossyCompression(methods or (method,), ratios or _ratio(path, header))


def _ratio(path: Path, header: Header) -> tuple[float, ...]:
    """Size of the pixels over that of the encoded ones, to a tenth; empty if it cannot be told."""
    sizes = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    bits = math.prod(header.number(keyword) or 0.0 for keyword in sizes) * header.frames
    pixels = open_dataset(path, "pair", pixels=True).get("PixelData")
    if not isinstance(pixels, bytes) or not pixels or bits <= 0:
        return ()
    return (max(0.1, round(bits / 8 / len(pixels), 1)),)
