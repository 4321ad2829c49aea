"""Small made-up heads as datalist entries and evaluation items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch

from spider_bundle.evaluation.baselines.training_examples import Simulator
from spider_bundle.geometry import Grid
from spider_bundle.simulation import NormaliseRadiographsd, SimulateRadiographsd

GRID = Grid.centred(6.0, 32)
SIZE = 64
PIXEL_SIZE = 4.0
IMAGE: dict[str, Any] = {"size": SIZE, "pixel_size": PIXEL_SIZE}
"""Image of the baselines under test: small, but wide enough for the whole head."""


def write_head(
    folder: Path,
    name: str,
    radii: Sequence[float] = (70.0, 70.0, 70.0),
    bone_at: Sequence[float] = (0.0, 0.0, 0.0),
    bone_radius: float = 22.0,
    bone_hu: float = 1000.0,
) -> dict[str, str]:
    """Entry of an ellipsoid of water with a ball of bone in it; mm, LPS."""
    points = GRID.points()
    hu = np.where(np.linalg.norm(points / np.asarray(radii), axis=-1) < 1, 40.0, -1000.0)
    hu[np.linalg.norm(points - np.asarray(bone_at), axis=-1) < bone_radius] = bone_hu
    path = folder / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), GRID.ras_affine), path)
    return {"case": name, "ct": str(path)}


def radiographed(entry: dict[str, str], pose: npt.ArrayLike | None = None) -> dict[str, Any]:
    """Item of the entry, moved if wanted, under an acquisition that no baseline learns from."""
    item = next(Simulator(1, 1000, **IMAGE).items(entry))
    if pose is None:
        return item
    simulate = SimulateRadiographsd(size=SIZE, pixel_size=PIXEL_SIZE)
    simulate.set_random_state(1000)
    item["pose"] = torch.tensor(pose, dtype=torch.float64)
    moved = simulate(dict(item.items()))
    return {str(key): value for key, value in NormaliseRadiographsd()(moved).items()}
