"""A study on its way to a worker process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spider_bundle.dicom.film import Stamp
from spider_bundle.dicom.pair import FilmPair


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
