"""Pair two films of one examination and check them; no file is opened but to describe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spider_bundle.dicom.acquisition_geometry import AcquisitionGeometry, acquisition_geometry
from spider_bundle.dicom.checks import acquisition_findings, refusal
from spider_bundle.dicom.film import Film, describe
from spider_bundle.dicom.localiser import localiser_geometry, place_pair
from spider_bundle.dicom.overrides import ROLES, Overrides, PairOverrides
from spider_bundle.dicom.studies import PUBLIC_KEY, identity_findings, key_of
from spider_bundle.dicom.view import ViewInfo, view_info
from spider_bundle.errors import CODES, Code, Finding, Severity, SpiderError, finding
from spider_bundle.geometry import angle_between

#: Angle between the two views and its tolerance, degrees.
NOMINAL_ANGLE, ANGLE_TOLERANCE = 90.0, 10.0

_PAIR = "pair"
_UNPLACED = ViewInfo("unknown", None, "")


@dataclass(frozen=True)
class PairedFilm:
    """A film in its role, judged by its header.

    Attributes:
        film: The film, with the values of the chosen frame; None if it cannot be looked at.
        overrides: Overrides of this film.
        info: Its view.
        geometry: Its geometry; None for no film.
        findings: Errors and warnings, their role being that of the view in the header.
    """

    film: Film | None
    overrides: Overrides
    info: ViewInfo
    geometry: AcquisitionGeometry | None
    findings: tuple[Finding, ...]

    @property
    def is_placed(self) -> bool:
        """Whether view and geometry are known."""
        return self.geometry is not None and self.geometry.view is not None

    @property
    def is_localiser(self) -> bool:
        """Whether this is a localiser that is placed."""
        return self.is_placed and self.film is not None and self.film.ct is not None


@dataclass(frozen=True)
class FilmPair:
    """Two films of one head, frontal first; a pure function of films and overrides.

    Attributes:
        frontal: Frontal radiograph.
        lateral: Lateral radiograph.
        pair_findings: E05, E06, E07, E19 and E23 of the two together, if both are placed.
        study_key: See :func:`~.studies.study_key`; empty if the frontal film is unreadable.
    """

    frontal: PairedFilm
    lateral: PairedFilm
    pair_findings: tuple[Finding, ...]
    study_key: str

    @property
    def sides(self) -> tuple[PairedFilm, PairedFilm]:
        """Frontal and lateral, the order of the network's channels."""
        return self.frontal, self.lateral

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings of the headers, each in the role that the pair gives its film."""
        return (
            *(
                replace(found, role=role)
                for role, side in zip(ROLES, self.sides, strict=True)
                for found in side.findings
            ),
            *self.pair_findings,
        )

    @property
    def has_errors(self) -> bool:
        """Whether the headers rule the pair out."""
        return any(found.severity is Severity.ERROR for found in self.findings)

    @property
    def isocentric_assumed(self) -> bool:
        """Whether the central rays are taken to meet, for want of a common FrameOfReferenceUID."""
        first, second = (
            side.film.identifiers.frame_of_reference if side.film else "" for side in self.sides
        )
        return not first or first != second


def pair_films(
    films: Sequence[Film | SpiderError],
    overrides: PairOverrides | None = None,
    *,
    key: str = PUBLIC_KEY,
) -> FilmPair:
    """Pair two films and check them; only their headers are asked.

    Args:
        films: Two films, put in order by the views in their headers; an error stands for a file
            that cannot be described.
        overrides: Overrides by view.
        key: See :func:`~.studies.study_key`.

    Returns:
        The pair with everything that was found, so that an operator can mend it all at once.
    """
    overrides = overrides or PairOverrides()
    first, second = films
    if _swapped((first, second), overrides):
        first, second = second, first
    frontal, lateral = judge_film(first, overrides.frontal), judge_film(second, overrides.lateral)
    found = _pair_findings(frontal, lateral)
    if frontal.is_localiser and lateral.is_localiser and _is_pair(frontal, lateral):
        frontal, lateral, placing = place_pair(frontal, lateral)
        found += placing
    name = "" if isinstance(first, SpiderError) else key_of(first.identifiers, key)
    return FilmPair(frontal, lateral, tuple(found), name)


def describe_pair(
    paths: Sequence[Path | str],
    overrides: PairOverrides | None = None,
    *,
    key: str = PUBLIC_KEY,
    keep_identity: bool = False,
) -> FilmPair:
    """Describe two files and pair them.

    Args:
        paths: The two files in any order.
        overrides: See :func:`pair_films`.
        key: See :func:`pair_films`.
        keep_identity: Whether to read the identity of patient and study.
    """
    overrides = overrides or PairOverrides()
    films: list[Film | SpiderError] = []
    for path in paths:
        try:
            films.append(describe(path, frames=overrides.frames, keep_identity=keep_identity))
        except SpiderError as error:
            films.append(error)
        except OSError as error:
            message = f"not a readable DICOM file ({type(error).__name__})"
            films.append(SpiderError(Code.NOT_A_RADIOGRAPH, message, role="radiograph"))
    return pair_films(films, overrides, key=key)


def judge_film(film: Film | SpiderError, overrides: Overrides) -> PairedFilm:
    """Judge one film by its header.

    Args:
        film: The film, or why it cannot be described.
        overrides: Overrides of this film.
    """
    if isinstance(film, SpiderError):
        return PairedFilm(None, overrides, _UNPLACED, None, film.findings)
    refused = refusal(film, overrides, "radiograph")
    if refused is not None:
        return PairedFilm(None, overrides, _UNPLACED, None, (refused,))
    film = film.at(overrides.frame)
    info = view_info(film, overrides)
    derive = acquisition_geometry if film.ct is None else localiser_geometry
    geometry = derive(film, info, overrides)
    found = (*acquisition_findings(film, info.role), *geometry.findings)
    return PairedFilm(film, overrides, info, geometry, found)


def _swapped(films: tuple[Film | SpiderError, Film | SpiderError], pair: PairOverrides) -> bool:
    """Return whether the headers say that the two films were given in the other order."""
    kinds = []
    for film, overrides in zip(films, (pair.frontal, pair.lateral), strict=True):
        if isinstance(film, SpiderError) or refusal(film, overrides, _PAIR) is not None:
            kinds.append("unknown")
        else:
            # The view in the header decides the order; an override belongs to a role.
            of_header = replace(overrides, view=None)
            kinds.append(view_info(film.at(overrides.frame), of_header).kind)
    if kinds == ["lateral", "frontal"]:
        return True
    if pair.frontal.view is not None and pair.lateral.view is not None:
        return False  # half the evidence does not outweigh the order of an operator who looked
    return kinds in (
        ["lateral", "unknown"],
        ["unknown", "frontal"],
        ["lateral", "other"],
        ["other", "frontal"],
    )


def _is_pair(frontal: PairedFilm, lateral: PairedFilm) -> bool:
    """Return whether the views are known to be a frontal and a lateral one."""
    return frontal.info.kind == "frontal" and lateral.info.kind == "lateral"


def _pair_findings(frontal: PairedFilm, lateral: PairedFilm) -> list[Finding]:
    """Check two films that are placed against each other."""
    if not (frontal.film and frontal.geometry and frontal.geometry.view and frontal.info.position):
        return []
    if not (lateral.film and lateral.geometry and lateral.geometry.view and lateral.info.position):
        return []
    found = []
    first, second = frontal.info.position, lateral.info.position
    if frontal.is_localiser != lateral.is_localiser:
        found.append(finding(Code.MIXED_KINDS, _PAIR, "a radiograph and a localiser"))
    if not _is_pair(frontal, lateral):
        message = f"{CODES[Code.NOT_A_PAIR].condition}: {first.value} and {second.value}"
        found.append(finding(Code.NOT_A_PAIR, _PAIR, message))
    found += identity_findings(frontal.film.identifiers, lateral.film.identifiers)
    angle = angle_between(frontal.geometry.view, lateral.geometry.view)
    if _is_pair(frontal, lateral) and abs(angle - NOMINAL_ANGLE) > ANGLE_TOLERANCE:
        message = f"the views are {angle:.1f} degrees apart"
        found.append(finding(Code.VIEWS_NOT_ORTHOGONAL, _PAIR, message))
    sides = {frontal.film.laterality, lateral.film.laterality} - {""}
    is_overridden = frontal.overrides.view is not None or lateral.overrides.view is not None
    if len(sides) == 2 and not is_overridden:
        message = "one radiograph is marked L and the other R"
        found.append(finding(Code.CONTRADICTORY_LATERALITY, _PAIR, message))
    return found
