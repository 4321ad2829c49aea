"""Groups of cases follow from what the scan shows."""

from __future__ import annotations

from typing import Any

import torch

from spider_bundle.evaluation.subgroups import group_of


def item(measured_to: int, dense_voxels: int, spacing: float = 4.0) -> dict[str, Any]:
    """A head of 40 layers, measured up to one of them, with some voxels of metal."""
    structure = torch.zeros(20, 20, 40, dtype=torch.uint8)
    structure[5:15, 5:15] = 1
    measured = torch.zeros(structure.shape, dtype=torch.bool)
    measured[:, :, :measured_to] = True
    ct = torch.zeros(structure.shape)
    ct[5, 5, :dense_voxels] = 2500.0
    ct[6, 6, measured_to:] = 2500.0  # not measured: completed from elsewhere
    affine = torch.diag(torch.tensor([-spacing, -spacing, spacing, 1.0]))
    return {"structure": structure, "measured": measured, "ct": ct, "affine": affine}


def test_field_of_view_is_what_is_missing_below_the_vertex() -> None:
    assert group_of(item(28, 0)).field_of_view.startswith("more than 45")  # 48 mm
    assert group_of(item(29, 0)).field_of_view.startswith("at most 45")  # 44 mm
    assert group_of(item(28, 0, spacing=2.0)).field_of_view.startswith("at most 45")


def test_metal_is_a_volume_of_measured_dense_voxels() -> None:
    assert group_of(item(40, 15)).metal == "no dental metal"  # 0.96 ml
    assert group_of(item(40, 16)).metal == "dental metal"
    assert group_of(item(20, 0)).metal == "no dental metal"


def test_resolution_is_the_voxel_size() -> None:
    assert group_of(item(40, 0, spacing=2.0)).resolution == "2.0 mm"
