"""The stable codes of what can go wrong between this program and a PACS, as data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from types import MappingProxyType

from spider_bundle.codes import CodedError, CodeInfo


class PacsCode(StrEnum):
    """Codes of the network (N); see :data:`PACS_CODES`."""

    N01 = "N01"
    N02 = "N02"
    N03 = "N03"
    N04 = "N04"
    N05 = "N05"
    N06 = "N06"
    N07 = "N07"
    N08 = "N08"
    N09 = "N09"
    N10 = "N10"
    N11 = "N11"
    N12 = "N12"
    N13 = "N13"
    N14 = "N14"


PACS_CODES: Mapping[PacsCode, CodeInfo] = MappingProxyType(
    {
        PacsCode.N01: CodeInfo(
            "an AE title or an address is not valid",
            "AE titles have 1 to 16 letters, digits, spaces or marks; write a peer as AE@host:port",
        ),
        PacsCode.N02: CodeInfo(
            "the peer cannot be reached",
            "check host, port, firewall and whether the peer runs; then send again",
        ),
        PacsCode.N03: CodeInfo(
            "the peer rejected the association",
            "have the peer's administrator enter this AE title; check the peer's AE title",
        ),
        PacsCode.N04: CodeInfo(
            "the peer does not take this kind of object",
            "have the peer configured for CT Image Storage and Segmentation Storage",
        ),
        PacsCode.N05: CodeInfo(
            "the peer refused an object",
            "look the status up in the peer's log; then send again",
        ),
        PacsCode.N06: CodeInfo(
            "the association broke off, or the peer did not answer in time",
            "check the peer and the network; then send again, which goes on where it stopped",
        ),
        PacsCode.N07: CodeInfo(
            "a result cannot be read, or is not what its report says",
            "reconstruct the study again",
        ),
        PacsCode.N08: CodeInfo(
            "the address cannot be listened on",
            "check the address; another program may have the port",
        ),
        PacsCode.N09: CodeInfo(
            "another process is working in this folder",
            "wait for it to end, or stop it",
        ),
        PacsCode.N10: CodeInfo(
            "the disk of the spool is nearly full; the object was refused (A700)",
            "make space; the sender then sends again",
        ),
        PacsCode.N11: CodeInfo(
            "a message is larger than allowed; the connection was closed",
            "raise --max-object-mb if the object is wanted",
        ),
        PacsCode.N12: CodeInfo(
            "an object cannot be read, or is not the announced one; it was refused (C000, A900)",
            "have the sender's export looked at",
        ),
        PacsCode.N13: CodeInfo(
            "an object could not be written; it was refused (A700)",
            "see to the space and the rights of the spool; the sender then sends again",
        ),
        PacsCode.N14: CodeInfo(
            "an association was rejected: unknown caller, wrong called title, or too many",
            "allow the caller with --allow, or correct the titles at its side",
        ),
    }
)


class PacsError(CodedError):
    """Sending or listening that cannot go on, see :class:`~spider_bundle.codes.CodedError`."""

    table = PACS_CODES
    code: PacsCode


@contextmanager
def silent_network() -> Iterator[None]:
    """Keep pynetdicom's log records, which quote titles, UIDs and data sets, out of logs."""
    logger = logging.getLogger("pynetdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
