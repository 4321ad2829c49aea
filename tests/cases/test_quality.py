"""Quality checks of prepared heads."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spider_bundle.cases.labelling import label_head
from spider_bundle.cases.quality import CHECKS, Verdict, judge, measure_head, worst
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from spider_bundle.phantom import HeadPhantom

GRID = Grid.centred(4.0, 64)


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    hu = HeadPhantom.nominal().voxelise(GRID, supersample=2)[0].astype(np.float32)
    return hu, label_head(hu, GRID.spacing)


def test_limits_are_inclusive_and_nested() -> None:
    assert judge("air_hu", -1000) == Verdict.OK
    assert judge("air_hu", -950) == Verdict.OK
    assert judge("air_hu", -949) == Verdict.WARN
    assert judge("air_hu", -799) == Verdict.REJECT
    assert judge("air_hu", None) == judge("air_hu", math.nan) == Verdict.WARN
    for limits in CHECKS.values():
        assert limits.possible[0] <= limits.good[0] <= limits.good[1] <= limits.possible[1]


def test_the_worst_verdict_counts() -> None:
    assert worst([]) == Verdict.OK
    assert worst([Verdict.OK, Verdict.WARN, Verdict.OK]) == Verdict.WARN
    assert worst([Verdict.REJECT, Verdict.WARN]) == Verdict.REJECT


def test_volumes_and_values_are_those_of_the_phantom(
    head: tuple[np.ndarray, np.ndarray],
) -> None:
    hu, structure = head
    truth = HeadPhantom.nominal().voxelise(GRID, supersample=2)[1]
    seen = measure_head(hu, structure, np.ones(GRID.shape, dtype=bool), GRID)
    brain_ml = (truth == Label.INTRACRANIAL).sum() * 0.064
    assert seen["intracranial_ml"] == pytest.approx(brain_ml, rel=0.1)
    inside = (truth == Label.INTRACRANIAL) & (structure == Label.INTRACRANIAL)
    assert seen["brain_hu"] == pytest.approx(np.median(hu[inside]), abs=2)
    assert seen["measured_fraction"] == 1
    assert seen["isocentre_measured"] == 1
    assert seen["vault_completeness"] == pytest.approx(1, abs=0.02)
    assert seen["lateral_cut"] < 0.05
    levels = np.flatnonzero((structure > 0).any(axis=(0, 1)))
    assert seen["head_height_mm"] == 4.0 * (levels[-1] - levels[0] + 1)
    assert seen["vertex_margin_mm"] == 4.0 * (63 - levels[-1])


def test_a_missing_vault_is_noticed(head: tuple[np.ndarray, np.ndarray]) -> None:
    hu, _ = head
    measured = np.ones(GRID.shape, dtype=bool)
    measured[:, :, 40:] = False
    hu = np.where(measured, hu, -1000.0)
    seen = measure_head(hu, label_head(hu, GRID.spacing), measured, GRID)
    assert seen["vertex_margin_mm"] == 0
    assert seen["vault_completeness"] < 0.5
    assert judge("vault_completeness", seen["vault_completeness"]) == Verdict.WARN


def test_a_head_cut_at_its_side_is_noticed(head: tuple[np.ndarray, np.ndarray]) -> None:
    hu, structure = head
    measured = np.ones(GRID.shape, dtype=bool)
    whole = measure_head(hu, structure, measured, GRID)["lateral_cut"]
    measured[:24] = False
    cut = measure_head(hu, structure, measured, GRID)["lateral_cut"]
    assert cut > whole + 0.1
    assert judge("lateral_cut", cut) != Verdict.OK
    assert measure_head(hu, structure, measured, GRID)["isocentre_measured"] == 1


def test_an_empty_volume_is_rejected() -> None:
    empty = np.zeros(GRID.shape, dtype=np.uint8)
    seen = measure_head(np.full(GRID.shape, -1000.0), empty, ~empty.astype(bool), GRID)
    assert judge("body_ml", seen["body_ml"]) == Verdict.REJECT
    assert seen["brain_hu"] is None
