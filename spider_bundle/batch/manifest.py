"""The manifest of an output folder: in which state each study ended.

One JSON object per line, appended and forced to disk when a study ends; no line is ever changed. A
study that is taken again gets another line, and the last one counts. Studies are named by their
keyed hash only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from spider_bundle.batch.jsonlines import append_line, read_lines

MANIFEST_FILE = "manifest.jsonl"


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

    study_key: str
    state: State
    fingerprint: str
    codes: Sequence[str] = ()
    findings: Sequence[Mapping[str, Any]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    run: int = 0

    def record(self) -> dict[str, Any]:
        """The line as JSON values."""
        return {
            "study_key": self.study_key,
            "state": self.state.value,
            "fingerprint": self.fingerprint,
            "codes": list(self.codes),
            "findings": [dict(found) for found in self.findings],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "run": self.run,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Entry:
        """The entry of a line.

        Raises:
            KeyError: A field is absent.
            TypeError: A field is unknown.
            ValueError: The state is unknown, or times are no numbers.
        """
        seconds = {name: float(value) for name, value in dict(record.get("seconds", {})).items()}
        return cls(**{**record, "state": State(record["state"]), "seconds": seconds})


class Manifest:
    """The manifest of one output folder.

    Args:
        folder: Output folder; it must exist before the first line is added.

    Attributes:
        entries: The entry that counts, by study key.
        damaged: Number of lines that could not be read.

    Raises:
        OSError: The manifest cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._path = Path(folder) / MANIFEST_FILE
        self.entries: dict[str, Entry] = {}
        records, self.damaged = read_lines(self._path)
        for record in records:
            try:
                entry = Entry.from_record(record)
            except (KeyError, TypeError, ValueError):
                self.damaged += 1
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
