"""Confidence intervals of means over few patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 2000


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean over patients with its 95 % confidence interval.

    The interval is the percentile bootstrap over patients (Efron and Tibshirani 1993). With few
    patients it is too narrow rather than too wide.

    Args:
        values: One value of each patient.
        seed: Seed of the resampling.

    Returns:
        Mean, lower and upper end; the ends are NaN with fewer than two values.

    Raises:
        ValueError: No values.
    """
    if not len(values):
        raise ValueError("no values")
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if len(data) < 2:
        return mean, float("nan"), float("nan")
    if np.ptp(data) == 0:
        return mean, mean, mean
    interval = bootstrap(
        (data,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return mean, float(interval.low), float(interval.high)


def paired_difference(
    first: Sequence[float | None], second: Sequence[float | None], seed: int = 0
) -> tuple[float, float, float] | None:
    """Mean of ``first - second`` over the patients who have both, with its interval.

    Args:
        first: Values of one method, by patient; None where there is none.
        second: Values of the other method for the same patients.
        seed: Seed of the resampling.

    Returns:
        As :func:`mean_interval`; None if no patient has both.
    """
    pairs = zip(first, second, strict=True)
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return mean_interval(differences, seed) if differences else None
