"""What an operator may state about a radiograph against, or in place of, its DICOM attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from spider_bundle.geometry import ViewPosition, orientation_vector


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

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any] | None) -> PairOverrides:
        """Overrides from JSON values.

        Args:
            values: Names of :class:`Overrides` with their values for both views, and under
                ``frontal`` and ``lateral`` for one view; the latter win.

        Raises:
            ValueError: A name is unknown or a value does not fit it.
        """
        both = dict(values or {})
        single = {role: dict(both.pop(role, None) or {}) for role in ("frontal", "lateral")}
        return cls(**{role: _overrides({**both, **own}) for role, own in single.items()})


def _overrides(values: Mapping[str, Any]) -> Overrides:
    known = {item.name for item in fields(Overrides)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown overrides {unknown}; known are {sorted(known)}")
    given = {name: value for name, value in values.items() if value is not None}
    for name in ("sod", "sdd", "pitch", "log_scale"):
        if name in given:
            given[name] = float(given[name])
            if not given[name] > 0:
                raise ValueError(f"override {name} must be positive, got {given[name]}")
    if "view" in given:
        given["view"] = ViewPosition(given["view"])
    if "orientation" in given:
        columns, rows = given["orientation"]
        orientation_vector(columns), orientation_vector(rows)
        given["orientation"] = (columns, rows)
    if "mask_boxes" in given:
        boxes = tuple(tuple(int(edge) for edge in box) for box in given["mask_boxes"])
        if any(len(box) != 4 or box[0] >= box[2] or box[1] >= box[3] for box in boxes):
            raise ValueError("a mask box is (top, left, bottom, right) in pixels")
        given["mask_boxes"] = boxes
    return Overrides(**given)
