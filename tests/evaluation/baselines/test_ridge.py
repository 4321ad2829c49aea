"""Ridge regression: the closed form, and heads that vary as a linear model can follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from spider_bundle.evaluation.baselines.mean_head import MeanHead
from spider_bundle.evaluation.baselines.ridge import PENALTIES, RidgeHead, fit_ridge
from spider_bundle.evaluation.metrics import mae
from spider_bundle.labels import Label
from tests.evaluation.heads import GRID, IMAGE, radiographed, write_head

FloatArray = npt.NDArray[np.float64]
PATIENTS, REPEATS, PIXELS, VOXELS = 6, 3, 10, 4


def samples() -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(PATIENTS, VOXELS))
    radiographs = (targets @ rng.normal(size=(VOXELS, PIXELS)))[:, None]
    return radiographs + rng.normal(size=(PATIENTS, REPEATS, PIXELS)), targets


def primal(x: FloatArray, y: FloatArray, penalty: float, new: FloatArray) -> FloatArray:
    """Ridge regression as in the textbook, with the intercept not penalised."""
    centred = x - x.mean(axis=0)
    normal = centred.T @ centred + penalty * np.eye(x.shape[1])
    slope = np.linalg.solve(normal, centred.T @ (y - y.mean(axis=0)))
    predicted: FloatArray = y.mean(axis=0) + (new - x.mean(axis=0)) @ slope
    return predicted


def unit(x: FloatArray) -> float:
    centred = x - x.mean(axis=0)
    return float(np.trace(centred @ centred.T) / len(x))


def test_the_dual_form_predicts_as_the_primal_one() -> None:
    radiographs, targets = samples()
    fitted = fit_ridge(radiographs, targets)
    flat, repeated = radiographs.reshape(-1, PIXELS), np.repeat(targets, REPEATS, axis=0)
    new = np.random.default_rng(1).normal(size=PIXELS)
    expected = primal(flat, repeated, fitted.penalty * unit(flat), new)
    np.testing.assert_allclose(fitted(new) @ targets, expected, rtol=1e-6)
    assert fitted(new).sum() == pytest.approx(1)


def test_the_penalty_is_the_best_when_each_patient_is_left_out() -> None:
    radiographs, targets = samples()
    scale = unit(radiographs.reshape(-1, PIXELS))
    errors = []
    for penalty in PENALTIES:
        squared = []
        for p in range(PATIENTS):
            x = np.delete(radiographs, p, axis=0).reshape(-1, PIXELS)
            y = np.repeat(np.delete(targets, p, axis=0), REPEATS, axis=0)
            squared.append((primal(x, y, penalty * scale, radiographs[p]) - targets[p]) ** 2)
        errors.append(np.mean(squared))
    fitted = fit_ridge(radiographs, targets)
    np.testing.assert_allclose(fitted.errors, errors, rtol=1e-6)
    assert fitted.penalty == PENALTIES[int(np.argmin(errors))]
    assert PENALTIES[0] < fitted.penalty < PENALTIES[-1]


def test_heads_that_differ_in_one_thing_are_recovered(tmp_path: Path) -> None:
    sizes = np.linspace(55, 80, 6)
    training = [
        write_head(tmp_path, f"t{n}", radii=(70.0, 70.0, size)) for n, size in enumerate(sizes)
    ]
    ridge = RidgeHead(training, acquisitions=3, rows=32, **IMAGE)
    mean = MeanHead(training)
    everywhere = np.ones(GRID.shape, dtype=bool)
    lengths = []
    for size in (57.5, 77.5):
        item = radiographed(write_head(tmp_path, "new", radii=(70.0, 70.0, size)))
        predicted, truth = ridge(item), item["ct"].numpy()
        error = mae(predicted.hu, truth, everywhere)
        naive = mae(mean(item).hu, truth, everywhere)
        assert error is not None
        assert naive is not None
        assert error < 0.6 * naive
        head = predicted.labels != Label.BACKGROUND
        assert (head == (item["structure"].numpy() != Label.BACKGROUND)).mean() > 0.98
        assert (predicted.hu[predicted.labels == Label.BONE] > 250).mean() > 0.9
        lengths.append(int(head.any(axis=(0, 1)).sum()))
    assert lengths[1] - lengths[0] >= 4  # of 40 mm / 6 mm = 6.7 voxels


def test_too_few_or_empty_radiographs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two cases"):
        fit_ridge(np.ones((1, 3, 4)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="all the same"):
        fit_ridge(np.ones((2, 3, 4)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="no cases"):
        RidgeHead([], **IMAGE)(radiographed(write_head(tmp_path, "a")))
