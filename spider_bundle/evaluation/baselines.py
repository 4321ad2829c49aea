"""The training-mean head: the naive baseline that every result stands beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from spider_bundle.arrays import FloatArray
from spider_bundle.cases.case import load_case
from spider_bundle.evaluation.examples import Entry, common_grid, resampled
from spider_bundle.evaluation.methods import Item, Reconstruction, world_points
from spider_bundle.geometry import Grid
from spider_bundle.intensity import HU_WINDOW
from spider_bundle.labels import Label


class MeanHead:
    """The mean CT and the majority labels of the training cases; it sees no radiograph.

    Args:
        training: Datalist entries of cases on one grid.
        told_pose: Put the mean into the pose of the head, which no method is told. It is where the
            stored heads are if not, so that a moved head is missed.
    """

    def __init__(self, training: Sequence[Entry], told_pose: bool = False) -> None:
        self.training = training
        self.told_pose = told_pose

    @cached_property
    def _average(self) -> tuple[FloatArray, FloatArray, Grid]:
        return _average(self.training)

    def __call__(self, item: Item) -> Reconstruction:
        """The mean on the case's grid; raises ValueError as :func:`mean_head` does."""
        points = world_points(item)
        if self.told_pose:
            back = torch.linalg.inv(torch.as_tensor(item["pose"]).double())
            points = points @ back[:3, :3].T + back[:3, 3]
        return resampled(*self._average, points)


def mean_head(entries: Iterable[Entry]) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Mean CT and majority labels of cases on one grid, in the pose in which they are stored.

    Args:
        entries: Datalist entries (see :func:`spider_bundle.cases.case.load_case`).

    Returns:
        HU ``(X, Y, Z)``, averaged within the window, and labels ``(X, Y, Z)``.

    Raises:
        ValueError: No entries, or their grids differ.
    """
    hu, shares, _ = _average(entries)
    return hu, shares.argmax(axis=0).astype(np.uint8)


def _average(entries: Iterable[Entry]) -> tuple[FloatArray, FloatArray, Grid]:
    """Mean HU ``(X, Y, Z)``, share of each class ``(C, X, Y, Z)`` and their grid."""
    grid: Grid | None = None
    count = 0
    for entry in entries:
        case = load_case(entry)
        if grid is None:
            total = np.zeros(case.hu.shape)
            votes = np.zeros((len(Label), *case.hu.shape))
        grid = common_grid(grid, case.grid)
        total += np.clip(case.hu, *HU_WINDOW)
        for label in Label:
            votes[label] += case.structure == label
        count += 1
    if grid is None:
        raise ValueError("no cases to average")
    return total / count, votes / count, grid
