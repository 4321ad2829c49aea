"""Decide the view of a radiograph from its header.

The rules follow the definitions of DICOM PS3.3; where the standard leaves left or right open
nothing is guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from spider_bundle.dicom.ct_image import CTImage
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.header import EMPTY
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.provenance import OVERRIDE
from spider_bundle.errors import Code, Finding, Severity, finding
from spider_bundle.geometry import (
    FloatArray,
    ViewPosition,
    orientation_vector,
    positioner_rotation,
)

#: Largest angle between a nominal view and positioner angles that still count as it, degrees.
MAXIMUM_DEVIATION = 10.0

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
# The beam runs away from the tube.
_TUBE_SIDES = {
    "A": ViewPosition.AP,
    "P": ViewPosition.PA,
    "R": ViewPosition.LL,
    "L": ViewPosition.RL,
}
# Positioner primary angle of each nominal view (DICOM C.8.7.5.1.2).
NOMINAL_PRIMARY = {
    ViewPosition.PA: 0.0,
    ViewPosition.LL: 90.0,
    ViewPosition.AP: 180.0,
    ViewPosition.RL: -90.0,
}


@dataclass(frozen=True)
class ViewInfo:
    """View of a radiograph as its header states it.

    Attributes:
        kind: ``frontal``, ``lateral``, ``other`` (oblique, axial, decubitus) or ``unknown``.
        position: The view, if it is one of the four and fully known.
        source: Attribute or override that decided.
        reason: Why the position is not known.
        angles: Positioner angles that refine the position, degrees.
        findings: Contradictions.
    """

    kind: str
    position: ViewPosition | None
    source: str
    reason: str = ""
    angles: tuple[float, float] | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def role(self) -> str:
        """Role for findings, ``frontal``, ``lateral`` or ``radiograph``."""
        return self.kind if self.kind in ("frontal", "lateral") else "radiograph"

    @property
    def rotation(self) -> FloatArray | None:
        """Rotation of the beam away from the nominal view, shape ``(3, 3)``; None for no angles."""
        if self.position is None or self.angles is None:
            return None
        return rotation_from_nominal(self.position, self.angles)


def view_info(film: Film, overrides: Overrides) -> ViewInfo:
    """Decide the view of a radiograph.

    The order is override, ViewCodeSequence, ViewPosition, positioner angles, PatientOrientation.
    The last tells frontal from lateral only, not the side that the beam came from. The view of a
    localiser follows from its plane and the side of the tube.

    Returns:
        The view. ``position`` is None for views that are unknown, oblique or half known.
    """
    if film.ct is not None:
        return _localiser_view(film.ct, overrides)
    if overrides.view is not None:
        return _named_view(overrides.view, OVERRIDE, film.angles)
    for keyword in ("PositionerPrimaryAngle", "PositionerSecondaryAngle"):
        if film.faults.get(keyword, EMPTY) != EMPTY:
            return ViewInfo("other", None, keyword, f"{keyword} {film.faults[keyword]}")
    oblique = _oblique_reason(film)
    if oblique:
        return ViewInfo("other", None, "ViewCodeSequence", oblique)
    named = [(_coded_view(film), "ViewCodeSequence"), (film.view_position, "ViewPosition")]
    known = [(name, source) for name, source in named if name in ViewPosition.__members__]
    if known:
        info = _named_view(ViewPosition(known[0][0]), known[0][1], film.angles)
        return replace(info, findings=tuple(_conflicts(film, info, known[1:])))
    word, source = next(((name, source) for name, source in named if name), ("", ""))
    if word == "OTHER" or word in _OTHER_POSITIONS:
        return ViewInfo("other", None, source, "not a plain frontal or lateral view")
    if film.angles is not None:
        return _angled_view(film.angles)
    if word in _LATERAL_WORDS:
        return ViewInfo("lateral", None, source, "lateral, but LL or RL is not stated")
    letters = orientation_letters(film.orientation)
    if letters is not None:
        normal = np.cross(orientation_vector(letters[0]), orientation_vector(letters[1]))
        for axis, kind, names in ((1, "frontal", "AP or PA"), (0, "lateral", "LL or RL")):
            if abs(normal[axis]) == 1:
                reason = f"{kind} by its orientation, but {names} is not stated"
                return ViewInfo(kind, None, "PatientOrientation", reason)
    return ViewInfo("unknown", None, "", "no attribute states the view")


def _localiser_view(image: CTImage, overrides: Overrides) -> ViewInfo:
    """Return the view of a localiser: its plane, and the side of the tube or its override."""
    kind = image.plane
    if kind not in ("frontal", "lateral"):
        return ViewInfo("other", None, "ImageOrientationPatient", "an oblique plane")
    side, source, reason = image.tube_side()
    position = _TUBE_SIDES.get(overrides.tube_side or side)
    if overrides.tube_side is not None or overrides.view is not None:
        source = OVERRIDE
        position = position if overrides.tube_side is not None else overrides.view
    if position is not None and position.is_frontal != (kind == "frontal"):
        said = "the stated side" if source == OVERRIDE else source
        return ViewInfo(kind, None, source, f"{said} contradicts the plane of a {kind} localiser")
    return ViewInfo(kind, position, source, "" if position else reason)


def orientation_letters(values: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the values of PatientOrientation if both are one to three of its letters."""
    if len(values) != 2 or not all(0 < len(v) <= 3 and set(v) <= set("LRAPHF") for v in values):
        return None
    return values[0], values[1]


