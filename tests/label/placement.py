"""Whether a label map lies where another one does."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SHARE = 0.98
"""Labels must agree on this share of the head; a shift by one voxel already gives less."""


def agreement(found: Any, reference: Any) -> float:
    """Share of the voxels of either head where two NIfTI label maps agree in the world.

    The map found is looked up at the world positions of the reference's voxels (nearest voxel,
    background outside), so only positions count and not how the array is stored.
    """
    values = np.asarray(found.dataobj)
    wanted = np.asarray(reference.dataobj)
    index = np.indices(wanted.shape).reshape(3, -1)
    to_found = np.linalg.inv(found.affine) @ reference.affine
    at = np.rint(to_found[:3, :3] @ index + to_found[:3, 3:]).astype(int)
    inside = np.all((at >= 0) & (at < np.array(values.shape)[:, None]), axis=0)
    looked_up: npt.NDArray[Any] = np.zeros(index.shape[1], dtype=wanted.dtype)
    looked_up[inside] = values[tuple(at[:, inside])]
    flat = wanted.reshape(-1)
    head = (flat > 0) | (looked_up > 0)
    return float(np.mean(looked_up[head] == flat[head]))


def assert_placed(found: Any, reference: Any) -> None:
    """The label map is that of the reference, within less than a voxel and in its orientation."""
    assert found.shape == reference.shape
    assert np.allclose(found.affine, reference.affine, atol=1e-3)
    assert agreement(found, reference) > SHARE
