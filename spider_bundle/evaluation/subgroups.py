"""Groups of cases for disaggregated results: field of view, dental metal, resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spider_bundle.evaluation.methods import Item

METAL_HU = 2000.0
"""No tissue of the head at 4 mm is denser than this."""
METAL_ML = 1.0
"""A case with more than this above :data:`METAL_HU` counts as one with metal."""
VAULT_MM = 45.0
"""A case whose scan ends more than this below the vertex counts as one with a short field."""


@dataclass(frozen=True)
class Group:
    """What is known of a case beside its radiographs.

    Attributes:
        field_of_view: How much of the vault the scan measured, in words.
        metal: Whether it shows dental metal, in words.
        resolution: Voxel size, in words.
    """

    field_of_view: str
    metal: str
    resolution: str


def group_of(item: Item) -> Group:
    """Return the groups of a case (see :mod:`spider_bundle.evaluation.methods` for its keys)."""
    spacing = torch.linalg.vector_norm(item["affine"][:3, :3].double(), dim=0)
    head = item["structure"] > 0
    occupied = head.any(dim=0).any(dim=0).nonzero().flatten()
    known = (head & item["measured"]).any(dim=0).any(dim=0).nonzero().flatten()
    missing = 0.0
    if len(occupied) and len(known):
        missing = float((occupied.max() - known.max()) * spacing[2])
    dense = float((item["measured"] & (item["ct"] > METAL_HU)).sum() * spacing.prod() / 1000)
    return Group(
        field_of_view=(
            f"more than {VAULT_MM:.0f} mm of the vault not measured"
            if missing > VAULT_MM
            else f"at most {VAULT_MM:.0f} mm of the vault not measured"
        ),
        metal="dental metal" if dense > METAL_ML else "no dental metal",
        resolution=f"{float(spacing.max()):.1f} mm",
    )
