"""What an operator may state about a radiograph against, or in place of, its DICOM attributes."""

from __future__ import annotations

from dataclasses import dataclass, field

from spider_bundle.geometry import ViewPosition


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
