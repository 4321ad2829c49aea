"""Lossy compression of radiographs, for images derived from them.

An image that was compressed with loss stays one, also when it is decompressed and in what is
derived from it (DICOM PS3.3 C.7.6.1.1.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from spider_bundle.dicom.header import Header

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
"""Maximum number of successive compressions."""


@dataclass(frozen=True)
class LossyCompression:
    """Lossy compression of an image; what is not known is empty.

    Attributes:
        methods: LossyImageCompressionMethod, one for each compression.
        ratios: LossyImageCompressionRatio, one for each compression.
    """

    methods: tuple[str, ...] = ()
    ratios: tuple[float, ...] = ()


def compression_of(header: Header, syntax: str) -> LossyCompression | None:
    """Return the lossy compression that a header states or its transfer syntax implies.

    Args:
        header: Of one file.
        syntax: TransferSyntaxUID.

    Returns:
        None if there was none; an empty ratio if it is not stated.
    """
    stated = header.text("LossyImageCompression")
    maybe = syntax in _MAYBE_LOSSY and stated != "00"
    if stated != "01" and syntax not in _LOSSY and not maybe:
        return None
    methods = header.texts("LossyImageCompressionMethod")
    # a term of the file's own could hold anything, also a name
    if len(methods) > _MAXIMUM_STEPS or not _METHODS.issuperset(methods):
        methods = ()
    ratios = header.numbers("LossyImageCompressionRatio")
    if len(ratios) > _MAXIMUM_STEPS or not all(ratio > 0 for ratio in ratios):
        ratios = ()
    method = {**_LOSSY, **_MAYBE_LOSSY}.get(syntax)
    return LossyCompression(methods or ((method,) if method else ()), ratios)


def is_lossy_syntax(syntax: str) -> bool:
    """Return whether a transfer syntax always or possibly loses something."""
    return syntax in _LOSSY or syntax in _MAYBE_LOSSY


def with_ratio(
    lossy: LossyCompression, decoded_bytes: float, encoded_bytes: int
) -> LossyCompression:
    """Return lossy compression with the ratio that the pixel data have, where none is stated.

    Args:
        lossy: What the header states.
        decoded_bytes: Size of the pixels.
        encoded_bytes: Size of the pixel data; with 0 the ratio stays unknown.
    """
    if lossy.ratios or encoded_bytes <= 0 or decoded_bytes <= 0:
        return lossy
    return replace(lossy, ratios=(max(0.1, round(decoded_bytes / encoded_bytes, 1)),))


def combined(films: Iterable[LossyCompression | None]) -> LossyCompression | None:
    """Return the lossy compression of what is derived from films: that of which more was lost."""
    # all values take part in the comparison, so that the order of the films does not matter
    found = [lossy for lossy in films if lossy]
    return max(found, key=lambda x: (math.prod(x.ratios), x.methods, x.ratios), default=None)
