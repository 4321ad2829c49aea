"""What a batch writes about its studies: the manifest and the audit logs, one JSON object per line.

Lines are appended and forced to disk; none is ever changed. A line that does not hold what it
should, whatever is in it, is passed over. Studies are named by their keyed hash only.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, StringConstraints, TypeAdapter

from spider_bundle.files import sync
from spider_bundle.outputs.report import software_versions

MANIFEST_FILE = "manifest.jsonl"
AUDIT_FOLDER = "audit"
_LONGEST_LINE = 16 << 20
"""Bytes of a line that is still read."""
_LISTED = 10
"""Damaged lines that are named."""

_log = logging.getLogger(__name__)


class State(StrEnum):
    """How a study ended."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Entry:
    """One line of the manifest.

    Attributes:
        study_key: Keyed hash of the study.
        state: How it ended.
        fingerprint: Hash of the settings and of the study's files, by which a later run knows that
            there is nothing to do again.
        codes: Codes of the errors, or of the warnings of a study that is done.
        findings: What stands behind the errors: code, role, message, attribute, action.
        seconds: Time of each stage.
        run: Number of the run, as in the audit log.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", allow_inf_nan=False)

    study_key: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    state: State
    fingerprint: str
    codes: Sequence[str] = ()
    findings: Sequence[Mapping[str, str | None]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    run: int = 0

    def record(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        return {
            "study_key": self.study_key,
            "state": self.state.value,
            "fingerprint": self.fingerprint,
            "codes": list(self.codes),
            "findings": [dict(found) for found in self.findings],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "run": self.run,
        }


_ENTRY = TypeAdapter(Entry)


class Manifest:
    """The manifest of one output folder: how each study ended.

    A study that is taken again has another line; the last one counts.

    Args:
        folder: Output folder; it must exist before the first line is added.

    Attributes:
        entries: The entry that counts, by study key.
        damaged: Numbers, from 1, of the lines that hold no entry.

    Raises:
        OSError: The manifest cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._path = Path(folder) / MANIFEST_FILE
        self.entries: dict[str, Entry] = {}
        self.damaged: list[int] = []
        for number, record in numbered_lines(self._path):
            try:
                entry = _ENTRY.validate_python(record)
            except (ValueError, OverflowError):
                self.damaged.append(number)
            else:
                self.entries[entry.study_key] = entry

    def add(self, entry: Entry) -> None:
        """Append an entry and force it to disk.

        A refusal that the manifest ends with already is not repeated: the same study refused every
        night adds nothing.

        Raises:
            OSError: The disk refused.
        """
        before = self.entries.get(entry.study_key)
        if (
            before is None
            or entry.state is not State.REFUSED
            or (before.state, before.fingerprint, list(before.codes))
            != (entry.state, entry.fingerprint, list(entry.codes))
        ):
            append_line(self._path, entry.record())
        self.entries[entry.study_key] = entry


class AuditLog:
    """The audit log of one run: with what, on what and how it ended.

    A run that was killed has no end line. Times are durations but that of the start.

    Args:
        folder: Output folder; the log goes to ``audit/run-<number>.jsonl`` below it.
        settings: Settings of the run; they name no patient and no path.

    Attributes:
        run: Number of the run, from 1.

    Raises:
        OSError: The log cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        logs = Path(folder) / AUDIT_FOLDER
        logs.mkdir(parents=True, exist_ok=True)
        matches = (re.fullmatch(r"run-(\d{1,9})\.jsonl", path.name) for path in logs.iterdir())
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


def numbered_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the number, from 1, and the object of every line; None for a line that holds none.

    Args:
        path: The file; it may be absent.

    Raises:
        OSError: The file cannot be read.
    """
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number in count(1):
            line = rest = stream.readline(_LONGEST_LINE)
            if not line:
                return
            while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
                line, rest = b"", stream.readline(_LONGEST_LINE)
            if line == b"\n":
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            yield number, record if isinstance(record, dict) else None


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the objects of a file in order, and the numbers of the lines that hold none.

    Arguments and errors are those of :func:`numbered_lines`.
    """
    lines = list(numbered_lines(path))
    records = [record for _, record in lines if record is not None]
    return records, [number for number, record in lines if record is None]


def log_damage(name: str, numbers: Sequence[int]) -> None:
    """Warn of damaged lines of a file, if there are any, by their numbers."""
    if numbers:
        listed = ", ".join(map(str, numbers[:_LISTED]))
        more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
        _log.warning("%s: passed over damaged lines %s%s", name, listed, more)
