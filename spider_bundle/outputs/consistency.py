"""How well a reprojected reconstruction agrees with the radiograph it came from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from spider_bundle.arrays import AnyFloatArray


def reprojection_consistency(
    image: AnyFloatArray, reprojection: AnyFloatArray, mask: npt.NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Agreement of one radiograph with its reprojection inside the exposed field.

    The tone curve of a radiograph is unknown but monotone, so the rank correlation is the measure
    that does not depend on it; the gradient correlation looks at edges only.

    Args:
        image: Network image of one view, shape ``(H, W)``, 0 outside the exposed field.
        reprojection: Reprojection in the same view, shape ``(H, W)``.
        mask: The exposed field, shape ``(H, W)``; where the image is positive if not given, which
            leaves out air that the image shows as 0.

    Returns:
        ``pearson``, ``spearman`` and ``gradient_correlation``, each -1 to 1, and
        ``exposed_fraction``, the part of the pixels compared. A correlation is NaN where one of
        the two is constant.

    Raises:
        ValueError: The shapes differ.
    """
    exposed = image > 0 if mask is None else mask
    if not image.shape == reprojection.shape == exposed.shape:
        raise ValueError(
            f"image {image.shape}, reprojection {reprojection.shape}, mask {exposed.shape} differ"
        )
    first, second = image[exposed], reprojection[exposed]
    gradients = [
        _correlation(a[exposed], b[exposed])
        for a, b in zip(np.gradient(image), np.gradient(reprojection), strict=True)
    ]
    return {
        "pearson": _correlation(first, second),
        "spearman": _correlation(rankdata(first), rankdata(second)),
        "gradient_correlation": float(np.mean(gradients)),
        "exposed_fraction": float(exposed.mean()),
    }


def _correlation(first: AnyFloatArray, second: AnyFloatArray) -> float:
    if first.size < 2:
        return float("nan")
    a = first.astype(np.float64) - first.mean(dtype=np.float64)
    b = second.astype(np.float64) - second.mean(dtype=np.float64)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")
