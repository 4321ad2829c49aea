"""The audit log: one file per run that says with what, on what and how it ended, without patients.

A line is appended and forced to disk for the start, for each study and for the end. A run that was
killed has no end line. Times are durations; the only clock time is that of the start of the run.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spider_bundle.batch.jsonlines import append_line
from spider_bundle.batch.manifest import Entry
from spider_bundle.outputs.report import software_versions

AUDIT_FOLDER = "audit"


class AuditLog:
    """The audit log of one run.

    Args:
        folder: Output folder; the log goes to ``audit/run-<number>.jsonl`` below it.
        settings: What the run was told; it must name no patient and no path.

    Attributes:
        run: Number of the run, from 1.

    Raises:
        OSError: The log cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        logs = Path(folder) / AUDIT_FOLDER
        logs.mkdir(parents=True, exist_ok=True)
        matches = (re.fullmatch(r"run-(\d+)\.jsonl", path.name) for path in logs.iterdir())
        self.run = 1 + max((int(match.group(1)) for match in matches if match), default=0)
        self._path = logs / f"run-{self.run:06d}.jsonl"
        self._start = time.monotonic()
        self._write(
            "start",
            {
                "run": self.run,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "software": software_versions(),
                "settings": dict(settings),
            },
        )

    def intake(self, counts: Mapping[str, int]) -> None:
        """Record what was found in the input."""
        self._write("intake", {"counts": dict(counts)})

    def study(self, entry: Entry, rule: int | None = None) -> None:
        """Record how a study ended.

        Args:
            entry: Its line of the manifest.
            rule: Number from 1 of the profile's rule that applied.
        """
        self._write("study", {**entry.record(), "profile_rule": rule})

    def event(self, code: str) -> None:
        """Record something about the run itself by its code."""
        self._write("event", {"code": code})

    def end(self, counts: Mapping[str, int], exit_code: int) -> None:
        """Record how the run ended."""
        self._write("end", {"counts": dict(counts), "exit_code": exit_code})

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        elapsed = round(time.monotonic() - self._start, 3)
        append_line(self._path, {"event": kind, "elapsed_s": elapsed, **values})
