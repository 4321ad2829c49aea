"""The list of studies that were refused, beside those that were reconstructed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spider_bundle.files import atomic_path

REFUSED_FILE = "refused.json"

_log = logging.getLogger(__name__)


def write_refusals(output_dir: str | Path, refused: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``refused.json``; one of an earlier run is replaced.

    Args:
        output_dir: Output folder, created if absent.
        refused: Study key and findings of each refused study.

    Returns:
        The file.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / REFUSED_FILE) as path:
        text = json.dumps({"refused": list(refused)}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")
    for entry in refused:
        key = entry["study_key"]
        if key and (folder / key).is_dir():
            _log.warning("study %s was refused; its result is one of an earlier run", key)
    return folder / REFUSED_FILE
