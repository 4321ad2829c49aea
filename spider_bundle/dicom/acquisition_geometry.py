"""Derive the geometry of a radiograph from its header.

Every value keeps where it came from: an attribute or an override. The rules follow the definitions
of DICOM PS3.3; where the standard leaves a direction or a distance open nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spider_bundle.dicom.film import Film
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
#: Largest accepted SDD / SOD.
MAXIMUM_MAGNIFICATION = 20.0


@dataclass(frozen=True)
class AcquisitionGeometry:
    """Geometry of a radiograph.

    Attributes:
        view: Pinhole geometry as stored; None if there is an error.
        provenance: View, orientation, positioner_angles, pitch, sdd and sod.
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
    deriving = _Derivation(film, info, overrides)
    view = deriving.view()
    return AcquisitionGeometry(view, deriving.provenance, tuple(deriving.findings))


@dataclass
class _Derivation:
    """Derives one value after the other; each notes its provenance and its findings."""

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
        sod = self._sod(sdd)
        if position is None or letters is None or pitch is None or sdd is None or sod is None:
            return None
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
            message = "ImagerPixelSpacing is missing"
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
        if len(pixel) == 2 and pixel[0] > 0 and abs(pixel[0] - row) > SPACING_DIFFERENCE * row:
            kind = self.film.calibration
            kind = kind.lower() if kind in ("GEOMETRY", "FIDUCIAL") else "not stated"
            message = f"PixelSpacing {pixel[0]:g} mm (calibration: {kind}) differs from {row:g}"
            self._find(Code.PIXEL_SPACING_MISMATCH, message)
        return row, column

    def _sdd(self) -> float | None:
        """Return the distance from source to detector, mm (E11)."""
        given = self.overrides.sdd
        sdd = self.film.sdd if given is None else given
        if not sdd:
            self._find(Code.INVALID_SDD, "DistanceSourceToDetector is missing")
            return None
        self._note("sdd", sdd, "DistanceSourceToDetector" if given is None else OVERRIDE)
        if not MINIMUM_SDD <= sdd <= MAXIMUM_SDD:
            message = (
                f"a source to detector distance of {sdd:g} mm is outside "
                f"{MINIMUM_SDD:g} to {MAXIMUM_SDD:g} mm"
            )
            self._find(Code.INVALID_SDD, message)
            return None
        return sdd

    def _sod(self, sdd: float | None) -> float | None:
        """Return the distance from source to isocentre, mm (E14).

        DX DistanceSourceToPatient is the distance to the table or bucky face and never used.
        """
        film, magnification = self.film, self.film.magnification
        for sod, source in (
            (self.overrides.sod, OVERRIDE),
            (film.source_to_isocentre, "DistanceSourceToIsocenter"),
            (None if film.kind == "DX" else film.source_to_patient, "DistanceSourceToPatient"),
            (
                sdd / magnification if sdd and magnification and magnification > 1 else None,
                "EstimatedRadiographicMagnificationFactor",
            ),
        ):
            if not sod:
                continue
            self._note("sod", sod, source)
            if sdd is not None and not sdd / MAXIMUM_MAGNIFICATION <= sod < sdd:
                least = sdd / MAXIMUM_MAGNIFICATION
                message = f"source to isocentre {sod:g} mm is not between {least:g} and {sdd:g} mm"
                self._find(Code.MISSING_SOD, message, source)
                return None
            return sod
        message = "no attribute gives the source to isocentre distance"
        self._find(Code.MISSING_SOD, message)
        return None
