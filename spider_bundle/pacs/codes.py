"""Codes of the network (N)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from spider_bundle.errors import CODES, Code, Info, SpiderError

PacsCode = Code

PACS_CODES: Mapping[Code, Info] = {
    code: info for code, info in CODES.items() if code.startswith("N")
}


class PacsError(SpiderError):
    """Sending or listening that cannot go on."""


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
