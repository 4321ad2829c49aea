"""A study on its way to a worker process, or the reason why it cannot go there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spider_bundle.dicom.film import Stamp
from spider_bundle.dicom.pair import FilmPair
from spider_bundle.dicom.studies import study_key

_END_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """A study that can be reconstructed.

    Attributes:
        study_key: Its keyed hash.
        pair: Its two films, checked with these overrides.
        overrides: Overrides of config and profile, merged.
        rule: Number from 1 of the profile's rule.
        inputs: Keyed hash of the two files.
        files: All radiographs of the study.
    """

    study_key: str
    pair: FilmPair = field(repr=False, compare=False)
    overrides: Mapping[str, Any]
    rule: int | None
    inputs: str
    files: Sequence[Path] = field(repr=False)

    @property
    def paths(self) -> tuple[Path, Path]:
        """Return the files of the frontal and the lateral radiograph."""
        frontal, lateral = (side.film for side in self.pair.sides)
        assert frontal is not None  # an unreadable film makes no job
        assert lateral is not None
        return frontal.path, lateral.path

    @property
    def stamps(self) -> list[Stamp]:
        """Return what the two files were like when they were checked."""
        return [side.film.stamp for side in self.pair.sides if side.film is not None]

    def fingerprint(self, settings: str) -> str:
        """Return a hash of all that the result depends on: settings of the run, and the study."""
        parts = [settings, self.study_key, self.inputs, self.overrides]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Refusal:
    """A study, or a file that might hold some, that cannot be taken.

    Attributes:
        study_key: Keyed hash of the study, or of the file.
        findings: Why; the facts of :func:`~spider_bundle.errors.Finding.facts`.
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
    """Refuse a file of which no study is known; its key is derived from its content.

    Raises:
        OSError: It has vanished, or cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        ends = hashlib.sha256(stream.read(_END_BYTES))
        # of a large file both ends are enough, and take no time
        stream.seek(max(stream.tell(), size - _END_BYTES))
        ends.update(stream.read(_END_BYTES))
    return Refusal(study_key(f"file {size} {ends.hexdigest()}", key), facts, is_incomplete, (path,))


def refused_place(path: Path, place: str, key: str, facts: Sequence[Mapping[str, Any]]) -> Refusal:
    """Refuse a file or folder that must not or cannot be read; its key is derived from its path.

    Args:
        path: The file or folder.
        place: Where the file is, which makes its key.
        key: Secret of the site.
        facts: Why it is refused.
    """
    return Refusal(study_key(f"place {place}", key), facts, files=(path,))
