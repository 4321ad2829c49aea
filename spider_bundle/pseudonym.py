"""Pseudonyms of studies, patients and files, and the file of the site's key they are made with."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import sync

SHORTEST = 16
"""Fewest characters of a key."""


def pseudonym(key: str, text: str) -> str:
    """Return the HMAC-SHA256 of a text as 64 hexadecimal digits.

    Args:
        key: Secret of the site.
        text: What is to be named. A malformed file may hold what UTF-8 cannot encode.
    """
    data = text.encode(errors="backslashreplace")
    return hmac.new(key.encode(), data, hashlib.sha256).hexdigest()


def create_key_file(path: Path) -> None:
    """Write a new random key, readable by its owner only; an existing file is left alone.

    Args:
        path: File to write; its folder must exist.

    Raises:
        OSError: It cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    sync(path)
    sync(path.parent)


def read_key_file(path: Path) -> str:
    """Return the key of a file.

    Raises:
        SpiderError: K01, it is absent, too short, or others than its owner may read it.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            key = stream.read().strip()
    except FileNotFoundError:
        raise SpiderError(Code.INVALID_KEY_FILE, "the key file does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        message = f"the key file cannot be read ({type(error).__name__})"
        raise SpiderError(Code.INVALID_KEY_FILE, message) from None
    if os.name == "posix" and mode & 0o077:
        raise SpiderError(Code.INVALID_KEY_FILE, f"others may read the key file (mode {mode:o})")
    if len(key) < SHORTEST:
        raise SpiderError(Code.INVALID_KEY_FILE, f"the key has fewer than {SHORTEST} characters")
    return key
