"""Codes of the network (N)."""

from __future__ import annotations

from collections.abc import Mapping

from spider_bundle.errors import CODES, Code, Info, SpiderError

PacsCode = Code

PACS_CODES: Mapping[Code, Info] = {
    code: info for code, info in CODES.items() if code.startswith("N")
}


class PacsError(SpiderError):
    """Sending or listening that cannot go on."""
