"""Removal of table and headrest."""

from __future__ import annotations

import numpy as np

from spider_bundle.cases.cleaning import OUTSIDE_HU, remove_table
from spider_bundle.geometry import Grid
from spider_bundle.phantom import HeadPhantom

GRID = Grid.centred(4.0, 60)


def head() -> np.ndarray:
    return HeadPhantom.nominal().voxelise(GRID, supersample=2)[0].astype(np.float32)


def with_table(hu: np.ndarray, gap_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """A bar of 8 mm along the head, as far behind it as said."""
    x, y, _ = np.moveaxis(GRID.points(), -1, 0)
    back = y[hu > -300].max() + gap_mm
    table = (y > back) & (y <= back + 8) & (np.abs(x) < 90)
    return np.where(table, 300.0, hu), table


def test_a_table_is_removed_and_the_head_stays() -> None:
    hu = head()
    spoiled, table = with_table(hu, gap_mm=12.0)
    assert (spoiled != hu).sum() > 3000
    cleaned, kept = remove_table(spoiled, GRID)
    assert (cleaned[table] == OUTSIDE_HU).all()
    changed = (hu > -800) & (cleaned != hu)
    assert changed.sum() < 0.003 * (hu > -800).sum()
    x, y, _ = np.moveaxis(GRID.points()[changed], -1, 0)
    assert ((np.abs(x) > 70) | (y < -70)).all()  # only rims of the ears and the tip of the nose
    assert not (kept & table).any()


def test_a_thin_headrest_that_touches_is_cut_off() -> None:
    hu = head()
    x, y, _ = np.moveaxis(GRID.points(), -1, 0)
    back = y[hu > -300].max()
    rest = (np.abs(y - back) < 3) & (np.abs(x) > 60) & (np.abs(x) < 112) & (hu < -300)
    cleaned, _ = remove_table(np.where(rest, 200.0, hu), GRID)
    assert rest.sum() > 500
    assert (cleaned[rest] > -300).mean() < 0.1


def test_nothing_is_left_of_air() -> None:
    cleaned, kept = remove_table(np.full(GRID.shape, -990.0), GRID)
    assert not kept.any()
    assert (cleaned == OUTSIDE_HU).all()
