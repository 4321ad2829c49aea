"""Peers of SPIDER: other networks for two radiographs, trained and scored by the same pipeline.

``NETWORKS`` are values of ``network_def`` in ``configs/train.json``: with one of them as an
override, the training is that of the peer.
"""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {
    "num_classes": 6,
    "lattice_spacing": 4.0,
    "lattice_shape": [64, 64, 64],
    "image_size": "@image_size",
    "pixel_size": "@pixel_size",
    "grid_spacing": 2.0,
    "grid_shape": [128, 128, 128],
}
NETWORKS: dict[str, dict[str, Any]] = {
    "lifting": {
        "_target_": "benchmarks.peers.lifting.LiftingNet",
        "features": [16, 32, 64, 128, 256],
        "volume_features": [64, 32, 24, 12],
        **_COMMON,
    },
    "back_projection": {
        "_target_": "benchmarks.peers.back_projection.BackProjectionUNet",
        "features": [8, 16, 32, 96, 192, 8],
        "stride": 2,
        **_COMMON,
    },
}
"""Config of each peer, at the size of SPIDER."""
