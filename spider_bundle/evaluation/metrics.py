"""Scores of one reconstruction against its reference, inside the measured region only."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from spider_bundle.cases.labelling import BONE_HU
from spider_bundle.intensity import HU_WINDOW
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


def score_case(
    hu: Volume,
    labels: Labels,
    reference_hu: Volume,
    reference_labels: Labels,
    measured: Mask,
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
        "dice_bone": dice(np.isin(labels, BONES), bone, measured),
        "dice_bone_thresholded": dice(hu > BONE_HU, bone, measured),
    }
    for label in (Label.SOFT_TISSUE, Label.INTRACRANIAL, Label.INTERNAL_AIR, Label.MANDIBLE):
        name = "dice_" + LABEL_NAMES[label].replace(" ", "_")
        scores[name] = dice(labels == label, reference_labels == label, measured)
    return scores
