"""The training-mean head: the naive baseline that every result stands beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch

from spider_bundle.arrays import FloatArray
from spider_bundle.cases.case import load_case
from spider_bundle.evaluation.baselines.training_examples import Entry, common_grid, resampled
from spider_bundle.evaluation.methods import Item, Reconstruction, world_points
from spider_bundle.geometry import Grid
from spider_bundle.intensity import HU_WINDOW
from spider_bundle.labels import Label


class MeanHead:
    """The mean CT and the majority labels of the training cases; it sees no radiograph.

    Args:
        training: Datalist entries of cases on one grid.
        known_pose: Put the mean into the pose of the head, which no other method knows. It is where
            the stored heads are if not, so that a moved head is missed.
    """

    def __init__(self, training: Sequence[Entry], known_pose: bool = False) -> None:
        self.training = training
        self.known_pose = known_pose

    @cached_property
    def _average(self) -> tuple[FloatArray, FloatArray, Grid]:
        return _average(self.training)

    def __call__(self, item: Item) -> Reconstruction:
        """Return the mean on the case's grid.

        Raises:
            ValueError: No training cases, or their grids differ.
        """
        points = world_points(item)
        if self.known_pose:
            back = torch.linalg.inv(torch.as_tensor(item["pose"]).double())
            points = points @ back[:3, :3].T + back[:3, 3]
        return resampled(*self._average, points)


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
