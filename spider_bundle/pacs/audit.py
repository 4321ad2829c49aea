"""The audit log of a listener, which no caller can make fill the disk."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spider_bundle.batch.records import AuditLog

LINES_A_MINUTE = 10
"""Lines of one kind and code in a minute, if they can be caused without end."""
PART_BYTES = 16 << 20
"""Size from which the log goes on in another file."""
RESERVE_BYTES = 64 << 20
"""Space that the log leaves free, at most; objects leave more."""


class ListenLog(AuditLog):
    """The audit log of a listener; several threads may write to it.

    Callers can cause lines without end, refused ones too. Of each kind and code only the first of a
    minute are written; how many were left out is told after it. A long log goes on in
    ``run-<number>.2.jsonl`` and so on.

    Args:
        folder: See :class:`AuditLog`.
        settings: Settings of the listener.
        reserve: Bytes that must remain free on the disk; :data:`RESERVE_BYTES` at most counts.

    Raises:
        OSError: The log cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], reserve: float) -> None:
        self._lock = threading.Lock()
        self._folder = folder
        self._reserve = min(reserve, RESERVE_BYTES)
        self._minute, self._part = 0, 1
        self._written: Counter[str] = Counter()
        self._omitted: Counter[str] = Counter()
        super().__init__(folder, settings)

    def record(self, kind: str, *, is_always: bool = False, **values: Any) -> bool:
        """Append a line, unless there were many like it or the disk has no room for it.

        Args:
            kind: The event.
            is_always: Whether it counts however many there were.
            values: What else to write.

        Returns:
            Whether it was written; a disk that refuses it must not stop the listener.
        """
        like = f"{kind} {values.get('code') or ''}".strip()
        with self._lock:
            minute = int(time.monotonic() // 60)
            is_new, self._minute = minute != self._minute, minute
            if is_new:
                self._written.clear()
            try:
                if self._omitted and (is_new or kind == "end"):
                    self._append("omitted", {"counts": dict(self._omitted)})
                    self._omitted.clear()
                if is_always or self._written[like] < LINES_A_MINUTE:
                    self._append(kind, values)
                    self._written[like] += 1
                    return True
            except OSError:
                pass
            self._omitted[like] += 1
        return False

    def _append(self, kind: str, values: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
            OSError: The disk refused, or is nearly full.
        """
        if shutil.disk_usage(self._folder).free < self._reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._path.exists() and self._path.stat().st_size > PART_BYTES:
            self._part += 1
            self._path = self._path.with_name(f"run-{self.run:06d}.{self._part}.jsonl")
        self._write(kind, values)
