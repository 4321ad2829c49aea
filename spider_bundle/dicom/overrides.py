"""What an operator may state about a radiograph against, or in place of, its DICOM attributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import numpy as np

from spider_bundle.geometry import ViewPosition, orientation_vector

ROLES = ("frontal", "lateral")
"""The two radiographs of a pair."""


@dataclass(frozen=True)
class Overrides:
    """Statements about one radiograph; None leaves the attribute to DICOM.

    Each one used is recorded as ``override`` in the radiograph's provenance.

    Attributes:
        sod: Distance from the source to the isocentre, mm.
        sdd: Distance from the source to the detector, mm.
        pitch: Pixel pitch at the detector, mm.
        view: Nominal view. Positioner angles that lie further from it than the limit of E08 are
            then ignored.
        orientation: Patient directions of increasing column and of increasing row, as
            PatientOrientation (0020,0020).
        dense_is_high: Whether high stored values (after the modality step) mean dense tissue.
        log_scale: Stored values per unit of line integral of a LOG image.
        frame: Index from 0 of the frame to use.
        mask_boxes: Boxes to leave out, ``(top, left, bottom, right)`` in pixels as stored, the
            last two exclusive.
        allow_secondary_capture: Accept a secondary capture.
    """

    sod: float | None = None
    sdd: float | None = None
    pitch: float | None = None
    view: ViewPosition | None = None
    orientation: tuple[str, str] | None = None
    dense_is_high: bool | None = None
    log_scale: float | None = None
    frame: int | None = None
    mask_boxes: tuple[tuple[int, int, int, int], ...] = ()
    allow_secondary_capture: bool = False


@dataclass(frozen=True)
class PairOverrides:
    """Overrides of the two radiographs of a pair."""

    frontal: Overrides = field(default_factory=Overrides)
    lateral: Overrides = field(default_factory=Overrides)

    @property
    def frames(self) -> frozenset[int]:
        """Frames that either view chooses, for :func:`~.film.describe`."""
        chosen = {self.frontal.frame, self.lateral.frame}
        return frozenset(frame for frame in chosen if frame is not None)

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
        stated = _mapping("overrides", values)
        both = _checked("", {k: v for k, v in stated.items() if k not in ROLES})
        sides = {
            role: {**both, **_checked(f"{role}.", _mapping(role, stated.get(role)))}
            for role in ROLES
        }
        return cls(
            **{
                role: Overrides(**{k: v for k, v in side.items() if v is not None})
                for role, side in sides.items()
            }
        )


def merge_overrides(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Put statements over others; what the upper ones do not state stays.

    Whatever the upper ones state wins: for both views also over what the lower ones state for one.

    Args:
        base: The lower ones, see :meth:`PairOverrides.from_mapping`.
        over: The upper ones, of the same form.

    Returns:
        Both in one, of the same form.
    """
    merged = {**base, **over}
    for role in ROLES:
        kept = {k: v for k, v in (base.get(role) or {}).items() if k not in over}
        merged[role] = {**kept, **(over.get(role) or {})}
    return {name: value for name, value in merged.items() if name not in ROLES or value}


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must be a mapping of names to values, got {values!r}")
    return values


def _checked(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the types of :class:`Overrides`; None stays."""
    unknown = sorted(f"{prefix}{name}" for name in values if name not in _CHECKS)
    if unknown:
        raise ValueError(f"unknown overrides {unknown}; known are {sorted(_CHECKS)}")
    checked = {}
    for name, value in values.items():
        wanted, convert = _CHECKS[name]
        try:
            checked[name] = None if value is None else convert(value)
        except (TypeError, ValueError, OverflowError):
            message = f"override {prefix}{name} must be {wanted}, got {value!r}"
            raise ValueError(message) from None
    return checked


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (Real, str)):
        raise TypeError
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (Integral, str)):
        raise TypeError
    return int(value)


def _frame(value: Any) -> int:
    frame = _whole(value)
    if frame < 0:
        raise ValueError
    return frame


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _orientation(value: Any) -> tuple[str, str]:
    if isinstance(value, str):  # its letters are no values
        raise TypeError
    columns, rows = value
    if not np.cross(orientation_vector(columns), orientation_vector(rows)).any():
        raise ValueError
    return columns, rows


def _boxes(value: Any) -> tuple[tuple[int, int, int, int], ...]:
    return tuple(_box(*box) for box in value)


def _box(top: Any, left: Any, bottom: Any, right: Any) -> tuple[int, int, int, int]:
    box = _whole(top), _whole(left), _whole(bottom), _whole(right)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError
    return box


_POSITIVE = "a positive number", _positive
_FLAG = "true or false", _flag
_CHECKS: Mapping[str, tuple[str, Callable[[Any], Any]]] = MappingProxyType(
    {
        "sod": _POSITIVE,
        "sdd": _POSITIVE,
        "pitch": _POSITIVE,
        "view": ("AP, PA, LL or RL", ViewPosition),
        "orientation": ("two directions across each other, such as [L, F]", _orientation),
        "dense_is_high": _FLAG,
        "log_scale": _POSITIVE,
        "frame": ("a whole number from 0", _frame),
        "mask_boxes": ("a list of [top, left, bottom, right] in whole pixels", _boxes),
        "allow_secondary_capture": _FLAG,
    }
)
"""What each value must be, in words and as a function that fails on anything else."""
