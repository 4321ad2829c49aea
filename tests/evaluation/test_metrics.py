"""Scores against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spider_bundle.evaluation.metrics import dice, mae, psnr, score_case
from spider_bundle.labels import Label

SHAPE = (2, 3, 4)
EVERYWHERE = np.ones(SHAPE, dtype=bool)
ZERO = np.zeros(SHAPE, dtype=np.float32)


def first(count: int) -> np.ndarray:
    """Mask of the first voxels in memory order."""
    return (np.arange(24) < count).reshape(SHAPE)


def test_psnr_range_is_the_window() -> None:
    # 30 HU everywhere: 20 log10(3000 / 30)
    assert psnr(ZERO + 30, ZERO, EVERYWHERE) == pytest.approx(40.0)


def test_psnr_is_of_one_mean_squared_error() -> None:
    # 300 HU in one slice of four along z, 3 HU elsewhere; averaging slices would give 50 dB
    error = np.full(SHAPE, 3.0)
    error[:, :, 0] = 300.0
    mse = (300.0**2 + 3 * 3.0**2) / 4
    assert psnr(ZERO + error, ZERO, EVERYWHERE) == pytest.approx(10 * math.log10(9e6 / mse))
    assert psnr(ZERO + error, ZERO, EVERYWHERE) == pytest.approx(26.02, abs=0.01)


def test_mae_by_hand() -> None:
    error = np.where(first(6), -100.0, 20.0)
    assert mae(ZERO + error, ZERO, EVERYWHERE) == pytest.approx((6 * 100 + 18 * 20) / 24)


def test_only_the_mask_counts() -> None:
    error = np.where(first(6), 30.0, 900.0)
    assert psnr(ZERO + error, ZERO, first(6)) == pytest.approx(40.0)
    assert mae(ZERO + error, ZERO, first(6)) == pytest.approx(30.0)
    assert mae(ZERO + error, ZERO, ~first(6)) == pytest.approx(900.0)


def test_values_are_clipped_to_the_window() -> None:
    # metal beyond 2000 HU and padding below -1000 HU are no error; 1900 against 3000 is 100
    assert mae(ZERO + 2500, ZERO + 3071, EVERYWHERE) == 0
    assert mae(ZERO - 1024, ZERO - 1000, EVERYWHERE) == 0
    assert mae(ZERO + 1900, ZERO + 3000, EVERYWHERE) == pytest.approx(100.0)
    assert psnr(ZERO + 1970, ZERO + 3000, EVERYWHERE) == pytest.approx(40.0)
    assert psnr(ZERO + 2500, ZERO + 3071, EVERYWHERE) == math.inf


def test_stored_int16_does_not_overflow() -> None:
    low, high = np.full(SHAPE, -1000, np.int16), np.full(SHAPE, 2000, np.int16)
    assert psnr(low, high, EVERYWHERE) == pytest.approx(0.0)
    assert mae(low, high, EVERYWHERE) == pytest.approx(3000.0)


def test_empty_mask_has_no_score() -> None:
    assert psnr(ZERO, ZERO, ~EVERYWHERE) is None
    assert mae(ZERO, ZERO, ~EVERYWHERE) is None
    assert dice(EVERYWHERE, EVERYWHERE, ~EVERYWHERE) is None


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (first(8), first(8), 1.0),
        (first(8), first(4), 2 * 4 / 12),
        (~first(8), first(8), 0.0),
        (first(0), first(8), 0.0),
        (first(8), first(0), None),
        (first(0), first(0), None),
    ],
    ids=["equal", "half", "apart", "missed", "invented", "both empty"],
)
def test_dice_cases(prediction: np.ndarray, reference: np.ndarray, expected: float | None) -> None:
    assert dice(prediction, reference, EVERYWHERE) == (expected and pytest.approx(expected))


def test_dice_counts_inside_the_mask_only() -> None:
    # the mask leaves 4 of the prediction's 8 and 6 of the reference's 10 voxels, 4 in common
    mask = ~first(4)
    assert dice(first(8), first(10), mask) == pytest.approx(2 * 4 / (4 + 6))


def test_bone_is_the_ct_above_threshold_inside_the_head() -> None:
    reference_labels = np.zeros(SHAPE, np.uint8)
    reference_labels[first(12)] = Label.SOFT_TISSUE
    reference_hu = np.full(SHAPE, -1000.0)
    reference_hu[first(12)] = 40.0
    reference_hu[first(4)] = 800.0
    reference_hu[1, 2, 3] = 900.0  # dense, but outside the head: a headrest
    labels = np.zeros(SHAPE, np.uint8)
    labels[first(2)] = Label.BONE
    labels[first(3) & ~first(2)] = Label.MANDIBLE  # counts as bone
    labels[first(6) & ~first(3)] = Label.SOFT_TISSUE
    hu = np.where(first(8), 251.0, 250.0)  # bone is above 250 HU, not at it
    scores = score_case(hu, labels, reference_hu, reference_labels, EVERYWHERE)
    assert scores["dice_bone"] == pytest.approx(2 * 3 / (3 + 4))
    assert scores["dice_bone_thresholded"] == pytest.approx(2 * 4 / (8 + 4))
    assert scores["dice_soft_tissue"] == pytest.approx(2 * 3 / (3 + 12))
    assert scores["dice_mandible"] is None  # the reference has none
    in_head = (4 * abs(251 - 800) + 4 * 211 + 4 * 210) / 12
    assert scores["mae_head_hu"] == pytest.approx(in_head)


def test_nothing_outside_the_measured_region_is_scored() -> None:
    labels = np.full(SHAPE, Label.SOFT_TISSUE, np.uint8)
    good = score_case(ZERO + 10, labels, ZERO, labels, first(12))
    spoilt_hu = np.where(first(12), 10.0, 1500.0)
    spoilt_labels = np.where(first(12), labels, Label.BONE)
    assert score_case(spoilt_hu, spoilt_labels, ZERO, labels, first(12)) == good
    assert good["mae_hu"] == pytest.approx(10.0)
    assert good["dice_soft_tissue"] == 1.0


def test_case_without_a_head_has_no_head_scores() -> None:
    nothing = np.zeros(SHAPE, np.uint8)
    scores = score_case(ZERO + 3, nothing, ZERO, nothing, EVERYWHERE)
    assert scores["psnr_head_db"] is None
    assert scores["mae_head_hu"] is None
    assert scores["psnr_db"] == pytest.approx(60.0)
