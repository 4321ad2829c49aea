"""What the naive baselines learn from: training cases with simulated radiographs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.dicom.image import PIXEL_SIZE, SIZE
from spider_bundle.evaluation.methods import Item, Reconstruction, sample_volume
from spider_bundle.geometry import Grid
from spider_bundle.intensity import HU_WINDOW
from spider_bundle.labels import Label
from spider_bundle.simulation import (
    AcquisitionRanges,
    NormaliseRadiographsd,
    SimulateRadiographsd,
    case_rng,
)

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Simulator:
    """Random acquisitions of protocol V1, drawn from the case's id and a seed.

    Attributes:
        acquisitions: Radiograph pairs per case.
        seed: The same seed gives the same pairs, whatever the other cases are.
        size: Rows and columns of the image.
        pixel_size: Its pixel size at the isocentre, mm.
    """

    acquisitions: int
    seed: int = 0
    size: int = SIZE
    pixel_size: float = PIXEL_SIZE

    def items(self, entry: Entry) -> Iterator[dict[str, Any]]:
        """Return the case of a datalist entry as evaluation items, one per acquisition."""
        case = LoadHeadCased()(dict(entry.items()))
        simulate = SimulateRadiographsd(AcquisitionRanges(), self.size, self.pixel_size, stride=2)
        simulate.set_random_state(state=case_rng(f"{case['case']}/{self.seed}"))
        normalise = NormaliseRadiographsd()
        for _ in range(self.acquisitions):
            yield {str(key): value for key, value in normalise(simulate(case)).items()}

    def thumbnail(self, item: Item, rows: int) -> npt.NDArray[np.float32]:
        """Return the image at low resolution.

        Args:
            item: An evaluation item.
            rows: Rows and columns wanted.

        Returns:
            Frontal and lateral, shape ``(2, rows, rows)``.

        Raises:
            ValueError: The image is not of this simulator's size.
        """
        image = item["image"].as_tensor()
        if image.shape != (2, self.size, self.size):
            raise ValueError(f"the image is {tuple(image.shape)}, not of {self.size} rows")
        small: npt.NDArray[np.float32] = F.adaptive_avg_pool2d(image.float(), rows).numpy()
        return small


def common_grid(grid: Grid | None, other: Grid) -> Grid:
    """Return the grid that cases share.

    Args:
        grid: Grid of the cases before, None for the first.
        other: Grid of the next case.

    Raises:
        ValueError: They differ.
    """
    if grid is None:
        return other
    if grid.shape != other.shape or not np.allclose(grid.affine, other.affine):
        raise ValueError("the cases are not on one grid")
    return grid


def one_hot(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Labels ``(X, Y, Z)`` as class shares ``(C, X, Y, Z)``."""
    return np.stack([labels == label for label in Label]).astype(np.float32)


def resampled(
    hu: npt.NDArray[np.floating],
    shares: npt.NDArray[np.floating],
    grid: Grid,
    points: torch.Tensor,
) -> Reconstruction:
    """Return a head on one grid, read at points; air and background outside of it.

    Args:
        hu: HU, shape ``(X, Y, Z)``.
        shares: Share of each class, shape ``(C, X, Y, Z)``, 1 in sum; the largest gives the label.
        grid: Where the voxels are.
        points: LPS mm, shape ``(A, B, C, 3)``.
    """
    classes = sample_volume(shares, grid, points, outside=0.0)
    classes[Label.BACKGROUND] += 1 - classes.sum(axis=0)
    return Reconstruction(
        sample_volume(hu, grid, points, outside=HU_WINDOW[0]),
        classes.argmax(axis=0).astype(np.uint8),
    )
