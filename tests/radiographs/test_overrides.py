"""Overrides from JSON values."""

from __future__ import annotations

import pytest

from spider_bundle.geometry import ViewPosition
from spider_bundle.radiographs.overrides import Overrides, PairOverrides


def test_common_values_go_to_both_and_own_ones_win() -> None:
    pair = PairOverrides.from_mapping(
        {"sod": "1000", "sdd": 1200, "lateral": {"sod": 900, "view": "RL"}, "frontal": None}
    )
    assert (pair.frontal.sod, pair.lateral.sod) == (1000.0, 900.0)
    assert pair.lateral.view is ViewPosition.RL
    assert pair.frontal.view is None
    assert pair.lateral.sdd == 1200.0


def test_nothing_stated_leaves_everything_to_dicom() -> None:
    assert PairOverrides.from_mapping(None) == PairOverrides(Overrides(), Overrides())


def test_boxes_and_orientation_become_tuples() -> None:
    pair = PairOverrides.from_mapping(
        {"frontal": {"mask_boxes": [["1", "2", "30", "40"]], "orientation": ["F", "P"]}}
    )
    assert pair.frontal.mask_boxes == ((1, 2, 30, 40),)
    assert pair.frontal.orientation == ("F", "P")


@pytest.mark.parametrize(
    "values",
    [
        {"sod": -1},
        {"sdd": "far"},
        {"sod": float("nan")},
        {"view": "Towne"},
        {"orientation": ["X", "F"]},
        {"mask_boxes": [[5, 5, 5, 9]]},
        {"mask_boxes": [[1, 2, 3]]},
        {"nonsense": 1},
    ],
)
def test_wrong_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        PairOverrides.from_mapping({"frontal": values})
