"""What a radiograph's header says about its view and geometry, and how far it can be believed.

Every value keeps where it came from: an attribute, an override or a default. The rules follow the
definitions of DICOM PS3.3; where the standard leaves left, right or a distance open nothing is
guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from spider_bundle.dicom.errors import CODES, Code, Finding, Severity, finding
from spider_bundle.dicom.header import Header
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.geometry import (
    FloatArray,
    View,
    ViewPosition,
    beam_agreement,
    isocentric_view,
    orientation_vector,
    positioner_rotation,
)

OVERRIDE = "override"

#: View codes of CID 4010 in SNOMED CT and in its older SRT form.
_VIEW_CODES = {
    "272479007": "PA",
    "R-40888": "PA",
    "R-10214": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399173006": "LL",
    "R-10236": "LL",
    "399198007": "RL",
    "R-10232": "RL",
    "399067008": "LATERAL",
    "R-102CD": "LATERAL",
}
_SNOMED_SCHEMES = ("SCT", "SRT", "SNM3", "99SDM")
_LATERAL_WORDS = ("LATERAL", "LAT")
# Values of ViewPosition (0018,5101) that name a decubitus or an oblique view.
_OTHER_POSITIONS = ("LLD", "RLD", "LLO", "RLO")
# A modifier with none of these words (erect, inspiration ...) leaves the beam where it was.
_OBLIQUE_WORDS = (
    *("OBLIQUE", "AXIAL", "CEPHALAD", "CAUDAD", "DEGREE", "TANGENTIAL", "SUBMENTOVERTEX"),
    *("CALDWELL", "TOWNE", "WATERS", "STENVERS", "SCHUELLER", "SCHULLER", "MAYER", "RHESE"),
    *("LAW", "HAAS", "HIRTZ"),
)
_HEAD_PARTS = ("HEAD", "SKULL")
_HEAD_CODES = ("89546000", "T-11100", "69536005", "T-D1100")
# Positioner primary angle of each nominal view (DICOM C.8.7.5.1.2).
NOMINAL_PRIMARY = {
    ViewPosition.PA: 0.0,
    ViewPosition.LL: 90.0,
    ViewPosition.AP: 180.0,
    ViewPosition.RL: -90.0,
}


class Sourced(TypedDict):
    """A value and where it came from."""

    value: object
    source: str


@dataclass(frozen=True)
class ViewEvidence:
    """What a header says about the view.

    Attributes:
        kind: ``frontal``, ``lateral``, ``other`` (oblique, axial, decubitus) or ``unknown``.
        position: The view, if it is one of the four and fully known.
        source: Attribute or override that decided.
        reason: Why the position is not known.
        rotation: Rotation of the beam away from the nominal view, shape ``(3, 3)``.
        angles: Positioner angles behind the rotation, degrees.
        findings: Contradictions.
    """

    kind: str
    position: ViewPosition | None
    source: str
    reason: str = ""
    rotation: FloatArray | None = None
    angles: tuple[float, float] | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def role(self) -> str:
        """Role for findings, ``frontal``, ``lateral`` or ``radiograph``."""
        return self.kind if self.kind in ("frontal", "lateral") else "radiograph"


def view_evidence(header: Header, overrides: Overrides) -> ViewEvidence:
    """Decide the view of a radiograph.

    The order is override, ViewCodeSequence, ViewPosition, positioner angles, PatientOrientation.
    The last tells frontal from lateral only, not the side that the beam came from.

    Returns:
        The evidence. ``position`` is None for views that are unknown, oblique or half known.
    """
    angles = _positioner_angles(header)
    if overrides.view is not None:
        return _named_view(overrides.view, OVERRIDE, angles)
    oblique = _oblique_reason(header)
    if oblique:
        return ViewEvidence("other", None, "ViewCodeSequence", oblique)
    named = [(_coded_view(header), "ViewCodeSequence"), (header.text("ViewPosition"), "")]
    stated = [
        (name, source or "ViewPosition")
        for name, source in named
        if name in ViewPosition.__members__
    ]
    if stated:
        found = _named_view(ViewPosition(stated[0][0]), stated[0][1], angles)
        return _with_conflicts(header, found, stated[1:])
    word, source = next(((n, s or "ViewPosition") for n, s in named if n), ("", ""))
    if word == "OTHER" or word in _OTHER_POSITIONS:
        return ViewEvidence("other", None, source, "not a plain frontal or lateral view")
    if angles is not None:
        return _angled_view(angles)
    if word in _LATERAL_WORDS:
        return ViewEvidence("lateral", None, source, "lateral, but LL or RL is not stated")
    letters = _orientation_letters(header.texts("PatientOrientation"))
    if letters is not None:
        normal = np.cross(orientation_vector(letters[0]), orientation_vector(letters[1]))
        for axis, kind, names in ((1, "frontal", "AP or PA"), (0, "lateral", "LL or RL")):
            if abs(normal[axis]) == 1:
                reason = f"{kind} by its orientation, but {names} is not stated"
                return ViewEvidence(kind, None, "PatientOrientation", reason)
    return ViewEvidence("unknown", None, "", "no attribute states the view")


def _positioner_angles(header: Header) -> tuple[float, float] | None:
    """Primary and secondary angle where they are relative to the patient, degrees."""
    is_c_arm = header.kind == "DX" and header.text("PositionerType") == "CARM"
    if header.kind not in ("XA", "Enhanced XA", "Enhanced XRF") and not is_c_arm:
        return None
    primary = header.number("PositionerPrimaryAngle")
    if primary is None:
        return None
    secondary = header.number("PositionerSecondaryAngle") or 0.0
    for increments, index in (
        (header.numbers("PositionerPrimaryAngleIncrement"), 0),
        (header.numbers("PositionerSecondaryAngleIncrement"), 1),
    ):
        # Increments are relative to the first frame (DICOM C.8.7.5).
        if len(increments) == header.frames and header.frames > 1:
            step = increments[header.frame]
            primary, secondary = (
                (primary + step, secondary) if index == 0 else (primary, secondary + step)
            )
    if not (math.isfinite(primary) and math.isfinite(secondary)):
        return None
    return primary, secondary


def _wrapped(degrees: float) -> float:
    """The same angle in -180 to 180 degrees."""
    return (degrees + 180.0) % 360.0 - 180.0


def _deviation(angles: tuple[float, float], position: ViewPosition) -> float:
    return max(abs(_wrapped(angles[0] - NOMINAL_PRIMARY[position])), abs(_wrapped(angles[1])))


def _named_view(
    position: ViewPosition, source: str, angles: tuple[float, float] | None
) -> ViewEvidence:
    """The evidence for a stated position, refined by positioner angles that agree with it."""
    kind = "frontal" if position.is_frontal else "lateral"
    if angles is None:
        return ViewEvidence(kind, position, source)
    if _deviation(angles, position) > CODES[Code.E08].limits["positioner_degrees"]:
        if source == OVERRIDE:
            return ViewEvidence(kind, position, source)
        reason = f"{source} says {position.value}, positioner angles say {_degrees(angles)}"
        return ViewEvidence("other", None, source, reason)
    rotation = rotation_from_nominal(position, angles)
    return ViewEvidence(kind, position, source, rotation=rotation, angles=angles)


def rotation_from_nominal(position: ViewPosition, angles: tuple[float, float]) -> FloatArray:
    """Rotation from a nominal view to positioner angles in degrees, shape ``(3, 3)``."""
    return positioner_rotation(*angles) @ positioner_rotation(NOMINAL_PRIMARY[position]).T


def _angled_view(angles: tuple[float, float]) -> ViewEvidence:
    nearest = min(ViewPosition, key=lambda position: _deviation(angles, position))
    if _deviation(angles, nearest) > CODES[Code.E08].limits["positioner_degrees"]:
        reason = f"oblique: positioner angles {_degrees(angles)}"
        return ViewEvidence("other", None, "PositionerPrimaryAngle", reason)
    return _named_view(nearest, "PositionerPrimaryAngle", angles)


def _degrees(angles: tuple[float, float]) -> str:
    return f"{angles[0]:g} and {angles[1]:g} degrees"


def _coded_view(header: Header) -> str:
    """Name of the coded view; OTHER for a SNOMED code that is none of the plain views."""
    for value, scheme, _ in header.codes("ViewCodeSequence"):
        if value in _VIEW_CODES:
            return _VIEW_CODES[value]
        if scheme in _SNOMED_SCHEMES:
            return "OTHER"
    return ""


def _oblique_reason(header: Header) -> str:
    """Why coded modifiers or an eponym make a view oblique, or an empty string."""
    modifiers = header.codes("ViewModifierCodeSequence")
    for item in header.items("ViewCodeSequence"):
        modifiers += Header(item).codes("ViewModifierCodeSequence")
    words = " ".join(meaning for _, _, meaning in modifiers)
    if any(word in words for word in _OBLIQUE_WORDS):
        return "a modifier makes the view oblique or axial"
    if header.items("ProjectionEponymousNameCodeSequence"):
        return "a named projection such as Caldwell or Towne is oblique"
    return ""


def _with_conflicts(
    header: Header, found: ViewEvidence, others: list[tuple[str, str]]
) -> ViewEvidence:
    """Add what other statements about the view and the side say against it."""
    conflicts = []
    position = found.position
    for name, source in others:
        if position is None or name == position.value:
            continue
        sides = {name, position.value} == {"LL", "RL"}
        conflicts.append(
            finding(
                Code.E23 if sides else Code.E08,
                found.role,
                f"{found.source} says {position.value}, {source} says {name}",
                severity=None if sides else Severity.WARNING,
                attribute=source,
            )
        )
    side = header.text("ImageLaterality") or header.text("Laterality")
    if position in (ViewPosition.LL, ViewPosition.RL) and side in ("L", "R"):
        assert position is not None
        if side != position.value[0]:
            message = f"the view is {position.value} but the laterality is {side}"
            conflicts.append(finding(Code.E23, found.role, message))
    return ViewEvidence(
        found.kind,
        found.position,
        found.source,
        found.reason,
        found.rotation,
        found.angles,
        tuple(conflicts),
    )


def _orientation_letters(values: list[str] | tuple[str, ...]) -> tuple[str, str] | None:
    """The two values of PatientOrientation if both are one to three of its letters, else None."""
    if len(values) != 2 or not all(0 < len(v) <= 3 and set(v) <= set("LRAPHF") for v in values):
        return None
    return values[0], values[1]


def acquisition_findings(header: Header, role: str) -> list[Finding]:
    """Check what needs neither pixels nor geometry: E03, E04, E17, E20, E21, E22."""
    found = []
    if (header.number("SamplesPerPixel") or 1) != 1:
        found.append(finding(Code.E03, role, "a colour image", attribute="SamplesPerPixel"))
    elif header.text("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        found.append(finding(Code.E03, role, "the photometric interpretation is not greyscale"))
    image_type = " ".join(header.texts("ImageType"))
    derivation = [value for value, _, _ in header.codes("DerivationCodeSequence")]
    if "SUBTRACT" in image_type or "DSA" in image_type.split() or "113062" in derivation:
        found.append(finding(Code.E04, role, "a subtracted image", attribute="ImageType"))
    operations = {Header(i).text("MaskOperation") for i in header.items("MaskSubtractionSequence")}
    if operations - {"", "NONE"}:
        message = "the run is meant for subtraction; the frame may show contrast medium"
        attribute = "MaskSubtractionSequence"
        found.append(
            finding(Code.E04, role, message, severity=Severity.WARNING, attribute=attribute)
        )
    burned_in = header.text("BurnedInAnnotation")
    if burned_in != "NO":
        said = "says that text is" if burned_in == "YES" else "does not exclude that text is"
        found.append(finding(Code.E17, role, f"the file {said} burned into the image"))
    turned = _wrapped(header.number("FieldOfViewRotation") or 0.0) != 0.0
    if turned or header.text("FieldOfViewHorizontalFlip") == "YES":
        found.append(finding(Code.E20, role))
    parts = set(header.texts("BodyPartExamined"))
    coded = {value for value, _, _ in header.codes("AnatomicRegionSequence")}
    if not (parts & set(_HEAD_PARTS) or coded & set(_HEAD_CODES)):
        found.append(finding(Code.E21, role))
    if header.text("LossyImageCompression") == "01":
        found.append(finding(Code.E22, role))
    return found


@dataclass
class GeometryEvidence:
    """View and provenance from a header; the view is None if an error stands against it."""

    view: View | None
    provenance: dict[str, Sourced]
    findings: list[Finding]


def geometry_evidence(
    header: Header, evidence: ViewEvidence, overrides: Overrides
) -> GeometryEvidence:
    """Derive the pinhole view of a radiograph: E08 to E14.

    The isocentre lies on the central ray, which meets the middle of the pixel array.

    Args:
        header: The radiograph's header.
        evidence: What :func:`view_evidence` found.
        overrides: Statements of the operator.
    """
    role = evidence.role
    found = list(evidence.findings)
    provenance: dict[str, Sourced] = {}
    position = evidence.position
    if position is None:
        found.append(finding(Code.E08, role, evidence.reason))
    else:
        provenance["view"] = {"value": position.value, "source": evidence.source}
    if evidence.angles is not None:
        provenance["positioner_angles"] = {
            "value": list(evidence.angles),
            "source": "PositionerPrimaryAngle, PositionerSecondaryAngle",
        }
    letters = _orientation(header, position, overrides, role, found, provenance)
    pitch = _pitch(header, overrides, role, found, provenance)
    sdd = _sdd(header, overrides, role, found, provenance)
    sod = _sod(header, sdd, overrides, role, found, provenance)
    if position is None or letters is None or pitch is None or sdd is None or sod is None:
        return GeometryEvidence(None, provenance, found)
    view = isocentric_view(
        position,
        sod=sod,
        sdd=sdd,
        spacing=pitch,
        shape=(int(header.number("Rows") or 0), int(header.number("Columns") or 0)),
        orientation=letters,
        rotation=evidence.rotation,
    )
    return GeometryEvidence(view, provenance, found)


def _orientation(
    header: Header,
    position: ViewPosition | None,
    overrides: Overrides,
    role: str,
    found: list[Finding],
    provenance: dict[str, Sourced],
) -> tuple[str, str] | None:
    """PatientOrientation, checked against the beam (E09, E10)."""
    given = overrides.orientation
    values = list(given) if given is not None else header.texts("PatientOrientation")
    letters = _orientation_letters(values)
    if letters is None:
        message = "PatientOrientation is missing or malformed; left and right are not guessed"
        found.append(finding(Code.E10, role, message))
        return None
    source = OVERRIDE if given is not None else "PatientOrientation"
    provenance["orientation"] = {"value": list(letters), "source": source}
    if position is not None and beam_agreement(letters, position) == 0:
        message = f"orientation [{letters[0]}, {letters[1]}] contradicts view {position.value}"
        found.append(finding(Code.E09, role, message))
        return None
    return letters


def _pitch(
    header: Header,
    overrides: Overrides,
    role: str,
    found: list[Finding],
    provenance: dict[str, Sourced],
) -> tuple[float, float] | None:
    """Pixel pitch at the detector, mm (E12, E13)."""
    limits = CODES[Code.E12].limits
    imager = header.numbers("ImagerPixelSpacing")
    pixel = header.numbers("PixelSpacing")
    if overrides.pitch is not None:
        values, source = [overrides.pitch, overrides.pitch], OVERRIDE
    else:
        values, source = imager, "ImagerPixelSpacing"
        if len(values) != 2:
            message = "ImagerPixelSpacing is missing"
            if len(pixel) == 2 and pixel[0] > 0:
                # PixelSpacing may be corrected for magnification, so it cannot stand in.
                message += f"; PixelSpacing is {pixel[0]:g} mm, at the detector or not"
            found.append(finding(Code.E12, role, message))
            return None
    row, column = values
    provenance["pitch"] = {"value": [row, column], "source": source}
    if not all(limits["minimum_mm"] <= v <= limits["maximum_mm"] for v in values):
        found.append(finding(Code.E12, role, f"a pitch of {row:g} x {column:g} mm"))
        return None
    if abs(row - column) > limits["anisotropy"] * max(values):
        found.append(finding(Code.E12, role, f"pixels are not square: {row:g} x {column:g} mm"))
        return None
    tolerance = CODES[Code.E13].limits["relative_difference"]
    if len(pixel) == 2 and pixel[0] > 0 and abs(pixel[0] - row) > tolerance * row:
        kind = header.text("PixelSpacingCalibrationType")
        kind = kind if kind in ("GEOMETRY", "FIDUCIAL") else "not stated"
        message = f"PixelSpacing {pixel[0]:g} mm (calibration: {kind.lower()}) differs from {row:g}"
        found.append(finding(Code.E13, role, message))
    return row, column


def _sdd(
    header: Header,
    overrides: Overrides,
    role: str,
    found: list[Finding],
    provenance: dict[str, Sourced],
) -> float | None:
    """Distance from source to detector, mm (E11)."""
    given = overrides.sdd is not None
    sdd = overrides.sdd if given else header.number("DistanceSourceToDetector")
    if not sdd:
        found.append(finding(Code.E11, role, "DistanceSourceToDetector is missing"))
        return None
    provenance["sdd"] = {"value": sdd, "source": OVERRIDE if given else "DistanceSourceToDetector"}
    limits = CODES[Code.E11].limits
    if not limits["minimum_mm"] <= sdd <= limits["maximum_mm"]:
        message = (
            f"a source to detector distance of {sdd:g} mm is outside "
            f"{limits['minimum_mm']:g} to {limits['maximum_mm']:g} mm"
        )
        found.append(finding(Code.E11, role, message))
        return None
    return sdd


def _sod(
    header: Header,
    sdd: float | None,
    overrides: Overrides,
    role: str,
    found: list[Finding],
    provenance: dict[str, Sourced],
) -> float | None:
    """Distance from source to isocentre, mm (E14).

    DX DistanceSourceToPatient is the distance to the table or bucky face and never used.
    """
    largest = CODES[Code.E14].limits["maximum_magnification"]
    magnification = header.number("EstimatedRadiographicMagnificationFactor")
    to_patient = None if header.kind == "DX" else header.number("DistanceSourceToPatient")
    for sod, source in (
        (overrides.sod, OVERRIDE),
        (header.number("DistanceSourceToIsocenter"), "DistanceSourceToIsocenter"),
        (to_patient, "DistanceSourceToPatient"),
        (
            sdd / magnification if sdd and magnification and magnification > 1 else None,
            "EstimatedRadiographicMagnificationFactor",
        ),
    ):
        if not sod:
            continue
        provenance["sod"] = {"value": sod, "source": source}
        if sdd is not None and not sdd / largest <= sod < sdd:
            message = (
                f"source to isocentre {sod:g} mm is not between {sdd / largest:g} and {sdd:g} mm"
            )
            found.append(finding(Code.E14, role, message, attribute=source))
            return None
        return sod
    found.append(finding(Code.E14, role, "no attribute gives the source to isocentre distance"))
    return None
