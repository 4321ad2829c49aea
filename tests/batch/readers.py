"""Stand-ins for what reads files, which the sandbox of the tests imports by name."""

from __future__ import annotations

import errno
import os
import resource
import time
from pathlib import Path
from typing import Any

from spider_bundle.batch import finder
from spider_bundle.errors import SpiderError

WORDS = {"hang": b"HANG", "die": b"DIE!", "swell": b"SWELL", "fail": b"FAIL"}
"""What a file says that misbehaves, in its ManufacturerModelName."""

_examine, _hash_files = finder.examine, finder.hash_files


def examine(path: Path, *arguments: Any) -> Any:
    """As usual, but some files harm their reader."""
    _suffer(path)
    return _examine(path, *arguments)


def hash_files(paths: Any, *arguments: Any) -> Any:
    """As usual, but some files harm their reader."""
    for path in paths:
        _suffer(path)
    return _hash_files(paths, *arguments)


def torn(archive: Path, *_: Any) -> None:
    """A disk fails in the middle of an archive."""
    raise OSError(errno.EIO, "Input/output error", str(archive))


def _suffer(path: Path) -> None:
    content = path.read_bytes()[:4096]
    if WORDS["hang"] in content:
        time.sleep(3600)
    if WORDS["die"] in content:
        os.abort()
    if WORDS["swell"] in content:
        bytearray(1 << 40)
    if WORDS["fail"] in content:
        raise ValueError("Doe^Jane cannot be read")


def outcome(path: Path) -> list[str]:
    """Codes of the errors of a file whose pixels are read too."""
    from tests.films import read_radiograph  # heavy: not for those that describe files

    try:
        read_radiograph(path)
    except SpiderError as error:
        return [found.code.value for found in error.errors]
    return []


def peak_bytes() -> int:
    """Peak resident memory of this process so far (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
