"""Lists of cases: which heads train and which validate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spider_bundle.errors import Code, SpiderError

_FILES = ("ct", "valid", "contours")
_LISTS = ("datalist.json", "split.json")


def head_datalist(folder: str | Path, section: str) -> list[dict[str, Any]]:
    """Return the entries of prepared heads.

    Resolutions and shapes may differ; lists can be joined with those of other sources.

    Args:
        folder: Folder with the ``datalist.json`` of ``spider prepare``, or with a ``split.json``
            and ``<id>_ct.nii.gz``, ``_valid.nii.gz``, ``_oar.nii.gz`` as OpenKBP is prepared.
        section: ``training`` or ``validation``.

    Returns:
        One entry per patient for :func:`spider_bundle.cases.case.load_case`, with the files'
        absolute paths.

    Raises:
        SpiderError: M04, there is no list in the folder, or it cannot be read.
        KeyError: The list has no such section.
    """
    root = Path(folder).resolve()
    listing = next((path for name in _LISTS if (path := root / name).is_file()), None)
    if listing is None:
        raise SpiderError(Code.NO_HEADS)
    try:
        sections = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise SpiderError(Code.NO_HEADS, f"{listing.name} cannot be read ({kind})") from None
    entries = sections[section]
    if listing.name == "split.json":
        entries = map(_of_split, entries)
    return [
        {key: str(root / value) if key in _FILES else value for key, value in entry.items()}
        for entry in entries
    ]


def _of_split(patient: dict[str, Any]) -> dict[str, Any]:
    stem = patient["id"]
    entry = {"case": stem, "ct": f"{stem}_ct.nii.gz", "valid": f"{stem}_valid.nii.gz"}
    return (
        {**entry, "contours": f"{stem}_oar.nii.gz"} if "Mandible" in patient["contours"] else entry
    )


def phantom_datalist(count: int, first_seed: int = 0) -> list[dict[str, Any]]:
    """Entries of random head phantoms.

    Args:
        count: Number of phantoms.
        first_seed: Seed of the first; the others follow.
    """
    return [
        {"case": f"phantom_{seed}", "phantom": seed}
        for seed in range(first_seed, first_seed + count)
    ]
