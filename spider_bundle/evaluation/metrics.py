"""Scores of one reconstruction against its reference, inside the measured region only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.regression import compute_ssim_and_cs
from monai.metrics.utils import get_edge_surface_distance

from spider_bundle.arrays import Mask
from spider_bundle.cases.labelling import BODY_HU, BONE_HU, label_head
from spider_bundle.intensity import HU_WINDOW, normalise_hu
from spider_bundle.labels import BONES, LABEL_NAMES, Label

SURFACE_TOLERANCE_MM = 2.0
"""Surfaces this near count as the same in the normalised surface distance."""

_LABEL_OF = {
    LABEL_NAMES[label].replace(" ", "_"): label
    for label in (Label.SOFT_TISSUE, Label.INTRACRANIAL, Label.INTERNAL_AIR, Label.MANDIBLE)
}

Volume = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


def psnr(prediction: Volume, reference: Volume, mask: Mask) -> float | None:
    """PSNR in dB over the masked volume (one mean squared error, not a mean over slices).

    Both volumes are in HU ``(X, Y, Z)`` and clipped to :data:`~spider_bundle.intensity.HU_WINDOW`,
    whose width is the data range. None if the mask is empty.
    """
    if not mask.any():
        return None
    low, high = HU_WINDOW
    error = np.clip(prediction[mask], low, high) - np.clip(reference[mask], low, high)
    mse = float(np.mean(np.square(error, dtype=np.float64)))
    return math.inf if mse == 0 else 10 * math.log10((high - low) ** 2 / mse)


def mae(prediction: Volume, reference: Volume, mask: Mask) -> float | None:
    """Mean absolute error in HU over the masked volume, on HU clipped to the window.

    None if the mask is empty.
    """
    if not mask.any():
        return None
    error = np.clip(prediction[mask], *HU_WINDOW) - np.clip(reference[mask], *HU_WINDOW)
    return float(np.mean(np.abs(error), dtype=np.float64))


def dice(prediction: Mask, reference: Mask, mask: Mask) -> float | None:
    """Dice coefficient inside the mask; None if the reference is empty there."""
    size = int(reference[mask].sum())
    if size == 0:
        return None
    overlap = int((prediction & reference)[mask].sum())
    return 2.0 * overlap / (size + int(prediction[mask].sum()))


def ssim(prediction: Volume, reference: Volume, mask: Mask) -> float | None:
    """Mean 3D SSIM over the masked voxels (Gaussian window, sigma 1.5 voxels, 11 voxels wide).

    Both volumes are in HU ``(X, Y, Z)`` and taken on the window, whose width is the data range.
    The outermost 5 voxels, where the window leaves the volume, are not counted. None if no masked
    voxel is left.
    """
    inner = mask[5:-5, 5:-5, 5:-5]
    if not inner.any():
        return None
    similarity, _ = compute_ssim_and_cs(
        *(torch.from_numpy(normalise_hu(v)).float()[None, None] for v in (prediction, reference)),
        spatial_dims=3,
        kernel_size=[11] * 3,
        kernel_sigma=[1.5] * 3,
        data_range=1.0,
    )
    return float(similarity[0, 0].numpy()[inner].mean(dtype=np.float64))


@dataclass(frozen=True)
class SurfaceScores:
    """Distances between two surfaces.

    Attributes:
        hd95: 95th percentile of the Hausdorff distance, mm.
        assd: Average symmetric surface distance, mm.
        nsd: Normalised surface distance: share of both surfaces within
            :data:`SURFACE_TOLERANCE_MM` of the other.
    """

    hd95: float
    assd: float
    nsd: float


def surface_scores(
    prediction: Mask, reference: Mask, mask: Mask, spacing: Sequence[float]
) -> SurfaceScores | None:
    """Compare two surfaces inside the mask.

    Args:
        prediction: Shape ``(X, Y, Z)``.
        reference: The truth.
        mask: Where the truth is known; both are cut there.
        spacing: Voxel size, mm.

    Returns:
        None if one of the two is empty.
    """
    pair = [torch.from_numpy(side & mask) for side in (prediction, reference)]
    if not all(side.any() for side in pair):
        return None
    _, distances, _ = get_edge_surface_distance(*pair, spacing=list(spacing), symmetric=True)
    both = torch.cat([d.flatten() for d in distances]).double()
    return SurfaceScores(
        hd95=float(max(torch.quantile(d.flatten().double(), 0.95) for d in distances)),
        assd=float(both.mean()),
        nsd=float((both <= SURFACE_TOLERANCE_MM).double().mean()),
    )


def score_case(
    hu: Volume,
    labels: Labels,
    reference_hu: Volume,
    reference_labels: Labels,
    measured: Mask,
    spacing: Sequence[float],
    surfaces: bool = True,
) -> dict[str, float | None]:
    """All scores of one case.

    Structures are taken from the reconstruction in three ways: its labels; thresholds on its CT
    (``_thresholded``); the label recipe of :mod:`spider_bundle.cases.labelling` on its CT
    (``_recipe``), as a user who segments the CT would. Bone is scored against the reference's CT
    above 250 HU inside the head, with the predicted bone and mandible together; body against its
    CT above -300 HU inside the head; the other tissues against the reference labels.

    Args:
        hu: Reconstructed HU, shape ``(X, Y, Z)``.
        labels: Reconstructed labels.
        reference_hu: Reference CT on the same grid.
        reference_labels: Its labels.
        measured: Where the reference was measured; nothing else is scored.
        spacing: Voxel size along the axes, mm.
        surfaces: Also the scores that take long: SSIM, surface distances, the recipe.

    Returns:
        Scores by name; ``None`` where the reference has nothing to score.
    """
    head = reference_labels != Label.BACKGROUND
    bone = head & (reference_hu > BONE_HU)
    scores: dict[str, float | None] = {
        "psnr_db": psnr(hu, reference_hu, measured),
        "psnr_head_db": psnr(hu, reference_hu, measured & head),
        "mae_hu": mae(hu, reference_hu, measured),
        "mae_head_hu": mae(hu, reference_hu, measured & head),
    }
    truth = {name: reference_labels == label for name, label in _LABEL_OF.items()}
    pairs = {"bone": (np.isin(labels, BONES), bone)} | {
        name: (labels == label, truth[name]) for name, label in _LABEL_OF.items()
    }
    pairs["bone_thresholded"] = (hu > BONE_HU, bone)
    pairs["body_thresholded"] = (hu > BODY_HU, head & (reference_hu > BODY_HU))
    if surfaces:
        scores["ssim"] = ssim(hu, reference_hu, measured)
        recipe = label_head(hu, spacing)
        pairs["bone_recipe"] = (recipe == Label.BONE, bone)
        pairs |= {
            f"{name}_recipe": (recipe == label, truth[name])
            for name, label in _LABEL_OF.items()
            if label != Label.MANDIBLE  # the recipe takes it for bone
        }
    for name, (predicted, reference) in pairs.items():
        scores[f"dice_{name}"] = dice(predicted, reference, measured)
        if surfaces:
            found = surface_scores(predicted, reference, measured, spacing)
            scores[f"hd95_{name}_mm"] = None if found is None else found.hd95
            scores[f"assd_{name}_mm"] = None if found is None else found.assd
            scores[f"nsd_{name}"] = None if found is None else found.nsd
    return scores
