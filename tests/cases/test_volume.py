"""Axes of volumes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spider_bundle.cases.volume import in_ras_order
from spider_bundle.geometry import rotation_about

angle = st.floats(-180, 180)


@given(st.tuples(angle, angle, angle), st.floats(-0.7, 0.7), st.permutations([2.0, 3.0, 0.5]))
@settings(deadline=None, max_examples=60)
def test_no_voxel_moves_when_axes_are_turned(
    angles: tuple[float, float, float], shear: float, spacing: list[float]
) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    affine = np.diag([*spacing, 1.0])
    for axis in range(3):
        affine[:3, :3] = rotation_about(axis, angles[axis]) @ affine[:3, :3]
    affine[:3, 3] = [40.0, -250.0, 1800.0]
    affine[:3, 2] += shear * affine[:3, 1]
    turned, grid = in_ras_order(values, affine)
    for value in (0, 1, 9, 23):
        (before,), (after,) = np.argwhere(values == value), np.argwhere(turned == value)
        assert np.allclose(grid.affine @ [*after, 1], affine @ [*before, 1], atol=1e-6)
    if max(np.abs(angles)) < 15:  # already nearly LPS: both must be flipped
        assert np.array_equal(turned, values[::-1, ::-1])
