"""Scores as files: per case as JSON and CSV, means side by side as a markdown table."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from spider_bundle.evaluation.bootstrap import mean_interval, paired_difference
from spider_bundle.files import atomic_path

_STRUCTURES = {
    "bone": "bone",
    "soft_tissue": "soft tissue",
    "intracranial": "intracranial",
    "internal_air": "internal air",
    "mandible": "mandible",
    "bone_thresholded": "bone, CT > 250 HU",
    "body_thresholded": "body, CT > -300 HU",
    "bone_recipe": "bone, recipe on the CT",
    "soft_tissue_recipe": "soft tissue, recipe on the CT",
    "intracranial_recipe": "intracranial, recipe on the CT",
    "internal_air_recipe": "internal air, recipe on the CT",
}

SCORE_NAMES: dict[str, str] = {
    "psnr_db": "PSNR, dB",
    "psnr_head_db": "PSNR in the head, dB",
    "ssim": "3D SSIM",
    "mae_hu": "MAE, HU",
    "mae_head_hu": "MAE in the head, HU",
    **{f"dice_{name}": f"Dice: {title}" for name, title in _STRUCTURES.items()},
    **{f"nsd_{name}": f"NSD at 2 mm: {title}" for name, title in _STRUCTURES.items()},
    **{f"hd95_{name}_mm": f"HD95, mm: {title}" for name, title in _STRUCTURES.items()},
    **{f"assd_{name}_mm": f"ASSD, mm: {title}" for name, title in _STRUCTURES.items()},
    "reprojection_rmse": "reprojection error, % of the radiograph's range",
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


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_stem(title: str) -> str:
    """Return a method's title as a file name."""
    return re.sub(r"\W+", "_", title.lower()).strip("_")


def comparison_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown table of the means of several methods, one column each.

    A mean over fewer cases than the others, because there was nothing to score, is followed by
    their number.

    Args:
        rows: Scores of each case, by the title of the method.
    """
    lines = _head(["measure", *rows])
    for name, title in SCORE_NAMES.items():
        found = {key: _values(method, name) for key, method in rows.items()}
        most = max(map(len, found.values()), default=0)
        if most:
            cells = [
                _cell(name, float(np.mean(v))) + (f" ({len(v)})" if len(v) < most else "")
                if v
                else "–"
                for v in found.values()
            ]
            lines.append(_line([title, *cells]))
    return _text(lines)


def interval_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table of one method: mean, 95 % confidence interval, worst and best case."""
    lines = _head(["measure", "mean", "95 % interval", "lowest", "highest", "cases"])
    for name, title in SCORE_NAMES.items():
        values = _values(rows, name)
        if values:
            mean, low, high = mean_interval(values)
            cells = [_cell(name, mean), f"{_cell(name, low)} to {_cell(name, high)}"]
            cells += [_cell(name, min(values)), _cell(name, max(values)), str(len(values))]
            lines.append(_line([title, *cells]))
    return _text(lines)


_HEADLINES = ("psnr_db", "mae_hu", "dice_bone", "dice_soft_tissue", "dice_intracranial")


def difference_table(rows: Mapping[str, Sequence[Mapping[str, Any]]], reference: str) -> str:
    """Markdown table of paired differences, ``reference`` minus each other method.

    Args:
        rows: Scores of each case, by the title of the method; the same cases in each.
        reference: Title of the method that the others are compared with.
    """
    lines = _head([f"{reference} minus", *(SCORE_NAMES[name] for name in _HEADLINES)])
    for title, others in rows.items():
        if title == reference:
            continue
        cells = []
        for name in _HEADLINES:
            mine = [row.get(name) for row in rows[reference]]
            found = paired_difference(mine, [row.get(name) for row in others])
            cells.append(
                "–"
                if found is None
                else "{} ({} to {})".format(*(_cell(name, v, sign=True) for v in found))
            )
        lines.append(_line([title, *cells]))
    return _text(lines)


def patient_table(rows: Mapping[str, Sequence[Mapping[str, Any]]], reference: str) -> str:
    """Markdown table of every case: scores of ``reference``, PSNR of the other methods."""
    others = [title for title in rows if title != reference]
    names = ("psnr_db", "mae_hu", "dice_bone", "dice_intracranial", "hd95_bone_mm")
    lines = _head(["case", *(SCORE_NAMES[n] for n in names), *(f"{o}, dB" for o in others)])
    for index, row in enumerate(rows[reference]):
        cells = [_cell(name, row.get(name)) for name in names]
        cells += [_cell("psnr_db", rows[title][index].get("psnr_db")) for title in others]
        lines.append(_line([str(row["case"]), *cells]))
    return _text(lines)


def subgroup_table(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Any]) -> str:
    """Markdown table of means by group.

    Args:
        rows: Scores of one method.
        groups: Dataclass of group names (see :mod:`.subgroups`) by case.
    """
    lines = _head(["group", "cases", *(SCORE_NAMES[name] for name in _HEADLINES)])
    for field in fields(next(iter(groups.values()))):
        members: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            members.setdefault(getattr(groups[str(row["case"])], field.name), []).append(row)
        for group, found in sorted(members.items()):
            means = mean_scores(found)
            cells = [_cell(name, means.get(name)) for name in _HEADLINES]
            lines.append(_line([group, str(len(found)), *cells]))
    return _text(lines)


def write_sensitivity(path: Path, means: Mapping[str, Mapping[str, float]]) -> None:
    """Write the means of each setting as a markdown table, with the change of the PSNR.

    Args:
        path: File to write.
        means: Mean scores by setting; the first is the one that the others are compared with.
    """
    lines = _head(["setting", *(SCORE_NAMES[name] for name in _HEADLINES), "change, dB"])
    right = next(iter(means.values()))["psnr_db"]
    for title, scores in means.items():
        cells = [_cell(name, scores.get(name)) for name in _HEADLINES]
        lines.append(_line([title, *cells, _cell("psnr_db", scores["psnr_db"] - right, sign=True)]))
    write_text(path, _text(lines))


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _cell(name: str, value: float | None, sign: bool = False) -> str:
    """Return a score with the digits that its kind deserves."""
    if value is None or math.isnan(value):
        return "–"
    digits = 3 if name.startswith(("dice", "nsd", "ssim")) else 1 if "hu" in name else 2
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|---" * len(titles) + "|"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
