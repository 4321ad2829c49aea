"""Voxel grids in patient LPS millimetres. Import them from :mod:`spider_bundle.geometry`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spider_bundle.arrays import FloatArray

LPS_TO_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])
FIELD_OF_VIEW = 256.0
"""Side of the cube that holds a head, mm."""
MOST_VOXELS = 512
"""Most voxels along an axis of a grid whose shape is not stated."""


@dataclass(frozen=True)
class Grid:
    """A regular voxel grid whose tensors index (x, y, z) like arrays of a RAS NIfTI.

    Attributes:
        shape: Number of voxels ``(X, Y, Z)``.
        affine: Voxel index to LPS mm, shape ``(4, 4)``.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    @classmethod
    def centred(
        cls, spacing: float | Sequence[float] = 2.0, shape: int | Sequence[int] | None = None
    ) -> Grid:
        """Return the axis-aligned RAS grid whose index ``(n - 1) / 2`` is the isocentre.

        Args:
            spacing: Voxel size in mm, one value or ``(x, y, z)``.
            shape: Number of voxels, one value or ``(X, Y, Z)``; if not given, the spacing divides
                the field of view, and there are at most :data:`MOST_VOXELS` along an axis.

        Raises:
            ValueError: A spacing or a number of voxels is not positive and finite.
        """
        step = np.broadcast_to(np.asarray(spacing, dtype=np.float64), 3)
        if not ((step > 0) & np.isfinite(step)).all():
            raise ValueError(f"spacing must be positive, got {spacing}")
        if shape is None:
            shape = np.clip(np.rint(FIELD_OF_VIEW / step), 1, MOST_VOXELS).tolist()
        counts = np.broadcast_to(np.asarray(shape), 3).astype(int)
        if (counts <= 0).any():
            raise ValueError(f"shape must be positive, got {shape}")
        ras = np.diag([*step, 1.0])
        ras[:3, 3] = -step * (counts - 1) / 2
        return cls((int(counts[0]), int(counts[1]), int(counts[2])), LPS_TO_RAS @ ras)

    @classmethod
    def from_ras(cls, affine: npt.ArrayLike, shape: Sequence[int]) -> Grid:
        """Return the grid of a NIfTI image, from its RAS affine ``(4, 4)`` and shape."""
        x, y, z = (int(n) for n in shape)
        return cls((x, y, z), LPS_TO_RAS @ np.asarray(affine, dtype=np.float64))

    def moved(self, shift: npt.ArrayLike) -> Grid:
        """Return the grid moved by a vector, LPS mm, shape ``(3,)``."""
        affine = self.affine.copy()
        affine[:3, 3] += np.asarray(shift, dtype=np.float64)
        return Grid(self.shape, affine)

    @property
    def ras_affine(self) -> FloatArray:
        """Voxel index to RAS mm, as NIfTI wants it. Shape ``(4, 4)``."""
        return LPS_TO_RAS @ self.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along the three axes, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def extent(self) -> tuple[float, float, float]:
        """Length of the grid along the three axes, from face to face, mm."""
        x, y, z = (n * step for n, step in zip(self.shape, self.spacing, strict=True))
        return x, y, z

    def axes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return LPS mm along the axes of an axis-aligned grid: ``(X,)``, ``(Y,)``, ``(Z,)``.

        Raises:
            ValueError: The grid is rotated against the patient axes.
        """
        linear = self.affine[:3, :3]
        if not np.allclose(linear, np.diag(np.diag(linear))):
            raise ValueError("the grid is not aligned with the patient axes")
        x, y, z = (self.affine[i, 3] + linear[i, i] * np.arange(self.shape[i]) for i in range(3))
        return x, y, z

    def points(self) -> FloatArray:
        """Return LPS mm of all voxel centres, shape ``(X, Y, Z, 3)``."""
        index = np.stack(np.meshgrid(*(np.arange(n) for n in self.shape), indexing="ij"), axis=-1)
        points: FloatArray = index @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points
