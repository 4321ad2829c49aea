"""Find studies in folders, and read the frontal and the lateral radiograph of one examination."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from spider_bundle.dicom.errors import (
    CODES,
    Code,
    Finding,
    RadiographError,
    Severity,
    finding,
)
from spider_bundle.dicom.evidence import (
    acquisition_findings,
    geometry_evidence,
    view_evidence,
)
from spider_bundle.dicom.header import (
    SECONDARY_CAPTURE,
    Header,
    Identifiers,
    open_dataset,
)
from spider_bundle.dicom.overrides import Overrides, PairOverrides
from spider_bundle.dicom.read import Radiograph, open_header, read_radiograph
from spider_bundle.files import files_below
from spider_bundle.geometry import View, ViewPosition, angle_between

#: Key of study keys unless a site sets its own. It is public: with it a key is a pseudonym that
#: anybody who knows the UID can compute, not a secret.
PUBLIC_KEY = "spider-bundle"

_PAIR = "pair"

_META_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
"""Head of the first element of a DICOM file: FileMetaInformationGroupLength."""
_META_START = 144
"""Where what that element counts begins."""


def study_key(study_instance_uid: str, key: str = PUBLIC_KEY) -> str:
    """Name of a study in files and reports: 16 hexadecimal digits of HMAC-SHA256.

    Args:
        study_instance_uid: StudyInstanceUID (0020,000D); of a pair from two joined studies that of
            the frontal radiograph, and its SOPInstanceUID where there is none.
        key: Secret of the site; :data:`PUBLIC_KEY` makes it pseudonymous but not secret.
    """
    digest = hmac.new(key.encode(), _bytes_of(study_instance_uid), hashlib.sha256)
    return digest.hexdigest()[:16]


def _bytes_of(text: str) -> bytes:
    # a malformed file can hold what UTF-8 cannot encode
    return text.encode(errors="backslashreplace")


def _key_of(identifiers: Identifiers, key: str) -> str:
    """Study key; a file without StudyInstanceUID must not share one with all others like it."""
    return study_key(identifiers.study or identifiers.instance, key)


@dataclass(frozen=True)
class Candidate:
    """A radiograph found in a folder, from its header alone.

    Attributes:
        path: Where it is; not shown, for a path may hold a name.
        kind: ``frontal``, ``lateral``, ``other`` (oblique, axial) or ``unknown``.
        description: Safe words for messages, such as ``frontal PA 1024x1280, instance 1``.
        identifiers: For pairing only.
    """

    path: Path = field(repr=False)
    kind: str
    description: str
    identifiers: Identifiers


@dataclass(frozen=True)
class Study:
    """The radiographs of one examination.

    Attributes:
        key: See :func:`study_key`.
        frontal: The frontal radiograph, if there is exactly one.
        lateral: The lateral radiograph, if there is exactly one.
        candidates: All its radiographs.
        findings: What stands against it; without an error it can be read as a pair.
    """

    key: str
    frontal: Candidate | None
    lateral: Candidate | None
    candidates: tuple[Candidate, ...]
    findings: tuple[Finding, ...]

    @property
    def is_complete(self) -> bool:
        """Whether there is one frontal and one lateral radiograph and no error."""
        return (
            self.frontal is not None
            and self.lateral is not None
            and not any(f.severity is Severity.ERROR for f in self.findings)
        )


@dataclass(frozen=True)
class Studies:
    """What a search found.

    Attributes:
        studies: Studies in the order of their first file.
        foreign_files: Number of files that are not DICOM objects.
        other_objects: Number of DICOM files of each modality that are not radiographs.
    """

    studies: tuple[Study, ...]
    foreign_files: int
    other_objects: dict[str, int]


@dataclass(frozen=True)
class RadiographPair:
    """A frontal and a lateral radiograph of one head.

    Attributes:
        frontal: Frontal radiograph.
        lateral: Lateral radiograph.
        findings: All warnings, of both radiographs and of the pair.
        study_key: See :func:`study_key`.
        isocentric_assumed: True unless both share a FrameOfReferenceUID: the two central rays are
            then taken to meet.
    """

    frontal: Radiograph
    lateral: Radiograph
    findings: tuple[Finding, ...]
    study_key: str
    isocentric_assumed: bool

    @property
    def radiographs(self) -> tuple[Radiograph, Radiograph]:
        """Frontal and lateral, the order of the network's channels."""
        return self.frontal, self.lateral


