"""Scores as files: per case as JSON and CSV, means side by side as a markdown table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spider_bundle.files import atomic_path

_STRUCTURES = ("bone", "soft_tissue", "intracranial", "internal_air", "mandible")

SCORE_NAMES: dict[str, str] = {
    "psnr_db": "PSNR, dB",
    "psnr_head_db": "PSNR in the head, dB",
    "ssim": "3D SSIM",
    "mae_hu": "MAE, HU",
    "mae_head_hu": "MAE in the head, HU",
    "dice_bone_thresholded": "bone Dice of CT > 250 HU",
    **{f"dice_{name}": f"{name.replace('_', ' ')} Dice" for name in _STRUCTURES},
    **{f"hd95_{name}_mm": f"{name.replace('_', ' ')} HD95, mm" for name in _STRUCTURES},
    **{f"assd_{name}_mm": f"{name.replace('_', ' ')} ASSD, mm" for name in _STRUCTURES},
}
"""Titles of the scores, in the order of the table."""


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each score over the cases that have it."""
    means = {}
    for name in SCORE_NAMES:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            means[name] = float(np.mean(values))
    return means


def write_scores(
    folder: Path, stem: str, rows: Sequence[Mapping[str, Any]], means: Mapping[str, float]
) -> None:
    """Write ``<stem>.json`` and ``<stem>.csv``, each as a whole or not at all.

    Args:
        folder: Output folder, created if absent.
        stem: Name of the files.
        rows: ``case`` and scores of each case.
        means: Mean of each score.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / f"{stem}.json") as path:
        text = json.dumps({"mean": _finite(means), "cases": list(map(_finite, rows))}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")
    with (
        atomic_path(folder / f"{stem}.csv") as path,
        path.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["case"])
        writer.writeheader()
        writer.writerows(rows)


def _finite(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores with None for infinity (a perfect PSNR), which JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in scores.items()
    }


def write_comparison(path: str | Path, columns: Mapping[str, Mapping[str, float]]) -> str:
    """Write the means of several methods as a markdown table.

    Args:
        path: File to write; its folder is created.
        columns: Means of each method by its title.

    Returns:
        The table.
    """
    lines = [
        "| measure | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, title in SCORE_NAMES.items():
        values = [means.get(name) for means in columns.values()]
        if any(value is not None for value in values):
            digits = 3 if "dice" in name or name == "ssim" else 1 if "hu" in name else 2
            cells = ["–" if value is None else f"{value:.{digits}f}" for value in values]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    table = "\n".join(lines) + "\n"
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        temporary.write_text(table, encoding="utf-8")
    return table
