"""Append-only files of one JSON object per line that survive a power cut."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spider_bundle.files import sync


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one object and force it to disk.

    A line that an earlier run left unfinished is ended first, so that it spoils no other.

    Args:
        path: The file; created if absent, its folder must exist.
        record: JSON values.

    Raises:
        OSError: The disk refused; part of the line may be there, which readers skip.
    """
    line = json.dumps(record, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync(path.parent)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read every whole object.

    Args:
        path: The file; it may be absent.

    Returns:
        The objects in order, and the number of lines that hold none: a run that was killed leaves
        at most one.

    Raises:
        OSError: The file cannot be read.
    """
    records, damaged = [], 0
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            damaged += 1
    return records, damaged
