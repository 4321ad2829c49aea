"""Methods side by side on the same cases: scores, tables, files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from spider_bundle.evaluation.methods import Item, Method, Reconstruction
from spider_bundle.evaluation.metrics import score_case
from spider_bundle.evaluation.reprojection import reprojection_rmse
from spider_bundle.evaluation.subgroups import group_of
from spider_bundle.evaluation.tables import (
    comparison_table,
    difference_table,
    file_stem,
    interval_table,
    mean_scores,
    patient_table,
    subgroup_table,
    write_scores,
    write_text,
)

_log = logging.getLogger(__name__)

Row = dict[str, Any]


def score_item(reconstruction: Reconstruction, item: Item, surfaces: bool = True) -> Row:
    """All scores of a reconstruction, with the case's name as ``case``.

    Args:
        reconstruction: On the grid of the case.
        item: The case (see :mod:`spider_bundle.evaluation.methods`).
        surfaces: Also the scores that take long, and the reprojection error of items with an image.
    """
    scores = score_case(
        reconstruction.hu,
        reconstruction.labels,
        item["ct"].numpy(),
        item["structure"].numpy(),
        item["measured"].numpy(),
        torch.linalg.vector_norm(item["affine"][:3, :3], dim=0).tolist(),
        surfaces,
    )
    if surfaces and "image" in item:
        scores["reprojection_rmse"] = reprojection_rmse(reconstruction, item)
    return {"case": item["case"], **scores}


def score_method(method: Method, items: Iterable[Item], surfaces: bool = True) -> list[Row]:
    """Scores of a method on every case."""
    return [score_item(method(item), item, surfaces) for item in items]


def compare(
    items: Sequence[Item],
    methods: Mapping[str, Method],
    output_dir: str | Path,
    reference: str = "SPIDER",
) -> dict[str, list[Row]]:
    """Score methods on the same cases and write everything about it.

    Per method ``<method>.json`` and ``.csv``, and the tables ``comparison.md`` (means of
    all methods until then), ``intervals.md`` (confidence intervals of ``reference``),
    ``differences.md`` (paired), ``patients.md`` and ``subgroups.md``. A method that cannot be
    used with so few cases, or with cases of several grids, is left out with a warning.

    Args:
        items: The cases.
        methods: What to compare, by title.
        output_dir: Folder to write to, created if absent.
        reference: Title of the method that the others are compared with.

    Returns:
        Rows of scores by method.

    Raises:
        ValueError: The method ``reference`` cannot be used.
    """
    folder = Path(output_dir)
    rows: dict[str, list[Row]] = {}
    for title, method in tqdm(methods.items(), desc=folder.name, unit="method"):
        try:
            rows[title] = score_method(method, items)
        except ValueError as error:
            if title == reference:
                raise
            _log.warning("%s is left out: %s", title, error)
            continue
        means = mean_scores(rows[title])
        write_scores(folder, file_stem(title), rows[title], means)
        write_text(folder / "comparison.md", comparison_table(rows))
        _log.info("%s: PSNR %.2f dB", title, means.get("psnr_db", float("nan")))
    groups = {str(item["case"]): group_of(item) for item in items}
    if reference in rows:
        write_text(folder / "intervals.md", interval_table(rows[reference]))
        write_text(folder / "differences.md", difference_table(rows, reference))
        write_text(folder / "patients.md", patient_table(rows, reference))
        write_text(folder / "subgroups.md", subgroup_table(rows[reference], groups))
    return rows
