"""A study on its way to a worker process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
