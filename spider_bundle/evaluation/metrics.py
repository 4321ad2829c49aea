"""Scores of one reconstruction against its reference, inside the measured region only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.metrics.regression import compute_ssim_and_cs

from spider_bundle.cases.labelling import BONE_HU
from spider_bundle.intensity import HU_WINDOW, normalise_hu
from spider_bundle.labels import BONES, LABEL_NAMES, Label

Volume = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]


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


def surface_distances(
    prediction: Mask, reference: Mask, mask: Mask, spacing: Sequence[float]
) -> tuple[float, float] | None:
    """HD95 and ASSD of two surfaces in mm, inside the mask.

    Args:
        prediction: Shape ``(X, Y, Z)``.
        reference: The truth.
        mask: Where the truth is known; both are cut there.
        spacing: Voxel size, mm.

    Returns:
        The 95th percentile of the Hausdorff distance and the average symmetric surface distance;
        None if one of the two is empty.
    """
    pair = [torch.from_numpy(side & mask)[None, None].float() for side in (prediction, reference)]
    if not all(side.any() for side in pair):
        return None
    step = list(spacing)
    hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=step)
    assd = compute_average_surface_distance(
        *pair, include_background=True, symmetric=True, spacing=step
    )
    return float(hd95), float(assd)


def score_case(
    hu: Volume,
    labels: Labels,
    reference_hu: Volume,
    reference_labels: Labels,
    measured: Mask,
    spacing: Sequence[float],
) -> dict[str, float | None]:
    """All scores of one case.

    Bone is scored against the reference's CT above 250 HU inside the head, with the predicted bone
    and mandible together; the other tissues against the reference labels.

    Args:
        hu: Reconstructed HU, shape ``(X, Y, Z)``.
        labels: Reconstructed labels.
        reference_hu: Reference CT on the same grid.
        reference_labels: Its labels.
        measured: Where the reference was measured; nothing else is scored.
        spacing: Voxel size along the axes, mm.

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
        "ssim": ssim(hu, reference_hu, measured),
        "dice_bone_thresholded": dice(hu > BONE_HU, bone, measured),
    }
    structures = {"bone": (np.isin(labels, BONES), bone)} | {
        LABEL_NAMES[label].replace(" ", "_"): (labels == label, reference_labels == label)
        for label in (Label.SOFT_TISSUE, Label.INTRACRANIAL, Label.INTERNAL_AIR, Label.MANDIBLE)
    }
    for name, (predicted, truth) in structures.items():
        scores[f"dice_{name}"] = dice(predicted, truth, measured)
        distances = surface_distances(predicted, truth, measured, spacing)
        scores[f"hd95_{name}_mm"], scores[f"assd_{name}_mm"] = distances or (None, None)
    return scores
