"""Overrides: values that an operator states in place of DICOM attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from spider_bundle.geometry import ViewPosition, orientation_vector

ROLES = ("frontal", "lateral")
"""The two radiographs of a pair."""


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError
    return value


def _no_fraction(value: Any) -> Any:
    if not isinstance(value, (int, np.integer, str)):
        raise ValueError
    return _no_flag(value)


def _crossed(directions: tuple[str, str]) -> tuple[str, str]:
    columns, rows = map(orientation_vector, directions)
    if not np.cross(columns, rows).any():
        raise ValueError
    return directions


def _ordered(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = box
    if top >= bottom or left >= right:
        raise ValueError
    return box


_Positive = Annotated[float, BeforeValidator(_no_flag), Field(gt=0, allow_inf_nan=False)]
_Whole = Annotated[int, BeforeValidator(_no_fraction)]
_Box = Annotated[tuple[_Whole, _Whole, _Whole, _Whole], AfterValidator(_ordered)]
_POSITIVE, _FLAG = "a positive number", "true or false"
_WANTED = {
    "sod": _POSITIVE,
    "oid": _POSITIVE,
    "sdd": _POSITIVE,
    "pitch": _POSITIVE,
    "view": "AP, PA, LL or RL",
    "tube_side": "A or P of a frontal, L or R of a lateral localiser",
    "kind": "radiograph or localiser",
    "orientation": "two directions across each other, such as [L, F]",
    "dense_is_high": _FLAG,
    "log_scale": _POSITIVE,
    "frame": "a whole number from 0",
    "mask_boxes": "a list of [top, left, bottom, right] in whole pixels",
    "allow_secondary_capture": _FLAG,
}
"""What each value must be, in words; messages quote no value."""

_BOTH_DISTANCES = "state sod or oid, not both"
_CONFIG = ConfigDict(extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, config=_CONFIG)
class Overrides:
    """Overrides of one radiograph; None leaves the attribute to DICOM.

    Each one used is recorded as ``override`` in the radiograph's provenance.

    Attributes:
        sod: Distance from the source to the isocentre, mm.
        oid: Distance from the isocentre to the detector, mm, in place of ``sod``.
        sdd: Distance from the source to the detector, mm.
        pitch: Pixel pitch at the detector, mm.
        view: Nominal view. Positioner angles that lie further from it than the limit of E08 are
            then ignored.
        tube_side: Side of the patient on which the tube of a localiser was, A, P, L or R.
        kind: What to take of a study that holds both: ``radiograph`` or ``localiser``.
        orientation: Patient directions of increasing column and of increasing row, as
            PatientOrientation (0020,0020).
        dense_is_high: Whether high stored values (after the modality step) mean dense tissue.
        log_scale: Stored values per unit of line integral of a LOG image.
        frame: Index from 0 of the frame to use.
        mask_boxes: Boxes to leave out, ``(top, left, bottom, right)`` in pixels as stored, the
            last two exclusive.
        allow_secondary_capture: Accept a secondary capture.
    """

    sod: _Positive | None = None
    oid: _Positive | None = None
    sdd: _Positive | None = None
    pitch: _Positive | None = None
    view: ViewPosition | None = None
    tube_side: Literal["A", "P", "L", "R"] | None = None
    kind: Literal["radiograph", "localiser"] | None = None
    orientation: Annotated[tuple[str, str], AfterValidator(_crossed)] | None = None
    dense_is_high: StrictBool | None = None
    log_scale: _Positive | None = None
    frame: Annotated[_Whole, Field(ge=0)] | None = None
    mask_boxes: tuple[_Box, ...] = ()
    allow_secondary_capture: StrictBool = False

    @model_validator(mode="after")
    def _check_distances(self) -> Self:
        if self.sod is not None and self.oid is not None:
            raise ValueError(_BOTH_DISTANCES)
        return self


@dataclass(frozen=True, config=_CONFIG)
class PairOverrides:
    """Overrides of the two radiographs of a pair."""

    frontal: Overrides = Overrides()
    lateral: Overrides = Overrides()

    @property
    def frames(self) -> frozenset[int]:
        """Frames that either view chooses, for :func:`~.film.describe`."""
        chosen = {self.frontal.frame, self.lateral.frame}
        return frozenset(frame for frame in chosen if frame is not None)

    @property
    def kind(self) -> str:
        """What to take of a study that holds radiographs and localisers; empty if not stated."""
        return self.frontal.kind or self.lateral.kind or ""

    @property
    def allow_secondary_capture(self) -> bool:
        """Whether either view may be a secondary capture."""
        return self.frontal.allow_secondary_capture or self.lateral.allow_secondary_capture

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any] | PairOverrides | None) -> PairOverrides:
        """Read overrides from JSON values.

        Args:
            values: Names of :class:`Overrides` with their values for both views, and under
                ``frontal`` and ``lateral`` for one view; the latter win. Numbers may be text, as
                they come from a command line. None leaves the attribute to DICOM.

        Raises:
            ValueError: A name is unknown or a value does not fit it; the text names the entry.
        """
        if isinstance(values, PairOverrides):
            return values
        both = _mapping("overrides", values)
        views = {role: _mapping(role, both.get(role)) for role in ROLES}
        both = {name: value for name, value in both.items() if name not in ROLES}
        _check("", both)
        for role, view in views.items():
            _check(f"{role}.", view)
        merged = {role: {**_without(both, views[role]), **views[role]} for role in ROLES}
        return cls(**{role: Overrides(**_stated(merged[role])) for role in ROLES})


def merge_overrides(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two sets of overrides; what the upper ones do not state stays.

    Whatever the upper ones state wins: for both views also over what the lower ones state for one.

    Args:
        base: The lower ones, see :meth:`PairOverrides.from_mapping`.
        over: The upper ones, of the same form.

    Returns:
        Both in one, of the same form.
    """
    merged = {**_without(base, over), **over}
    for role in ROLES:
        above = over.get(role) or {}
        kept = {k: v for k, v in (base.get(role) or {}).items() if k not in over}
        merged[role] = {**_without(kept, {**over, **above}), **above}
    return {name: value for name, value in merged.items() if name not in ROLES or value}


def _without(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the distance that another one replaces."""
    other = {"sod": "oid", "oid": "sod"}
    replaced = {other.get(name) for name, value in over.items() if value is not None}
    return {name: value for name, value in base.items() if name not in replaced}


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must be a mapping of names to values")
    return values


def _check(prefix: str, values: Mapping[str, Any]) -> None:
    """Check that names and values are those of :class:`Overrides`.

    Raises:
        ValueError: See :meth:`PairOverrides.from_mapping`.
    """
    unknown = sorted(f"{prefix}{name}" for name in values if name not in _WANTED)
    if unknown:
        raise ValueError(f"unknown overrides {unknown}; known are {sorted(_WANTED)}")
    try:
        Overrides(**_stated(values))
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False)[0]
        if not found["loc"]:
            raise ValueError(f"overrides: {prefix}{_BOTH_DISTANCES}") from None
        name = str(found["loc"][0])
        raise ValueError(f"override {prefix}{name} must be {_WANTED[name]}") from None


def _stated(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
