"""Stand-ins for what examines files, which the child process of the tests imports by name."""

from __future__ import annotations

import errno
import os
import resource
import time
from pathlib import Path
from typing import Any

from spider_bundle.batch import examine
from spider_bundle.batch.archives import ArchiveLimits
from spider_bundle.batch.codes import BatchCode, batch_facts
from spider_bundle.batch.job import Refusal, refused_file
from spider_bundle.dicom.errors import RadiographError
from tests.films import read_radiograph

WORDS = {"hang": b"HANG", "die": b"DIE!", "swell": b"SWELL", "fail": b"FAIL"}
"""What a file says that misbehaves, in its ManufacturerModelName."""


def describe(path: Path, *arguments: Any) -> Any:
    """As usual, but some files harm their reader."""
    _suffer(path)
    return examine.describe(path, *arguments)


def check(study: Any, *arguments: Any) -> Any:
    """As usual, but some files harm their reader."""
    for candidate in study.films:
        _suffer(candidate.path)
    return examine.check(study, *arguments)


def unpacked(
    archive: Path, folder: Path, key: str, limits: ArchiveLimits | None, reserve: int
) -> Refusal | None:
    """As usual, on a disk with room for ``reserve`` archives."""
    full = [other for other in folder.parent.iterdir() if other != folder and any(other.iterdir())]
    if len(full) >= reserve:
        return refused_file(archive, key, [batch_facts(BatchCode.A06)])
    return examine.unpacked(archive, folder, key, limits, 0)


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
    try:
        read_radiograph(path)
    except RadiographError as error:
        return [found.code.value for found in error.errors]
    return []


def peak_bytes() -> int:
    """Peak resident memory of this process so far (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
