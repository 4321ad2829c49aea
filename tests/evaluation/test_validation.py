"""A result beside its CT: a known displacement is found, and taken out by registration."""

from __future__ import annotations

import numpy as np
import pytest

from spider_bundle.cases.prepare import moved, prepare_head
from spider_bundle.cases.resampling import resample
from spider_bundle.cases.scan import Scan
from spider_bundle.evaluation.methods import Reconstruction
from spider_bundle.evaluation.validation import (
    AS_IT_LIES,
    REGISTERED,
    StoredResult,
    compare_result,
    comparison_record,
)
from spider_bundle.geometry import Grid
from spider_bundle.phantom import ISOCENTRE_IN_TEMPLATE
from tests.cases.scans import SHIFT, head_scan

ISOCENTRE = SHIFT + np.array(ISOCENTRE_IN_TEMPLATE)
DISPLACED = np.array([4.0, -3.0, 2.0])


def result(displaced: np.ndarray, isocentre: np.ndarray | None) -> StoredResult:
    """The truth as a result, displaced in the scanner's frame."""
    hu, grid = head_scan()
    everywhere = np.ones(hu.shape, dtype=bool)
    cube = Grid.centred(4.0, 64)
    values, _ = resample(hu, everywhere, grid, moved(cube, ISOCENTRE - displaced))
    head = prepare_head(hu, everywhere, grid, isocentre=ISOCENTRE - displaced)
    place = cube if isocentre is None else cube.moved(isocentre)
    return StoredResult(Reconstruction(values, head.structure), place, isocentre)


def scan() -> Scan:
    hu, grid = head_scan()
    return Scan(hu, np.ones(hu.shape, dtype=bool), grid)


def test_displacement_is_found_and_taken_out() -> None:
    found = compare_result(result(DISPLACED, ISOCENTRE), scan())
    assert list(found.scores) == [AS_IT_LIES, REGISTERED]
    np.testing.assert_allclose(found.fit.translation, DISPLACED, atol=0.3)
    record = comparison_record(found)
    assert record["position_error_mm"] == pytest.approx(np.linalg.norm(DISPLACED), abs=0.3)
    before, after = (found.scores[title]["dice_bone"] for title in (AS_IT_LIES, REGISTERED))
    assert before is not None
    assert after is not None
    assert before < 0.8 < 0.85 < after


def test_radiographs_are_compared_about_the_isocentres_only() -> None:
    found = compare_result(result(np.zeros(3), None), scan())
    assert list(found.scores) == [REGISTERED]
    assert comparison_record(found)["position_error_mm"] is None


def test_other_grids_are_refused() -> None:
    one = result(np.zeros(3), ISOCENTRE)
    flat = Reconstruction(one.reconstruction.hu[:32], one.reconstruction.labels[:32])
    with pytest.raises(ValueError, match="cube"):
        compare_result(StoredResult(flat, Grid((32, 64, 64), one.grid.affine), ISOCENTRE), scan())