def rotation_from_nominal(position: ViewPosition, angles: tuple[float, float]) -> FloatArray:
    """Return the rotation from a nominal view to positioner angles in degrees, ``(3, 3)``."""
    return positioner_rotation(*angles) @ positioner_rotation(NOMINAL_PRIMARY[position]).T


def wrapped(degrees: float) -> float:
    """Return the same angle in -180 to 180 degrees."""
    return (degrees + 180.0) % 360.0 - 180.0


def _deviation(angles: tuple[float, float], position: ViewPosition) -> float:
    if abs(angles[0]) > 360 or abs(angles[1]) > 180:  # a run may turn beyond the 180 of C.8.7.5.1.2
        return math.inf
    return max(abs(wrapped(angles[0] - NOMINAL_PRIMARY[position])), abs(wrapped(angles[1])))


def _named_view(
    position: ViewPosition, source: str, angles: tuple[float, float] | None
) -> ViewInfo:
    """Return a stated view, refined by positioner angles that agree with it."""
    kind = "frontal" if position.is_frontal else "lateral"
    if angles is None or _deviation(angles, position) <= MAXIMUM_DEVIATION:
        return ViewInfo(kind, position, source, angles=angles)
    if source == OVERRIDE:
        return ViewInfo(kind, position, source)
    reason = f"{source} says {position.value}, positioner angles say {_degrees(angles)}"
    return ViewInfo("other", None, source, reason)


def _angled_view(angles: tuple[float, float]) -> ViewInfo:
    nearest = min(ViewPosition, key=lambda position: _deviation(angles, position))
    if _deviation(angles, nearest) > MAXIMUM_DEVIATION:
        reason = f"oblique: positioner angles {_degrees(angles)}"
        return ViewInfo("other", None, "PositionerPrimaryAngle", reason)
    return _named_view(nearest, "PositionerPrimaryAngle", angles)


def _degrees(angles: tuple[float, float]) -> str:
    return f"{angles[0]:g} and {angles[1]:g} degrees"


def _coded_view(film: Film) -> str:
    """Return the name of the coded view; OTHER for a SNOMED code of none of the plain views."""
    for value, scheme in film.view_codes:
        if value in _VIEW_CODES:
            return _VIEW_CODES[value]
        if scheme in _SNOMED_SCHEMES:
            return "OTHER"
    return ""


def _oblique_reason(film: Film) -> str:
    """Return why coded modifiers or an eponym make a view oblique, or an empty string."""
    words = " ".join(film.view_modifiers)
    if any(word in words for word in _OBLIQUE_WORDS):
        return "a modifier makes the view oblique or axial"
    if film.has_eponym:
        return "a named projection such as Caldwell or Towne is oblique"
    return ""


def _conflicts(film: Film, info: ViewInfo, others: list[tuple[str, str]]) -> list[Finding]:
    """Return what other attributes about the view and the side say against it: E08, E23."""
    conflicts: list[Finding] = []
    position = info.position
    if position is None:
        return conflicts
    for name, source in others:
        if name == position.value:
            continue
        sides = {name, position.value} == {"LL", "RL"}
        conflicts.append(
            finding(
                Code.CONTRADICTORY_LATERALITY if sides else Code.UNKNOWN_OR_OBLIQUE_VIEW,
                info.role,
                f"{info.source} says {position.value}, {source} says {name}",
                severity=None if sides else Severity.WARNING,
                attribute=source,
            )
        )
    if not position.is_frontal and film.laterality and film.laterality != position.value[0]:
        message = f"the view is {position.value} but the laterality is {film.laterality}"
        conflicts.append(finding(Code.CONTRADICTORY_LATERALITY, info.role, message))
    return conflicts
