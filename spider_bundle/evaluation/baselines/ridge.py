"""Linear regression from low-resolution radiographs to the head: a linear shape model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from spider_bundle.arrays import FloatArray
from spider_bundle.dicom.image import PIXEL_SIZE, SIZE
from spider_bundle.evaluation.baselines.training_examples import (
    Entry,
    Simulator,
    common_grid,
    resampled,
)
from spider_bundle.evaluation.methods import Item, Reconstruction, world_points
from spider_bundle.geometry import Grid
from spider_bundle.intensity import denormalise_hu, normalise_hu
from spider_bundle.labels import Label

PENALTIES: tuple[float, ...] = tuple(float(p) for p in np.logspace(-4, 2, 25))
"""Ridge penalties to choose from, in units of the mean eigenvalue of the radiographs' Gram."""


@dataclass(frozen=True)
class RidgeWeights:
    """How much of each training patient a prediction is made of.

    Attributes:
        mean: Mean radiograph, shape ``(D,)``.
        dual: Radiograph less the mean to weights of the patients, shape ``(D, N)``.
        penalty: The penalty taken, in units of the mean eigenvalue.
        errors: Leave-one-patient-out mean squared error of each of :data:`PENALTIES`.
    """

    mean: FloatArray
    dual: FloatArray
    penalty: float
    errors: FloatArray

    def __call__(self, radiograph: npt.NDArray[np.floating]) -> FloatArray:
        """Weights ``(N,)`` of the patients, 1 in sum, for a radiograph ``(D,)``."""
        n = self.dual.shape[1]
        weights: FloatArray = 1 / n + (radiograph - self.mean) @ self.dual
        return weights


def fit_ridge(
    radiographs: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]
) -> RidgeWeights:
    """Ridge regression in its dual form, where every target is one patient's for many radiographs.

    A prediction is the patients' mean plus a weighted sum of their targets, so that what is fitted
    are the weights, and any other quantity of the patients is predicted by the same ones. The
    intercept is not penalised. The penalty is the one with the least error when each patient with
    all radiographs is left out, which for a linear smoother ``H`` has the closed form
    ``(I - H_pp)^-1 (Y_p - (H Y)_p)``.

    Args:
        radiographs: Shape ``(N, A, D)``: patients, radiographs of each, pixels.
        targets: Shape ``(N, V)``.

    Raises:
        ValueError: Fewer than two patients, or radiographs that are all the same.
    """
    n, repeats, pixels = radiographs.shape
    if n < 2:
        raise ValueError("a regression needs at least two cases")
    flat = radiographs.reshape(n * repeats, pixels).astype(np.float64)
    mean = flat.mean(axis=0)
    centred = flat - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values = values.clip(0.0)
    unit = float(values.mean())
    if unit == 0:
        raise ValueError("the radiographs are all the same")
    patient = np.repeat(np.eye(n), repeats, axis=0)
    away = targets - targets.mean(axis=0)
    gram = (away @ away.T).astype(np.float64)
    errors = []
    for penalty in PENALTIES:
        smoother = (vectors * (values / (values + penalty * unit))) @ vectors.T + 1 / len(flat)
        residual = patient - smoother @ patient
        total = 0.0
        for p in range(n):
            block = slice(p * repeats, (p + 1) * repeats)
            left_out = np.linalg.solve(np.eye(repeats) - smoother[block, block], residual[block])
            total += float(np.einsum("ap,pq,aq->", left_out, gram, left_out))
        errors.append(total / (len(flat) * targets.shape[1]))
    best = int(np.argmin(errors))
    penalty = PENALTIES[best]
    inverse = (vectors / (values + penalty * unit)) @ vectors.T
    return RidgeWeights(mean, centred.T @ (inverse @ patient), penalty, np.array(errors))


class RidgeHead:
    """Ridge regression from the radiographs to the CT and the class of every voxel.

    Args:
        training: Datalist entries of cases on one grid.
        acquisitions: Simulated radiograph pairs per case.
        seed: Seed of their geometry.
        rows: Rows and columns of the radiographs that are regressed on.
        size: Rows and columns of the image.
        pixel_size: Its pixel size at the isocentre, mm.
    """

    def __init__(
        self,
        training: Sequence[Entry],
        acquisitions: int = 8,
        seed: int = 0,
        rows: int = 64,
        size: int = SIZE,
        pixel_size: float = PIXEL_SIZE,
    ) -> None:
        self.training = training
        self.rows = rows
        self.simulator = Simulator(acquisitions, seed, size, pixel_size)

    @cached_property
    def _fitted(
        self,
    ) -> tuple[RidgeWeights, npt.NDArray[np.float32], npt.NDArray[np.uint8], Grid]:
        """Weights, intensities ``(N, X, Y, Z)`` and labels ``(N, X, Y, Z)`` of the patients."""
        radiographs, intensities, labels = [], [], []
        grid: Grid | None = None
        for entry in self.training:
            items = list(self.simulator.items(entry))
            ct = items[0]["ct"]
            grid = common_grid(grid, Grid(tuple(ct.shape), items[0]["affine"].numpy()))
            radiographs.append([self.simulator.thumbnail(i, self.rows).ravel() for i in items])
            intensities.append(normalise_hu(ct).numpy())
            labels.append(items[0]["structure"].numpy())
        if grid is None:
            raise ValueError("no cases to learn from")
        stacked = np.stack(intensities)
        weights = fit_ridge(np.array(radiographs), stacked.reshape(len(stacked), -1))
        return weights, stacked, np.stack(labels), grid

    def __call__(self, item: Item) -> Reconstruction:
        """Predict the head from the item's image.

        Raises:
            ValueError: Fewer than two training cases, their grids differ, or the image is not of
                the size that was trained on.
        """
        weights, intensities, labels, grid = self._fitted
        shares = weights(self.simulator.thumbnail(item, self.rows).ravel()).astype(np.float32)
        hu = denormalise_hu(np.tensordot(shares, intensities, 1))
        classes = np.stack([np.tensordot(shares, labels == label, 1) for label in Label])
        return resampled(hu, classes, grid, world_points(item))
