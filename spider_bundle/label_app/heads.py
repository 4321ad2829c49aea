"""Head CTs with edited label maps, as a labelling tool keeps them, as training cases."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label


class LoadEditedHeadd(LoadHeadCased):
    """Load a CT ``image`` and its edited label map ``label`` into a case dictionary."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load.

        Raises:
            ValueError: The label map is on another grid, or holds values that are no labels.
        """
        name = Path(data["image"]).name.partition(".")[0]
        out = super().__call__({"case": name, "ct": data["image"]})
        labels = nibabel.load(data["label"])
        affine = Grid.from_ras(labels.affine, labels.shape).affine
        if labels.shape != out["ct"].shape or not np.allclose(affine, out["affine"], atol=1e-3):
            raise ValueError("a label map is not on the grid of its CT")
        values = np.rint(labels.get_fdata(dtype=np.float32))
        if not np.isin(values, list(Label)).all():
            raise ValueError("a label map holds values that are no labels")
        out["structure"] = torch.from_numpy(values.astype(np.uint8))
        out["ambiguous"] = torch.zeros_like(out["measured"])
        return out


def check_prepared(path: str | Path, name: str) -> None:
    """Refuse a CT that does not lie about the isocentre as ``spider prepare`` lays it.

    Args:
        path: NIfTI file.
        name: What to call it in the message.

    Raises:
        ValueError: The world origin is not in the middle third of the volume, or the volume is
            not aligned with the patient axes.
    """
    image = nibabel.load(path)
    grid = Grid.from_ras(image.affine, image.shape)
    index = np.linalg.solve(grid.affine, [0.0, 0.0, 0.0, 1.0])[:3] / (np.array(grid.shape) - 1)
    linear = grid.affine[:3, :3]
    if np.any(np.abs(index - 0.5) > 1 / 6) or not np.allclose(linear, np.diag(np.diag(linear))):
        raise ValueError(f"{name} does not lie about the isocentre; run `spider prepare` on it")
