"""Confidence intervals of means over few patients."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spider_bundle.evaluation.bootstrap import mean_interval, paired_difference


def test_interval_is_near_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(10.0, 2.0, size=200)
    mean, low, high = mean_interval(values.tolist())
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.1)


def test_interval_repeats_and_depends_on_its_seed() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 9.0]
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values, 1) != mean_interval(values, 2)


def test_few_or_equal_values() -> None:
    assert mean_interval([3.0, 3.0]) == (3.0, 3.0, 3.0)
    mean, low, high = mean_interval([3.0])
    assert mean == 3.0
    assert math.isnan(low)
    assert math.isnan(high)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_pairs_tell_apart_what_means_cannot() -> None:
    patients = [10.0, 20.0, 30.0, 40.0]
    better = [value + 1.0 for value in patients]
    found = paired_difference(better, patients)
    assert found == pytest.approx((1.0, 1.0, 1.0))
    # the two means alone are far from different
    assert mean_interval(better)[1] < mean_interval(patients)[2]


def test_patients_without_one_of_the_values_do_not_count() -> None:
    assert paired_difference([1.0, None, 5.0], [0.0, 1.0, None]) == pytest.approx(
        (1.0, math.nan, math.nan), nan_ok=True
    )
    assert paired_difference([None], [1.0]) is None
