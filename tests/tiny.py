"""A network and cases that train within seconds."""

from __future__ import annotations

from typing import Any

TINY_NETWORK: dict[str, Any] = {
    "network_def::features": [8, 8, 16, 16],
    "network_def::map_channels": 8,
    "network_def::context_channels": 8,
    "network_def::hidden": [16, 16],
    "network_def::branch": [16],
    "network_def::grid_spacing": 8.0,
    "network_def::grid_shape": [32, 32, 32],
}
UNTRAINED = {"minimum_agreement": None}
"""What is stated at inference for a network that has learnt nothing."""
PHANTOMS = [{"case": f"phantom_{seed}", "phantom": seed} for seed in (1, 2)]
