"""Codes of inputs (A), keys (K), runs (R) and site profiles (S)."""

from __future__ import annotations

from collections.abc import Mapping

from spider_bundle.errors import CODES, Code, Info, SpiderError, finding

BatchCode = Code

BATCH_CODES: Mapping[Code, Info] = {
    code: info
    for code, info in CODES.items()
    if code[0] in "AKRS" and code is not Code.MISSING_PACKAGE
}


def batch_facts(code: Code, message: str = "") -> dict[str, str | None]:
    """Return a code of the batch as plain values, like those of a radiograph's finding."""
    return finding(code, "batch", message).facts()


class BatchError(SpiderError):
    """A batch that cannot start or go on."""
