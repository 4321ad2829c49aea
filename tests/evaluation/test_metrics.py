"""Scores against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)

from spider_bundle.cases.case import phantom_case
from spider_bundle.evaluation.metrics import (
    dice,
    mae,
    psnr,
    score_case,
    ssim,
    surface_scores,
)
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


CUBE = np.ones((12, 12, 12), dtype=bool)


def test_ssim_of_constant_volumes_by_hand() -> None:
    # without structure only the means count: (2 a b + c) / (a^2 + b^2 + c), c = 0.01^2
    reference, prediction = np.full(CUBE.shape, 500.0), np.full(CUBE.shape, -250.0)
    expected = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    assert ssim(prediction, reference, CUBE) == pytest.approx(expected, abs=1e-3)
    assert ssim(reference, reference, CUBE) == pytest.approx(1.0, abs=1e-5)
    assert ssim(reference, reference, ~CUBE) is None


def test_surface_distances_are_in_mm() -> None:
    prediction, reference = ~CUBE, ~CUBE
    prediction[3, 4, 5] = True
    reference[3, 8, 2] = True
    distance = math.hypot(4 * 2.0, 3 * 5.0)
    scores = surface_scores(prediction, reference, CUBE, (1.0, 2.0, 5.0))
    assert scores is not None
    assert (scores.hd95, scores.assd, scores.nsd) == pytest.approx((distance, distance, 0.0))
    assert surface_scores(prediction, ~CUBE, CUBE, (1.0, 2.0, 5.0)) is None


def test_surface_scores_are_those_of_monai() -> None:
    rng = np.random.default_rng(3)
    sides = [rng.random(CUBE.shape) < share for share in (0.1, 0.2)]
    spacing = [1.0, 1.5, 2.5]
    scores = surface_scores(*sides, CUBE, spacing)
    assert scores is not None
    pair = [torch.from_numpy(side)[None, None] for side in sides]
    hd95 = compute_hausdorff_distance(*pair, True, percentile=95, spacing=spacing)
    assd = compute_average_surface_distance(*pair, True, symmetric=True, spacing=spacing)
    nsd = compute_surface_dice(*pair, [2.0], include_background=True, spacing=spacing)
    wanted = (float(hd95), float(assd), float(nsd))
    assert (scores.hd95, scores.assd, scores.nsd) == pytest.approx(wanted, rel=1e-5)


def test_normalised_surface_distance_forgives_the_tolerance_and_no_more() -> None:
    prediction, reference = ~CUBE, ~CUBE
    reference[2:8, 2:8, 2:8] = True
    prediction[3:9, 2:8, 2:8] = True
    for step, nsd in ((2.0, 1.0), (2.1, None)):
        scores = surface_scores(prediction, reference, CUBE, (step, 1.0, 1.0))
        assert scores is not None
        if nsd is None:
            assert scores.nsd < 1
        else:
            assert scores.nsd == nsd


def test_recipe_segments_the_reconstructed_ct() -> None:
    phantom = phantom_case(1, spacing=4.0, shape=64)
    labels = np.zeros_like(phantom.structure)
    scores = score_case(
        phantom.hu, labels, phantom.hu, phantom.structure, phantom.measured, (4.0, 4.0, 4.0)
    )
    assert scores["dice_intracranial"] == 0  # the labels hold nothing, the CT holds everything
    assert (scores["dice_intracranial_recipe"] or 0) > 0.9
    assert (scores["dice_bone_recipe"] or 0) > 0.9
    assert (scores["dice_body_thresholded"] or 0) > 0.97


def test_quick_scores_are_the_same_without_surfaces() -> None:
    phantom = phantom_case(2, spacing=8.0, shape=32)
    given = (
        phantom.hu + 50,
        phantom.structure,
        phantom.hu,
        phantom.structure,
        phantom.measured,
        (8.0, 8.0, 8.0),
    )
    full, quick = score_case(*given), score_case(*given, surfaces=False)
    assert {name: full[name] for name in quick} == quick
    assert not [name for name in quick if name.startswith(("hd95", "assd", "nsd", "ssim"))]


def embedded(block: np.ndarray, fill: float = 0) -> np.ndarray:
    """A block of SHAPE inside a volume large enough for SSIM's window."""
    volume = np.full(CUBE.shape, fill, dtype=block.dtype)
    volume[5:7, 5:8, 5:9] = block
    return volume


INSIDE = embedded(EVERYWHERE)
MM = (2.0, 2.0, 2.0)


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
    scores = score_case(
        embedded(hu),
        embedded(labels),
        embedded(reference_hu),
        embedded(reference_labels),
        INSIDE,
        MM,
    )
    assert scores["dice_bone"] == pytest.approx(2 * 3 / (3 + 4))
    assert scores["dice_bone_thresholded"] == pytest.approx(2 * 4 / (8 + 4))
    assert scores["dice_soft_tissue"] == pytest.approx(2 * 3 / (3 + 12))
    assert scores["dice_mandible"] is None  # the reference has none
    in_head = (4 * abs(251 - 800) + 4 * 211 + 4 * 210) / 12
    assert scores["mae_head_hu"] == pytest.approx(in_head)


def test_nothing_outside_the_measured_region_is_scored() -> None:
    labels = embedded(np.full(SHAPE, Label.SOFT_TISSUE, np.uint8))
    zero, measured = np.zeros(CUBE.shape), embedded(first(12))
    good = score_case(zero + 10, labels, zero, labels, measured, MM)
    spoilt_hu = np.where(measured, 10.0, 1500.0)
    spoilt_labels = np.where(measured, labels, Label.BONE)
    spoilt = score_case(spoilt_hu, spoilt_labels, zero, labels, measured, MM)
    for scores in (good, spoilt):  # SSIM's windows and the recipe reach beyond the mask
        for name in [n for n in scores if n == "ssim" or "recipe" in n]:
            del scores[name]
    assert spoilt == good
    assert good["mae_hu"] == pytest.approx(10.0)
    assert good["dice_soft_tissue"] == 1.0
    assert good["hd95_soft_tissue_mm"] == 0.0


def test_case_without_a_head_has_no_head_scores() -> None:
    nothing, zero = np.zeros(CUBE.shape, np.uint8), np.zeros(CUBE.shape)
    scores = score_case(zero + 3, nothing, zero, nothing, CUBE, MM)
    assert scores["psnr_head_db"] is None
    assert scores["mae_head_hu"] is None
    assert scores["psnr_db"] == pytest.approx(60.0)
