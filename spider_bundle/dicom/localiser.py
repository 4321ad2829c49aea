"""Geometry of a localiser film: a slot scan in the scanner's frame.

PixelSpacing is measured along the table's travel and, across it, at the axis of the gantry (E. S.
Sandberg, Med Phys 1994: only the horizontal direction is in perspective). The axis meets the image
plane at the middle of the columns that the detector has, or at DataCollectionCenterPatient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from spider_bundle.dicom.acquisition_geometry import TOLERANCES, AcquisitionGeometry, Derivation
from spider_bundle.dicom.ct_image import CTImage
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.provenance import provenanced_value
from spider_bundle.dicom.view import ViewInfo
from spider_bundle.errors import Code, Finding, finding
from spider_bundle.geometry import FloatArray, ViewPosition
from spider_bundle.slot_view import SlotView

if TYPE_CHECKING:
    from spider_bundle.dicom.pair import PairedFilm

#: Accepted pixel sizes, mm, and largest gantry tilt, degrees.
MINIMUM_PIXEL, MAXIMUM_PIXEL, MAXIMUM_TILT = 0.1, 3.0, 0.5
#: Share of the data collection diameter that columns which are not cropped cover.
FULL_WIDTH = 0.98
#: How well two statements of the axis agree, mm.
SAME_AXIS = 2.0
#: Rows of both localisers that must show the same part of the patient, mm.
MINIMUM_OVERLAP = 80.0


def localiser_geometry(film: Film, info: ViewInfo, overrides: Overrides) -> AcquisitionGeometry:
    """Derive the slot view of a localiser: E11, E12, E14, E25 and E26.

    The view lies in the scanner's frame, and as if the columns were not cropped and the image plane
    held the axis; :func:`place_pair` decides where that is open.

    Args:
        film: The localiser.
        info: Its view.
        overrides: Overrides of this localiser.
    """
    deriving = _LocaliserDerivation(film, info, overrides)
    view = deriving.view()
    return AcquisitionGeometry(view, deriving.provenance, tuple(deriving.findings))


class _LocaliserDerivation(Derivation):
    """Derives the values of a localiser; distances as of other films, but those of a gantry."""

    tolerances: ClassVar[Mapping[str, float]] = {**TOLERANCES, "attribute": 1.0}

    def view(self) -> SlotView | None:
        """Return the view in the scanner's frame, None if anything it needs is missing."""
        image, position = self.film.ct, self.info.position
        assert image is not None  # of a localiser
        if image.plane not in ("frontal", "lateral"):
            message = "the image plane is oblique or not stated"
            self._find(Code.LOCALISER_GEOMETRY, message, "ImageOrientationPatient")
        elif position is None:
            self._find(Code.UNKNOWN_TUBE_SIDE, self.info.reason)
        else:
            self._note("view", position.value, self.info.source)
        if abs(image.tilt) > MAXIMUM_TILT:
            message = f"the gantry was tilted by {image.tilt:g} degrees"
            self._find(Code.LOCALISER_GEOMETRY, message, "GantryDetectorTilt")
        spacing = self._pitch()
        sdd = self._sdd()
        sod = self._sod(sdd, position)
        axes = image.axes
        if position is None or axes is None or spacing is None or sdd is None or sod is None:
            return None
        if abs(axes[1, 2]) < 0.99:
            message = "the rows do not lie across the table's travel"
            self._find(Code.LOCALISER_GEOMETRY, message, "ImageOrientationPatient")
            return None
        self._note_scale(sdd, sod)
        return _slot_view(self.film, position, sod, sdd, _middle(self.film))

    def _pitch(self) -> tuple[float, float] | None:
        """Return travel per row and pitch of the columns at the axis, mm (E12)."""
        values = self.film.pixel_spacing
        if len(values) != 2 or not all(MINIMUM_PIXEL <= v <= MAXIMUM_PIXEL for v in values):
            message = f"PixelSpacing is not two values of {MINIMUM_PIXEL:g} to {MAXIMUM_PIXEL:g} mm"
            self._find(Code.INVALID_PIXEL_PITCH, message, "PixelSpacing")
            return None
        self._note("pitch", list(values), "PixelSpacing")
        return values[0], values[1]


def _across(image: CTImage) -> int:
    """Return the axis along which the columns run: 0 for x, 1 for y."""
    return 0 if image.plane == "frontal" else 1


def _middle(film: Film) -> FloatArray:
    """Return x and y of the middle of the columns in the image plane, or of the stated centre."""
    image = film.ct
    assert image is not None
    assert image.axes is not None
    if len(image.centre) == 3:
        return np.array(image.centre[:2])
    half = (film.columns - 1) / 2 * film.pixel_spacing[1]
    middle: FloatArray = (np.array(image.position) + half * image.axes[0])[:2]
    return middle


