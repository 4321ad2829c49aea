"""The scales of CT intensity: HU, the network's window and linear attenuation."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

HU_WINDOW: tuple[float, float] = (-1000.0, 2000.0)
"""HU that the network maps to 0 and 1. PSNR and MAE are taken on this window."""

HU_FILE_RANGE: tuple[int, int] = (-1024, 3071)
"""Range of HU in files (12 bit CT)."""

MU_WATER: float = 0.02
"""Linear attenuation of water at about 63 keV, 1/mm (NIST XCOM, 0.0204 at 60, 0.0184 at 80 keV)."""

Array = TypeVar("Array", "torch.Tensor", "np.ndarray")


def normalise_hu(hu: Array) -> Array:
    """HU to the network's 0..1 scale, clipped to :data:`HU_WINDOW`. Any shape."""
    low, high = HU_WINDOW
    return ((hu - low) / (high - low)).clip(0.0, 1.0)


def denormalise_hu(intensity: Array) -> Array:
    """Convert the network's scale back to HU, clipped to :data:`HU_WINDOW`. Any shape."""
    low, high = HU_WINDOW
    return intensity.clip(0.0, 1.0) * (high - low) + low


def attenuation(hu: Array, mu_water: float = MU_WATER) -> Array:
    """Linear attenuation of tissue in 1/mm from its HU, never negative. Any shape."""
    return (hu.clip(-1000.0, None) / 1000.0 + 1.0) * mu_water
