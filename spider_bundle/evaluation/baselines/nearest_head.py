"""Retrieval: the training head whose radiographs look most like those of the case."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import fft

from spider_bundle.cases.case import load_case
from spider_bundle.dicom.image import PIXEL_SIZE, SIZE
from spider_bundle.evaluation.baselines.training_examples import (
    Entry,
    Simulator,
    one_hot,
    resampled,
)
from spider_bundle.evaluation.methods import Item, Reconstruction, world_points


class NearestHead:
    """The CT and labels of the training case whose radiographs are nearest to those of the item.

    Nearness is the normalised cross-correlation of low-resolution radiographs at the shift that
    fits best, summed over the two views, so that a head is found wherever it was placed. Frontal
    and lateral share their vertical shift. The head is returned moved by this shift.

    Args:
        training: Datalist entries, on any grids.
        acquisitions: Simulated radiograph pairs per case.
        seed: Seed of their geometry.
        rows: Rows and columns of the radiographs that are compared.
        reach: Largest shift, mm at the isocentre.
        size: Rows and columns of the image.
        pixel_size: Its pixel size at the isocentre, mm.
    """

    def __init__(
        self,
        training: Sequence[Entry],
        acquisitions: int = 4,
        seed: int = 0,
        rows: int = 128,
        reach: float = 15.0,
        size: int = SIZE,
        pixel_size: float = PIXEL_SIZE,
    ) -> None:
        self.training = training
        self.rows = rows
        self.step_mm = pixel_size * size / rows
        self.steps = round(reach / self.step_mm)
        self.simulator = Simulator(acquisitions, seed, size, pixel_size)

    @cached_property
    def _spectra(self) -> npt.NDArray[np.complex64]:
        """Fourier transforms of the radiographs, ``(N * acquisitions, 2, F, G)``."""
        radiographs = [
            self.simulator.thumbnail(item, self.rows)
            for entry in self.training
            for item in self.simulator.items(entry)
        ]
        if not radiographs:
            raise ValueError("no cases to choose from")
        return self._spectrum(np.stack(radiographs))

    def _spectrum(self, radiographs: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
        """Transform of ``(..., rows, rows)``, of unit norm and padded so that no shift wraps."""
        length = np.linalg.norm(radiographs, axis=(-2, -1), keepdims=True)
        unit = radiographs / np.maximum(length, np.finfo(np.float32).tiny)
        spectrum: npt.NDArray[np.complex64] = fft.rfft2(unit, [self.rows + self.steps] * 2)
        return spectrum

    def matches(self, item: Item) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """How well each training radiograph pair fits.

        Returns:
            Best correlation, shape ``(N * acquisitions,)``, case by case, 2 for the same pair; and
            the shift of the training head at which it is, LPS mm, shape ``(N * acquisitions, 3)``.

        Raises:
            ValueError: No training cases, or the image is not of the size that was trained on.
        """
        spectrum = self._spectrum(self.simulator.thumbnail(item, self.rows))
        padded = self.rows + self.steps
        correlation = fft.irfft2(spectrum * self._spectra.conj(), [padded] * 2)
        steps = np.arange(-self.steps, self.steps + 1)
        near = correlation[..., steps[:, None], steps]  # negative steps lie at the far end
        by_row = near.max(axis=-1).sum(axis=1)
        row = by_row.argmax(axis=-1)
        column = near[np.arange(len(near)), :, row].argmax(axis=-1)
        # columns run towards the left in the frontal, posterior in the lateral, rows to the feet
        shift = np.stack([steps[column[:, 0]], steps[column[:, 1]], -steps[row]], axis=1)
        return by_row.max(axis=-1), shift * self.step_mm

    def __call__(self, item: Item) -> Reconstruction:
        """Return the nearest head on the item's grid; see :meth:`matches` for errors."""
        similarity, shift = self.matches(item)
        best = int(similarity.argmax())
        case = load_case(self.training[best // self.simulator.acquisitions])
        points = world_points(item) - torch.from_numpy(shift[best])
        return resampled(case.hu, one_hot(case.structure), case.grid, points)
