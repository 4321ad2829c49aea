"""Lists of cases: which heads train and which validate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILES = ("ct", "valid", "contours")


def openkbp_datalist(folder: str | Path, section: str) -> list[dict[str, Any]]:
    """Entries of the prepared OpenKBP heads.

    Args:
        folder: Folder with ``split.json`` and ``<id>_ct.nii.gz``, ``_valid.nii.gz``,
            ``_oar.nii.gz``.
        section: ``training`` or ``validation``.

    Returns:
        One entry per patient for :func:`spider_bundle.cases.case.load_case`, with its id as
        ``case``.

    Raises:
        FileNotFoundError: There is no ``split.json`` in the folder.
        KeyError: The split has no such section.
    """
    root = Path(folder)
    split = json.loads((root / "split.json").read_text(encoding="utf-8"))
    entries = []
    for patient in split[section]:
        stem = patient["id"]
        entry: dict[str, Any] = {
            "case": stem,
            "ct": str(root / f"{stem}_ct.nii.gz"),
            "valid": str(root / f"{stem}_valid.nii.gz"),
        }
        if "Mandible" in patient["contours"]:
            entry["contours"] = str(root / f"{stem}_oar.nii.gz")
        entries.append(entry)
    return entries


def prepared_datalist(path: str | Path, section: str) -> list[dict[str, Any]]:
    """Entries of the heads that ``spider prepare`` wrote.

    Resolutions and shapes may differ; lists can be joined with those of other sources.

    Args:
        path: The ``datalist.json``, or its folder.
        section: ``training`` or ``validation``.

    Returns:
        Entries for :func:`spider_bundle.cases.case.load_case`, with the files' absolute paths.

    Raises:
        FileNotFoundError: There is no such list.
        KeyError: The list has no such section.
    """
    listing = Path(path)
    if listing.is_dir():
        listing = listing / "datalist.json"
    root = listing.resolve().parent
    entries = json.loads(listing.read_text(encoding="utf-8"))[section]
    return [
        {key: str(root / value) if key in _FILES else value for key, value in entry.items()}
        for entry in entries
    ]


def phantom_datalist(count: int, first_seed: int = 0) -> list[dict[str, Any]]:
    """Entries of random analytic heads.

    Args:
        count: Number of phantoms.
        first_seed: Seed of the first; the others follow.
    """
    return [
        {"case": f"phantom_{seed}", "phantom": seed}
        for seed in range(first_seed, first_seed + count)
    ]