def _slot_view(
    film: Film, position: ViewPosition, sod: float, sdd: float, axis: FloatArray
) -> SlotView:
    """Return the view for an axis ``(x, y)`` of the gantry, LPS mm."""
    image = film.ct
    assert image is not None
    assert image.axes is not None
    rows, columns = film.rows, film.columns
    travel, pitch = film.pixel_spacing
    across = _across(image)
    signs = np.sign(image.axes[0, across]), np.sign(image.axes[1, 2])
    column_vector, row_vector = np.eye(3)[across] * signs[0], np.eye(3)[2] * signs[1]
    z = image.position[2] + signs[1] * (rows - 1) / 2 * travel
    foot = np.array([*axis, z])
    middle = image.position[across] + signs[0] * (columns - 1) / 2 * pitch
    # columns are measured at the axis and drawn at the detector
    aside = (middle - axis[across]) * sdd / sod * np.eye(3)[across]
    return SlotView(
        foot - sod * position.beam,
        foot + (sdd - sod) * position.beam + aside,
        column_vector,
        row_vector,
        (travel, pitch * sdd / sod),
        (rows, columns),
    )


def place_pair(
    frontal: PairedFilm, lateral: PairedFilm
) -> tuple[PairedFilm, PairedFilm, list[Finding]]:
    """Place two localisers in one frame, about one axis: E26.

    Where columns may be cropped, their middle must agree with the plane of the other localiser,
    which holds the axis; if it does not, that plane counts where the same is seen to hold the other
    way round.

    Args:
        frontal: Frontal localiser, placed by itself.
        lateral: Lateral localiser, placed by itself.

    Returns:
        Both with the axis found, and what stands against them.
    """
    films = [side.film for side in (frontal, lateral) if side.film is not None]
    found = []
    frames = {film.identifiers.frame_of_reference for film in films}
    if len(frames) != 1 or "" in frames:
        message = "the two localisers are not in one frame of reference"
        found.append(_pair_finding(message, "FrameOfReferenceUID"))
    low, high = zip(
        *(film.ct.extent(film.rows, film.pixel_spacing[0]) for film in films if film.ct),
        strict=True,
    )
    if min(high) - max(low) < MINIMUM_OVERLAP:
        message = f"the two localisers share {max(0.0, min(high) - max(low)):.0f} mm of the patient"
        found.append(_pair_finding(message, "ImagePositionPatient"))
    axis, source = _axis(films[0], films[1])
    if axis is None:
        message = "the columns are cropped, and nothing tells where the gantry's axis is"
        found.append(_pair_finding(message, "DataCollectionCenterPatient"))
        return frontal, lateral, found
    return _placed(frontal, axis, source), _placed(lateral, axis, source), found


def _axis(frontal: Film, lateral: Film) -> tuple[FloatArray | None, str]:
    """Return x and y of the gantry's axis and what tells them; None if nothing does."""
    films = frontal, lateral
    images = [film.ct for film in films if film.ct is not None]
    for image in images:
        if len(image.centre) == 3:
            return np.array(image.centre[:2]), "DataCollectionCenterPatient"
    middles = np.array([_middle(film)[i] for i, film in enumerate(films)])
    planes = np.array([images[1].position[0], images[0].position[1]])
    agree = np.abs(middles - planes) <= SAME_AXIS
    is_full = np.array([_is_full(film) for film in films]) | agree
    if is_full.all():
        return middles, "middle of the columns"
    if (is_full & agree).any():
        return np.where(is_full, middles, planes), "middle of the columns and plane of the other"
    return None, ""


def _is_full(film: Film) -> bool:
    """Return whether the columns cover the field of view, so that none is cropped."""
    assert film.ct is not None
    width = film.columns * film.pixel_spacing[1]
    return film.ct.diameter is not None and width >= FULL_WIDTH * film.ct.diameter


def _placed(side: PairedFilm, axis: FloatArray, source: str) -> PairedFilm:
    assert side.film is not None
    assert side.geometry is not None
    assert side.geometry.view is not None
    assert side.info.position is not None
    sod, sdd = (_distance(side.geometry, name) for name in ("sod", "sdd"))
    view = _slot_view(side.film, side.info.position, sod, sdd, axis)
    where = provenanced_value("axis", [float(v) for v in axis], source)
    provenance = {**side.geometry.provenance, "axis": where}
    return replace(side, geometry=replace(side.geometry, view=view, provenance=provenance))


def _distance(geometry: AcquisitionGeometry, name: str) -> float:
    value = geometry.provenance[name].value
    assert isinstance(value, (int, float))  # of a localiser that is placed
    return float(value)


def _pair_finding(message: str, attribute: str) -> Finding:
    return finding(Code.LOCALISER_GEOMETRY, "pair", message, attribute=attribute)
