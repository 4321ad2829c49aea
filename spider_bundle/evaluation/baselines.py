"""Naive baselines that every result stands beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spider_bundle.cases.case import load_case
from spider_bundle.evaluation.metrics import score_case
from spider_bundle.evaluation.tables import mean_scores, write_scores
from spider_bundle.intensity import HU_WINDOW
from spider_bundle.labels import Label


def mean_head(
    entries: Iterable[Mapping[str, Any]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Mean CT and majority labels of cases on one grid, in the pose in which they are stored.

    Args:
        entries: Datalist entries (see :func:`spider_bundle.cases.case.load_case`).

    Returns:
        HU ``(X, Y, Z)``, averaged within the window, and labels ``(X, Y, Z)``.

    Raises:
        ValueError: No entries, or their grids differ.
    """
    total: npt.NDArray[np.float64] | None = None
    votes: npt.NDArray[np.int64] | None = None
    count = 0
    affine = np.eye(4)
    for entry in entries:
        case = load_case(entry)
        if total is None or votes is None:
            total = np.zeros(case.hu.shape)
            votes = np.zeros((len(Label), *case.hu.shape), dtype=np.int64)
            affine = case.grid.affine
        if case.hu.shape != total.shape or not np.allclose(case.grid.affine, affine):
            raise ValueError("the cases are not on one grid")
        total += np.clip(case.hu, *HU_WINDOW)
        for label in Label:
            votes[label] += case.structure == label
        count += 1
    if total is None or votes is None:
        raise ValueError("no cases to average")
    return total / count, votes.argmax(axis=0).astype(np.uint8)


def score_mean_head(
    training: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    output_dir: str | Path | None = None,
) -> dict[str, float]:
    """Score the training-mean CT on every validation case.

    Args:
        training: Entries to average; phantoms are left out.
        validation: Entries to score.
        output_dir: Folder for ``mean_ct.json`` and ``mean_ct.csv``, if wanted.

    Returns:
        Mean of each score.
    """
    hu, labels = mean_head(entry for entry in training if "phantom" not in entry)
    rows = []
    for entry in validation:
        case = load_case(entry)
        scores = score_case(hu, labels, case.hu, case.structure, case.measured, case.grid.spacing)
        rows.append({"case": entry["case"], **scores})
    means = mean_scores(rows)
    if output_dir is not None:
        write_scores(Path(output_dir), "mean_ct", rows, means)
    return means
