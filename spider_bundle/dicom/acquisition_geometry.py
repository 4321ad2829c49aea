"""Derive the geometry of a radiograph from its header.

Every value keeps where it came from: an attribute or an override. The rules follow the definitions
of DICOM PS3.3; where the standard leaves a direction or a distance open nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from spider_bundle.dicom.film import Film
from spider_bundle.dicom.header import EMPTY
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.provenance import OVERRIDE, ProvenancedValue, provenanced_value
from spider_bundle.dicom.view import ViewInfo, orientation_letters
from spider_bundle.errors import Code, Finding, finding
from spider_bundle.geometry import View, ViewPosition, beam_agreement, isocentric_view

#: Accepted distances from source to detector, mm.
MINIMUM_SDD, MAXIMUM_SDD = 500.0, 4500.0
#: Accepted pixel pitches at the detector, mm, and the relative difference of rows and columns.
MINIMUM_PITCH, MAXIMUM_PITCH, ANISOTROPY = 0.01, 2.0, 0.01
#: Relative difference of PixelSpacing from ImagerPixelSpacing that is passed over.
SPACING_DIFFERENCE = 0.01
#: Accepted edges of the image at the detector, mm.
MINIMUM_FIELD, MAXIMUM_FIELD = 80.0, 1300.0
#: Half a small head along the beam, mm: it must fit between isocentre and detector.
HALF_HEAD_FRONTAL, HALF_HEAD_LATERAL = 75.0, 60.0
#: Least distance from source to skin, mm, as for surgical fluoroscopy (21 CFR 1020.32(g)).
SOURCE_TO_SKIN = 200.0
#: Tolerance of a distance by its source, mm; relative one of a magnification factor.
TOLERANCES = {OVERRIDE: 10.0, "attribute": 5.0, "derived": 10.0}
MAGNIFICATION_TOLERANCE = 0.01
#: Length over which the uncertainty of the scale is stated, mm.
HEAD_LENGTH = 190.0
_MAGNIFICATION = "EstimatedRadiographicMagnificationFactor"


@dataclass(frozen=True)
class AcquisitionGeometry:
    """Geometry of a radiograph.

    Attributes:
        view: Geometry as stored; None if there is an error.
        provenance: View, orientation, positioner_angles, pitch, sdd, sod, and axis of a localiser.
        findings: Errors and warnings.
    """

    view: View | None
    provenance: Mapping[str, ProvenancedValue]
    findings: tuple[Finding, ...]


def acquisition_geometry(film: Film, info: ViewInfo, overrides: Overrides) -> AcquisitionGeometry:
    """Derive the pinhole view of a radiograph: E08 to E14.

    The isocentre lies on the central ray, which meets the middle of the pixel array.

    Args:
        film: The radiograph.
        info: Its view.
        overrides: Overrides of this radiograph.
    """
    deriving = Derivation(film, info, overrides)
    view = deriving.view()
    return AcquisitionGeometry(view, deriving.provenance, tuple(deriving.findings))


@dataclass
class Derivation:
    """Derives one value after the other; each notes its provenance and its findings."""

    tolerances: ClassVar[Mapping[str, float]] = TOLERANCES

    film: Film
    info: ViewInfo
    overrides: Overrides
    provenance: dict[str, ProvenancedValue] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def view(self) -> View | None:
        """Return the view, None if anything it needs is missing."""
        position, angles = self.info.position, self.info.angles
        self.findings += self.info.findings
        if position is None:
            self._find(Code.UNKNOWN_OR_OBLIQUE_VIEW, self.info.reason)
        else:
            self._note("view", position.value, self.info.source)
        if angles is not None:
            source = "PositionerPrimaryAngle, PositionerSecondaryAngle"
            self._note("positioner_angles", list(angles), source)
        letters = self._orientation(position)
        pitch = self._pitch()
        sdd = self._sdd()
        sod = self._sod(sdd, position)
        if position is None or letters is None or pitch is None or sdd is None or sod is None:
            return None
        self._note_scale(sdd, sod)
        return isocentric_view(
            position,
            sod=sod,
            sdd=sdd,
            spacing=pitch,
            shape=(self.film.rows, self.film.columns),
            orientation=letters,
            rotation=self.info.rotation,
        )

    def _note(self, name: str, value: object, source: str) -> None:
        self.provenance[name] = provenanced_value(name, value, source)

    def _find(self, code: Code, message: str, attribute: str | None = None) -> None:
        self.findings.append(finding(code, self.info.role, message, attribute=attribute))

    def _note_scale(self, sdd: float, sod: float) -> None:
        """Note how uncertain the size of the head is by the sources of the distances.

        Sizes go with SOD / SDD, and with 1 - OID / SDD where the OID was stated.
        """
        sources = {name: value.source for name, value in self.provenance.items()}
        of_sdd = self.tolerances[sources["sdd"]] / sdd
        oid, magnification = self.overrides.oid, self.film.magnification
        if oid is not None and sources["sod"] == OVERRIDE:
            parts = self.tolerances[OVERRIDE] / sod, of_sdd * oid / sod
        elif self.provenance["sod"].attribute == _MAGNIFICATION and magnification:
            parts = MAGNIFICATION_TOLERANCE, 0.0
        else:
            parts = self.tolerances[sources["sod"]] / sod, of_sdd
        percent = 100 * math.hypot(*parts)
        length = f"{percent / 100 * HEAD_LENGTH:.1f} mm over a head of {HEAD_LENGTH:g} mm"
        self._note("scale_uncertainty", round(percent, 2), f"tolerances of the distances: {length}")

    def _orientation(self, position: ViewPosition | None) -> tuple[str, str] | None:
        """Return PatientOrientation, checked against the beam (E09, E10)."""
        given = self.overrides.orientation
        letters = orientation_letters(self.film.orientation if given is None else given)
        if letters is None:
            message = "PatientOrientation is missing or malformed; left and right are not guessed"
            self._find(Code.MISSING_ORIENTATION, message)
            return None
        source = "PatientOrientation" if given is None else OVERRIDE
        self._note("orientation", list(letters), source)
        if position is not None and beam_agreement(letters, position) == 0:
            message = f"orientation [{letters[0]}, {letters[1]}] contradicts view {position.value}"
            self._find(Code.CONTRADICTORY_ORIENTATION, message)
            return None
        return letters

    def _pitch(self) -> tuple[float, float] | None:
        """Return the pixel pitch at the detector, mm (E12, E13)."""
        values, pixel = self.film.imager_spacing, self.film.pixel_spacing
        source = "ImagerPixelSpacing"
        if self.overrides.pitch is not None:
            values, source = (self.overrides.pitch, self.overrides.pitch), OVERRIDE
        elif len(values) != 2:
            message = self._absence(source)
            if len(pixel) == 2 and pixel[0] > 0:
                # PixelSpacing may be corrected for magnification, so it cannot stand in.
                message += f"; PixelSpacing is {pixel[0]:g} mm, at the detector or not"
            self._find(Code.INVALID_PIXEL_PITCH, message)
            return None
        row, column = values
        self._note("pitch", [row, column], source)
        if not all(MINIMUM_PITCH <= v <= MAXIMUM_PITCH for v in values):
            self._find(Code.INVALID_PIXEL_PITCH, f"a pitch of {row:g} x {column:g} mm")
            return None
        if abs(row - column) > ANISOTROPY * max(values):
            message = f"pixels are not square: {row:g} x {column:g} mm"
            self._find(Code.INVALID_PIXEL_PITCH, message)
            return None
        height, width = row * self.film.rows, column * self.film.columns
        if min(height, width) < MINIMUM_FIELD or max(height, width) > MAXIMUM_FIELD:
            message = (
                f"an image of {height:.0f} x {width:.0f} mm at the detector; its edges must be "
                f"{MINIMUM_FIELD:g} to {MAXIMUM_FIELD:g} mm"
            )
            self._find(Code.INVALID_PIXEL_PITCH, message)
            return None
        if len(pixel) == 2 and pixel[0] > 0 and abs(pixel[0] - row) > SPACING_DIFFERENCE * row:
            kind = self.film.calibration
            kind = kind.lower() if kind in ("GEOMETRY", "FIDUCIAL") else "not stated"
            message = f"PixelSpacing {pixel[0]:g} mm (calibration: {kind}) differs from {row:g}"
            self._find(Code.PIXEL_SPACING_MISMATCH, message)
        return row, column

    def _sdd(self) -> float | None:
        """Return the distance from source to detector, mm (E11)."""
        source = "DistanceSourceToDetector" if self.overrides.sdd is None else OVERRIDE
        sdd = self.film.sdd if self.overrides.sdd is None else self.overrides.sdd
        if sdd is None or (source != OVERRIDE and source in self.film.faults):
            self._find(Code.INVALID_SDD, self._absence("DistanceSourceToDetector"))
            return None
        self._note("sdd", sdd, source)
        if not MINIMUM_SDD <= sdd <= MAXIMUM_SDD:
            message = (
                f"a source to detector distance of {sdd:g} mm is outside "
                f"{MINIMUM_SDD:g} to {MAXIMUM_SDD:g} mm"
            )
            self._find(Code.INVALID_SDD, message)
            return None
        return sdd

    def _absence(self, keyword: str) -> str:
        """Return in words that there is no number to be had from an attribute."""
        return f"{keyword} {self.film.faults.get(keyword, 'is missing')}"

    def _sod(self, sdd: float | None, position: ViewPosition | None) -> float | None:
        """Return the distance from source to isocentre, mm (E14).

        DX DistanceSourceToPatient is the distance to the table or bucky face and never used.
        """
        film = self.film
        factor = _MAGNIFICATION
        given = self.overrides.sod
        if self.overrides.oid is not None:
            self._note("oid", self.overrides.oid, OVERRIDE)
            given = None if sdd is None else sdd - self.overrides.oid
        sources = {
            OVERRIDE: given,
            "DistanceSourceToIsocenter": film.source_to_isocentre,
            "DistanceSourceToDataCollectionCenter": film.ct.sod if film.ct else None,
            "DistanceSourceToPatient": film.source_to_patient,
            factor: film.magnification,
        }
        if film.kind == "DX":
            del sources["DistanceSourceToPatient"]
        # A device that does not know a distance writes 0.
        source = next((name for name, value in sources.items() if value), None)
        faulty = next((n for n in sources if film.faults.get(n, EMPTY) != EMPTY), None)
        if faulty is not None and source != OVERRIDE:
            self._find(Code.MISSING_SOD, self._absence(faulty), faulty)
            return None
        value = sources[source] if source else None
        if source is None or value is None:
            message = "no attribute gives the source to isocentre distance"
            stated = [f"{name} is 0" for name, value in sources.items() if value == 0]
            stated += [self._absence(name) for name in sources if name in film.faults]
            self._find(Code.MISSING_SOD, ": ".join([message, *stated[:1]]))
            return None
        if source == factor and (sdd is None or value <= 1):
            message = (
                f"a magnification of {value:g}, where more than 1 is possible"
                if value <= 1
                else "a magnification is of no use without the source to detector distance"
            )
            self._find(Code.MISSING_SOD, message, factor if value <= 1 else None)
            return None
        sod = sdd / value if source == factor and sdd is not None else value
        self._note("sod", sod, source)
        lateral = position is not None and not position.is_frontal
        half = HALF_HEAD_LATERAL if lateral else HALF_HEAD_FRONTAL
        if sod < SOURCE_TO_SKIN + half or (sdd is not None and sod > sdd - half):
            between = "" if sdd is None else f" and {sdd - half:g}"
            message = (
                f"source to isocentre {sod:.4g} mm is not between {SOURCE_TO_SKIN + half:g}"
                f"{between} mm, so the head does not fit before the detector or behind the source"
            )
            self._find(Code.MISSING_SOD, message, None if source == OVERRIDE else source)
            return None
        return sod
