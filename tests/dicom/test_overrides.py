"""Overrides from JSON values."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from spider_bundle.dicom.overrides import ROLES, Overrides, PairOverrides, merge_overrides
from spider_bundle.geometry import ViewPosition


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


def test_null_of_one_view_leaves_it_to_dicom() -> None:
    pair = PairOverrides.from_mapping({"sdd": 1200, "lateral": {"sdd": None}})
    assert (pair.frontal.sdd, pair.lateral.sdd) == (1200.0, None)


def test_numbers_may_be_text_and_come_out_as_numbers() -> None:
    pair = PairOverrides.from_mapping({"frame": "2", "log_scale": "6553.5", "pitch": 1})
    assert pair.frontal == Overrides(frame=2, log_scale=6553.5, pitch=1.0)
    assert isinstance(pair.frontal.frame, int)
    assert isinstance(pair.frontal.pitch, float)


@pytest.mark.parametrize("value", [True, False])
def test_flags_stay_what_they_are(value: bool) -> None:
    stated = {"dense_is_high": value, "allow_secondary_capture": value}
    assert PairOverrides.from_mapping({"lateral": stated}).lateral == Overrides(**stated)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sod", -1),
        ("sod", 0),
        ("sod", float("nan")),
        ("sod", float("inf")),
        ("sod", 10**400),
        ("sdd", "far"),
        ("sdd", "inf"),
        ("pitch", True),
        ("pitch", [0.2, 0.2]),
        ("log_scale", "1e999"),
        ("view", "Towne"),
        ("view", ["PA"]),
        ("orientation", ["X", "F"]),
        ("orientation", ["L", 5]),
        ("orientation", ["L"]),
        ("orientation", "LF"),
        ("orientation", ["L", "R"]),
        ("dense_is_high", "false"),
        ("dense_is_high", 0),
        ("allow_secondary_capture", "no"),
        ("frame", 1.5),
        ("frame", "1.5"),
        ("frame", True),
        ("frame", -1),
        ("mask_boxes", [[5, 5, 5, 9]]),
        ("mask_boxes", [[5, 9, 9, 9]]),
        ("mask_boxes", [[1, 2, 3]]),
        ("mask_boxes", [0, 0, 9, 9]),
        ("mask_boxes", [[0, 0, 9.5, 9]]),
        ("mask_boxes", "0,0,9,9"),
        ("mask_boxes", 5),
    ],
)
def test_wrong_values_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^override {name} must be "):
        PairOverrides.from_mapping({name: value})
    with pytest.raises(ValueError, match=rf"^override lateral\.{name} must be "):
        PairOverrides.from_mapping({"lateral": {name: value}})


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"frontal": {"nonsense": 1, 5: 2}}, "frontal.5.*frontal.nonsense"),
        ({"frontal": [1]}, "frontal must be a mapping"),
        ([1], "overrides must be a mapping"),
    ],
)
def test_what_is_no_statement_is_refused(values: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        PairOverrides.from_mapping(values)


@pytest.mark.parametrize("name", Overrides.__dataclass_fields__)
def test_every_value_is_checked_and_none_is_shown(name: str) -> None:
    for value in ("Canary", ["Canary"], [["Canary"] * 4], {"Canary": 1}, object()):
        for values in ({name: value}, {"frontal": {name: value}}):
            with pytest.raises(ValueError, match="must be") as caught:
                PairOverrides.from_mapping(values)
            shown = f"{caught.value} {caught.value!r} {caught.value.__cause__}"
            assert "Canary" not in shown
        with pytest.raises(ValueError, match="validation error") as direct:
            Overrides(**{name: value})
        assert "Canary" not in str(direct.value)


@pytest.mark.parametrize("stated", list(product((False, True), repeat=4)))
@pytest.mark.parametrize("role", ROLES)
def test_upper_statements_win_and_the_rest_stays(role: str, stated: tuple[bool, ...]) -> None:
    """Each of four places, from the weakest to the strongest, states the same or nothing."""
    base, over = ({"pitch": 0.1, role: {"frame": 1}}, {"log_scale": 3.0, role: {}})
    places: list[dict[str, Any]] = [base, base[role], over, over[role]]
    for number, place in enumerate(places):
        if stated[number]:
            place["sdd"] = 1000.0 + number
    kept = {"pitch": 0.1, "log_scale": 3.0}
    wanted = max((1000.0 + n for n, says in enumerate(stated) if says), default=None)
    other = max((1000.0 + n for n in (0, 2) if stated[n]), default=None)
    merged = PairOverrides.from_mapping(merge_overrides(base, over))
    sides = {r: Overrides(sdd=other, **kept) for r in ROLES}
    assert merged == PairOverrides(**{**sides, role: Overrides(sdd=wanted, frame=1, **kept)})


def test_null_takes_back_what_was_stated_below() -> None:
    base = {"sdd": 1650, "lateral": {"sdd": 1700, "frame": 1}}
    merged = PairOverrides.from_mapping(merge_overrides(base, {"sdd": None, "lateral": None}))
    assert merged == PairOverrides(lateral=Overrides(frame=1))


def test_a_stated_distance_replaces_the_other_one() -> None:
    merged = merge_overrides({"sod": 1000, "lateral": {"oid": 90}}, {"lateral": {"sod": 900}})
    pair = PairOverrides.from_mapping(merged)
    assert (pair.frontal.sod, pair.frontal.oid) == (1000, None)
    assert (pair.lateral.sod, pair.lateral.oid) == (900, None)
    kept = PairOverrides.from_mapping(merge_overrides({"oid": 90}, {"sod": None}))
    assert kept.frontal.oid == 90
    with pytest.raises(ValueError, match="not both"):
        PairOverrides.from_mapping({"sod": 1000, "oid": 90})
