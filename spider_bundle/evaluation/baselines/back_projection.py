"""Two-view back-projection: what the projections carry without any knowledge of anatomy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from spider_bundle.dicom.image import PIXEL_SIZE, SIZE
from spider_bundle.evaluation.baselines.training_examples import Entry, Simulator
from spider_bundle.evaluation.methods import Item, Reconstruction, world_points
from spider_bundle.intensity import HU_WINDOW
from spider_bundle.labels import Label
from spider_bundle.networks.sampling import sample_maps
from spider_bundle.projection_matrix import project_points

_QUANTILE_STEP = 16  # every so many voxels are enough to place the bins


def smear(item: Item) -> npt.NDArray[np.float32]:
    """Each view's value at the projection of every voxel.

    Returns:
        Frontal and lateral, 0 outside the image, shape ``(2, X, Y, Z)``.
    """
    image = item["image"]
    points = world_points(item)
    projection = torch.as_tensor(image.meta["projection"])
    pixels = project_points(projection[None], points.reshape(1, -1, 3)).float()
    values = sample_maps(image.as_tensor()[None, :, None], pixels)[0]
    smeared: npt.NDArray[np.float32] = values.T.reshape(2, *points.shape[:3]).numpy()
    return smeared


class BackProjection:
    """Both views smeared back along their rays; HU and label by the two values that meet.

    The mean HU and the most frequent label of training voxels are kept for each pair of values
    (two bins per voxel: one of the frontal, one of the lateral). This holds every function of the
    two, such as their product or the limits of the body, and nothing about where a voxel is.

    Args:
        training: Datalist entries, on any grids.
        acquisitions: Simulated radiograph pairs per case.
        seed: Seed of their geometry.
        bins: Bins of each view's value: one for 0 (beside the body), the others equally filled.
        size: Rows and columns of the image.
        pixel_size: Its pixel size at the isocentre, mm.
    """

    def __init__(
        self,
        training: Sequence[Entry],
        acquisitions: int = 1,
        seed: int = 0,
        bins: int = 32,
        size: int = SIZE,
        pixel_size: float = PIXEL_SIZE,
    ) -> None:
        self.training = training
        self.bins = bins
        self.simulator = Simulator(acquisitions, seed, size, pixel_size)

    @cached_property
    def _fitted(
        self,
    ) -> tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Lower edges of the bins of both views, HU and label of each pair of bins."""
        values, hu, labels = [], [], []
        for entry in self.training:
            for item in self.simulator.items(entry):
                values.append(smear(item).reshape(2, -1))
                hu.append(item["ct"].numpy().ravel())
                labels.append(item["structure"].numpy().ravel())
        if not values:
            raise ValueError("no cases to learn from")
        seen, window = np.concatenate(values, axis=1), np.clip(np.concatenate(hu), *HU_WINDOW)
        edges = [self._edges(view[::_QUANTILE_STEP]) for view in seen]
        pair = self._pair(edges, seen)
        cells = self.bins**2
        count = np.bincount(pair, minlength=cells)
        mean = np.bincount(pair, window, cells) / np.maximum(count, 1)
        votes = np.bincount(
            pair * len(Label) + np.concatenate(labels), minlength=cells * len(Label)
        )
        frequent = votes.reshape(cells, len(Label)).argmax(axis=1)
        # a pair that never met takes what the nearest pair that did knows
        nearest = ndimage.distance_transform_edt(
            (count == 0).reshape(self.bins, self.bins), return_distances=False, return_indices=True
        )
        known = np.ravel_multi_index(tuple(nearest), (self.bins, self.bins)).ravel()
        return edges, mean[known].astype(np.float32), frequent[known].astype(np.uint8)

    def _edges(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Lower edges ``(bins - 1,)`` of the bins above 0."""
        inside = values[values > 0]
        if len(inside) == 0:
            raise ValueError("the radiographs are empty")
        edges: npt.NDArray[np.float32] = np.quantile(
            inside, np.linspace(0, 1, self.bins)[:-1]
        ).astype(np.float32)
        edges[0] = np.finfo(np.float32).tiny
        return edges

    def _pair(
        self, edges: Sequence[npt.NDArray[np.float32]], values: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.int64]:
        """Return the number of the pair of bins of each voxel; values ``(2, ...)`` to ``(...)``."""
        frontal, lateral = (
            np.searchsorted(edge, view, side="right")
            for edge, view in zip(edges, values, strict=True)
        )
        pair: npt.NDArray[np.int64] = frontal * self.bins + lateral
        return pair

    def __call__(self, item: Item) -> Reconstruction:
        """Back-project the item's image; raises ValueError without training cases."""
        edges, hu, labels = self._fitted
        pair = self._pair(edges, smear(item))
        return Reconstruction(hu[pair], labels[pair])
