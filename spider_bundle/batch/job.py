"""A study on its way to a worker process, or the reason why it cannot go there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spider_bundle.files import file_sha256
from spider_bundle.radiographs.pair import study_key


@dataclass(frozen=True)
class Job:
    """A study that can be taken.

    Attributes:
        study_key: Its keyed hash.
        frontal: File of the frontal radiograph.
        lateral: File of the lateral radiograph.
        overrides: What the profile states about it.
        rule: Number from 1 of the profile's rule.
        inputs: Keyed hash of the two files.
        files: All radiographs of the study.
    """

    study_key: str
    frontal: Path = field(repr=False)
    lateral: Path = field(repr=False)
    overrides: Mapping[str, Any]
    rule: int | None
    inputs: str
    files: Sequence[Path] = field(repr=False)

    def fingerprint(self, settings: str) -> str:
        """Hash of everything that the result depends on: the run's settings and the study."""
        parts = [settings, self.study_key, self.inputs, self.overrides]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Refusal:
    """A study, or a file that might hold some, that cannot be taken.

    Attributes:
        study_key: Keyed hash of the study, or of the file's content.
        findings: Why; the facts of :func:`~spider_bundle.radiographs.errors.finding_facts`.
        is_incomplete: Whether a view is missing, which may still arrive.
        files: All radiographs of the study, or the file.
    """

    study_key: str
    findings: Sequence[Mapping[str, Any]]
    is_incomplete: bool = False
    files: Sequence[Path] = field(default=(), repr=False)

    @property
    def codes(self) -> list[str]:
        """Codes of the errors, each once, sorted."""
        return sorted({f["code"] for f in self.findings if f["severity"] == "error"})


def refused_file(
    path: Path, key: str, facts: Sequence[Mapping[str, Any]], is_incomplete: bool = False
) -> Refusal:
    """Refuse a file of which no study is known.

    Raises:
        OSError: It has vanished.
    """
    name = study_key(f"file {file_sha256(path)}", key)
    return Refusal(name, facts, is_incomplete, (path,))