def find_studies(
    paths: Path | str | Iterable[Path | str],
    *,
    key: str = PUBLIC_KEY,
    allow_secondary_capture: bool = False,
) -> Studies:
    """Find the radiographs below folders and group them by study, reading headers only.

    Files of any name at any depth are looked at. Two studies of one accession number and one
    patient that lack a view each are put together.

    Args:
        paths: Folders or files.
        key: See :func:`study_key`.
        allow_secondary_capture: Take secondary captures for radiographs.
    """
    roots = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    overrides = Overrides(allow_secondary_capture=allow_secondary_capture)
    candidates = []
    foreign = 0
    other: dict[str, int] = {}
    for path in _files(roots):
        try:
            header = Header(open_dataset(path, _PAIR, pixels=False))
        except RadiographError:
            foreign += 1
            continue
        if not header.sop_class or header.is_directory:
            foreign += 1
            continue
        secondary = header.kind == SECONDARY_CAPTURE and not allow_secondary_capture
        if not header.kind or secondary:
            modality = header.modality
            other[modality] = other.get(modality, 0) + 1
            continue
        candidates.append(_candidate(path, header, overrides))
    groups: dict[str, list[Candidate]] = {}
    for candidate in without_copies(candidates):
        groups.setdefault(candidate.identifiers.study, []).append(candidate)
    studies = tuple(_study(members, key) for members in _joined(list(groups.values())))
    return Studies(studies, foreign, other)


def without_copies(
    candidates: Sequence[Candidate], digest: Callable[[Path], object] | None = None
) -> list[Candidate]:
    """Leave out files whose data set is byte for byte that of another one; the first stays.

    A SOPInstanceUID alone does not tell: some anonymisers and modalities give the same to objects
    of different studies, and a corrected film may have that of the first one.

    Args:
        candidates: Radiographs.
        digest: What the content of a file is known by; asked for files of equal identifiers only.
            :func:`data_set_sha256` if not given.

    Raises:
        OSError: A file has vanished.
    """
    alike = Counter(candidate.identifiers for candidate in candidates)
    kept, seen = [], set()
    for candidate in candidates:
        identifiers = candidate.identifiers
        is_alone = alike[identifiers] == 1
        content = None if is_alone else (digest or data_set_sha256)(candidate.path)
        if (identifiers, content) not in seen:
            kept.append(candidate)
        seen.add((identifiers, content))
    return kept


