"""Types of NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Coordinates, geometry and line integrals.
FloatArray = npt.NDArray[np.float64]
#: Volumes and images.
Float32Array = npt.NDArray[np.float32]
#: Floating-point values of any precision.
AnyFloatArray = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
