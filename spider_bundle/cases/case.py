"""A head case: a CT on its own grid with labels, and how well each voxel is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spider_bundle.cases.labelling import BONE_HU, label_head
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from spider_bundle.phantom import HeadPhantom

MANDIBLE_CONTOUR = 7
"""Value of the mandible in the expert contours of OpenKBP."""

_ROUGH_MM = 8.0  # bone this near to a rough mandible contour may belong to either


@dataclass(frozen=True)
class HeadCase:
    """A head CT that can be projected and supervised.

    Attributes:
        hu: CT in HU, float32, shape ``(X, Y, Z)``.
        structure: :class:`~spider_bundle.labels.Label` values, uint8, shape ``(X, Y, Z)``.
        ambiguous: True where bone and mandible are not told apart, shape ``(X, Y, Z)``.
        measured: True where the CT was measured and not completed, shape ``(X, Y, Z)``.
        grid: Where the voxels are, LPS mm.
    """

    hu: npt.NDArray[np.float32]
    structure: npt.NDArray[np.uint8]
    ambiguous: npt.NDArray[np.bool_]
    measured: npt.NDArray[np.bool_]
    grid: Grid


def load_case(entry: Mapping[str, Any]) -> HeadCase:
    """Load the case of a datalist entry.

    Args:
        entry: Either ``phantom`` (a seed), or ``ct`` and optionally ``valid`` and ``contours``:
            paths of NIfTI files on one grid. Contours hold the value 7 for the mandible; where
            they are not given, or do not hold it, bone is not told apart from the mandible.
            ``contour_margin`` is how far bone from a contour may still belong to the mandible,
            mm; 8 if not given, for rough contours.

    Raises:
        ValueError: The files are not on the same grid.
    """
    if "phantom" in entry:
        return phantom_case(int(entry["phantom"]))
    image = nibabel.load(Path(entry["ct"]))
    hu = image.get_fdata(dtype=np.float32)
    grid = Grid.from_ras(image.affine, hu.shape)
    measured = np.ones(hu.shape, dtype=bool)
    if entry.get("valid"):
        measured = _companion(entry["valid"], image) > 0
    structure = label_head(hu, grid.spacing)
    bone = structure == Label.BONE
    mandible = np.zeros_like(bone)
    if entry.get("contours"):
        mandible = _companion(entry["contours"], image) == MANDIBLE_CONTOUR
    ambiguous = bone
    if mandible.any():
        margin = float(entry.get("contour_margin", _ROUGH_MM))
        far = ndimage.distance_transform_edt(~mandible, sampling=grid.spacing) > margin
        mandible &= bone & (hu > BONE_HU)
        structure[mandible] = Label.MANDIBLE
        ambiguous = bone & ~mandible & ~far
    return HeadCase(hu, structure, ambiguous, measured, grid)


def phantom_case(seed: int, spacing: float = 4.0, shape: int = 64) -> HeadCase:
    """Random head phantom as a case; the seed decides its shape and pose.

    Args:
        seed: Seed of :meth:`HeadPhantom.random`.
        spacing: Voxel size, mm.
        shape: Voxels along each axis.
    """
    grid = Grid.centred(spacing, shape)
    hu, structure = HeadPhantom.random(seed).voxelise(grid, supersample=2)
    everywhere = np.ones(grid.shape, dtype=bool)
    return HeadCase(hu.astype(np.float32), structure, ~everywhere, everywhere, grid)


def _companion(path: str | Path, image: Any) -> npt.NDArray[np.float32]:
    other = nibabel.load(Path(path))
    if other.shape != image.shape or not np.allclose(other.affine, image.affine, atol=1e-3):
        raise ValueError("the files of a case are not on the same grid")
    values: npt.NDArray[np.float32] = other.get_fdata(dtype=np.float32)
    return values