def data_set_sha256(path: Path) -> str:
    """SHA-256 of a DICOM file without its preamble and file meta information (PS3.10 section 7.1).

    Those tell which way a file has come.

    Args:
        path: The file; all of one that does not begin as a DICOM file counts.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_META_START)
        length = int.from_bytes(head[-4:], "little")  # of the file meta information
        begins_well = head[128:140] == b"DICM" + _META_LENGTH
        is_cut = _META_START + length >= os.fstat(stream.fileno()).st_size
        stream.seek(_META_START + length if begins_well and not is_cut else 0)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(roots: Sequence[Path | str]) -> Iterable[Path]:
    for root in map(Path, roots):
        if root.is_dir():
            yield from files_below(root)
        else:
            yield root


def _candidate(path: Path, header: Header, overrides: Overrides) -> Candidate:
    evidence = view_evidence(header, overrides)
    rows, columns = (int(header.number(k) or 0) for k in ("Rows", "Columns"))
    number = header.number("InstanceNumber")
    parts = [
        evidence.kind,
        evidence.position.value if evidence.position else "",
        f"{columns}x{rows}",
        "for processing" if header.for_processing else "",
    ]
    instance = "" if number is None else f", instance {number:.0f}"
    description = " ".join(p for p in parts if p) + instance
    return Candidate(path, evidence.kind, description, header.identifiers())


def _joined(groups: list[list[Candidate]]) -> list[list[Candidate]]:
    """Join studies of one patient and accession number that lack a view each (E05)."""
    joined: list[list[Candidate]] = []
    for group in groups:
        kinds = {c.kind for c in group}
        first = group[0].identifiers
        partner = None
        if first.accession and not {"frontal", "lateral"} <= kinds:
            partner = next(
                (
                    earlier
                    for earlier in joined
                    if earlier[0].identifiers.accession == first.accession
                    and earlier[0].identifiers.patient == first.patient
                    and not {"frontal", "lateral"} <= {c.kind for c in earlier}
                ),
                None,
            )
        if partner is None:
            joined.append(list(group))
        else:
            partner.extend(group)
    return joined


def _study(members: list[Candidate], key: str) -> Study:
    found = []
    if len({c.identifiers.patient for c in members}) > 1:
        message = "radiographs of different patients share one study"
        found.append(finding(Code.E05, _PAIR, message, attribute="PatientID"))
    chosen: dict[str, Candidate | None] = {}
    for kind in ("frontal", "lateral"):
        these = [c for c in members if c.kind == kind]
        chosen[kind] = these[0] if len(these) == 1 else None
    listed = "; ".join(c.description for c in members)
    if None in chosen.values():
        found.append(finding(Code.E06, _PAIR, f"{CODES[Code.E06].condition}: {listed}"))
    elif any(c.kind == "unknown" for c in members):
        message = f"a radiograph of unknown view is left out: {listed}"
        found.append(finding(Code.E06, _PAIR, message, severity=Severity.WARNING))
    if chosen["frontal"] and chosen["lateral"]:
        found += _identity_findings(chosen["frontal"].identifiers, chosen["lateral"].identifiers)
    # Joined studies have several UIDs; the pair that is read goes by its frontal radiograph.
    return Study(
        _key_of((chosen["frontal"] or members[0]).identifiers, key),
        chosen["frontal"],
        chosen["lateral"],
        tuple(members),
        tuple(dict.fromkeys(found)),
    )


def read_pair(
    frontal_path: Path | str,
    lateral_path: Path | str,
    overrides: PairOverrides | None = None,
    *,
    key: str = PUBLIC_KEY,
) -> RadiographPair:
    """Read the two radiographs of one examination and check them against each other.

    Args:
        frontal_path: One file.
        lateral_path: The other file; the two are put in order by the views in their headers.
        overrides: Statements of the operator by view.
        key: See :func:`study_key`.

    Raises:
        RadiographError: Findings of both files, and E05, E06, E07, E19 and E23 of the pair.
    """
    stated = overrides or PairOverrides()
    paths = (frontal_path, lateral_path)
    if _swapped(paths, stated):
        paths = (lateral_path, frontal_path)
    read: list[Radiograph] = []
    found: list[Finding] = []
    for path, role, statement in zip(
        paths, ("frontal", "lateral"), (stated.frontal, stated.lateral), strict=True
    ):
        try:
            read.append(read_radiograph(path, statement))
            found += read[-1].findings
        except RadiographError as error:
            # Which of the two files it is helps, whatever its header says.
            found += [replace(f, role=role) for f in error.findings]
    if len(read) == 2:
        found += _pair_findings(*read)
    if any(f.severity is Severity.ERROR for f in found):
        raise RadiographError(found)
    first, second = (radiograph.identifiers for radiograph in read)
    same_frame = bool(first.frame_of_reference) and (
        first.frame_of_reference == second.frame_of_reference
    )
    return RadiographPair(read[0], read[1], tuple(found), _key_of(first, key), not same_frame)


def check_headers(
    frontal_path: Path | str, lateral_path: Path | str, overrides: PairOverrides | None = None
) -> tuple[Finding, ...]:
    """What the headers of a pair say against it; its pixels are not looked at.

    Args:
        frontal_path: The frontal radiograph.
        lateral_path: The lateral radiograph.
        overrides: Statements of the operator by view.

    Returns:
        Those findings of :func:`read_pair` that need no pixels, errors and warnings.
    """
    stated = overrides or PairOverrides()
    sides: list[_Described] = []
    found: list[Finding] = []
    for path, role, statement in (
        (frontal_path, "frontal", stated.frontal),
        (lateral_path, "lateral", stated.lateral),
    ):
        try:
            header = open_header(path, role, statement)
        except RadiographError as error:
            found += error.findings
            continue
        evidence = view_evidence(header, statement)
        geometry = geometry_evidence(header, evidence, statement)
        about = [*acquisition_findings(header, role), *geometry.findings]
        found += [replace(f, role=role) for f in about]
        if evidence.position is not None and geometry.view is not None:
            identifiers, overridden = header.identifiers(), statement.view is not None
            sides.append(
                _Described(
                    evidence.position, geometry.view, identifiers, header.laterality, overridden
                )
            )
    if len(sides) == 2:
        found += _pair_findings(*sides)
    return tuple(found)


class _Side(Protocol):
    """What the checks of a pair look at in each radiograph; see :class:`Radiograph`."""

    @property
    def position(self) -> ViewPosition: ...
    @property
    def view(self) -> View: ...
    @property
    def identifiers(self) -> Identifiers: ...
    @property
    def laterality(self) -> str: ...
    @property
    def overridden(self) -> bool: ...


@dataclass(frozen=True)
class _Described:
    """A radiograph as its header describes it."""

    position: ViewPosition
    view: View
    identifiers: Identifiers
    laterality: str
    overridden: bool


def _swapped(paths: tuple[Path | str, Path | str], stated: PairOverrides) -> bool:
    """Whether the headers say that the two files were given in the other order."""
    kinds = []
    for path, statement in zip(paths, (stated.frontal, stated.lateral), strict=True):
        try:
            # The view in the header decides the order; a stated one belongs to a role.
            header = open_header(path, _PAIR, statement)
            kinds.append(view_evidence(header, replace(statement, view=None)).kind)
        except RadiographError:
            kinds.append("unknown")
    if kinds == ["lateral", "frontal"]:
        return True
    if stated.frontal.view is not None and stated.lateral.view is not None:
        return False  # half the evidence does not outweigh the order of an operator who looked
    return kinds in (
        ["lateral", "unknown"],
        ["unknown", "frontal"],
        ["lateral", "other"],
        ["other", "frontal"],
    )


def _pair_findings(frontal: _Side, lateral: _Side) -> list[Finding]:
    found = []
    if not frontal.position.is_frontal or lateral.position.is_frontal:
        names = f"{frontal.position.value} and {lateral.position.value}"
        found.append(finding(Code.E06, _PAIR, f"{CODES[Code.E06].condition}: {names}"))
    found += _identity_findings(frontal.identifiers, lateral.identifiers)
    limits = CODES[Code.E19].limits
    angle = angle_between(frontal.view, lateral.view)
    if abs(angle - limits["nominal_degrees"]) > limits["tolerance_degrees"] and not any(
        f.code is Code.E06 for f in found
    ):
        found.append(finding(Code.E19, _PAIR, f"the views are {angle:.1f} degrees apart"))
    sides = {frontal.laterality, lateral.laterality} - {""}
    if len(sides) == 2 and not (frontal.overridden or lateral.overridden):
        found.append(finding(Code.E23, _PAIR, "one radiograph is marked L and the other R"))
    return found


def _identity_findings(first: Identifiers, second: Identifiers) -> list[Finding]:
    """E05 and E07."""
    found = []
    if first.patient != second.patient:
        message = "the patients differ"
        found.append(finding(Code.E05, _PAIR, message, attribute="PatientID"))
    if first.study != second.study:
        same = bool(first.accession) and first.accession == second.accession
        message = "the studies differ" + (", the accession number is the same" if same else "")
        severity = Severity.WARNING if same else None
        found.append(finding(Code.E05, _PAIR, message, severity=severity))
    if first.acquired is None or second.acquired is None:
        message = "the time between the two radiographs is not known"
        found.append(finding(Code.E07, _PAIR, message))
        return found
    minutes = abs((first.acquired - second.acquired).total_seconds()) / 60
    if minutes > CODES[Code.E07].limits["warning_minutes"]:
        another_day = first.acquired.date() != second.acquired.date()
        message = "taken on different days" if another_day else f"{minutes:.0f} minutes apart"
        severity = Severity.ERROR if another_day else None
        found.append(finding(Code.E07, _PAIR, message, severity=severity))
    return found
