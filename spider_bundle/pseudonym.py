"""Pseudonyms of studies, patients and files."""

from __future__ import annotations

import hashlib
import hmac


def pseudonym(key: str, text: str) -> str:
    """Return the HMAC-SHA256 of a text as 64 hexadecimal digits.

    Args:
        key: Secret of the site.
        text: What is to be named. A malformed file may hold what UTF-8 cannot encode.
    """
    data = text.encode(errors="backslashreplace")
    return hmac.new(key.encode(), data, hashlib.sha256).hexdigest()
