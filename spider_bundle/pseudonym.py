"""Pseudonyms of studies, patients and files; the key of a site, and the map of whose they are."""

from __future__ import annotations

import csv
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import atomic_path, sync

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


def write_map(target: Path, files: Mapping[str, Iterable[Path]]) -> None:
    """Add keys and the paths of their files to a table, which only its owner may read.

    Args:
        target: Tab-separated values: key, path. What it holds of other keys stays.
        files: Files by key.

    Raises:
        OSError: It cannot be read or written.
        ValueError: It is another kind of file.
    """
    rows: dict[str, list[str]] = {}
    if target.exists():
        with target.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            for row in csv.reader(stream, "excel-tab"):
                if len(row) != 2:
                    raise ValueError("the file for the map holds something else")
                rows.setdefault(row[0], []).append(row[1])
    rows |= {key: [str(path.absolute()) for path in paths] for key, paths in files.items()}
    with atomic_path(target) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            table = csv.writer(out, "excel-tab", lineterminator="\n")
            table.writerows((key, path) for key, paths in rows.items() for path in paths)


def check_map(target: Path | None, output: Path) -> None:
    """Refuse a map among the results, which may be passed on.

    Raises:
        ValueError: The map lies in the output folder.
    """
    if target is not None and target.resolve().is_relative_to(output.resolve()):
        raise ValueError("the map tells whose results these are: name a file outside the output")
