"""Find films in folders and group them by study; what may be one and cannot be read is refused."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spider_bundle.archives import holds_member
from spider_bundle.dicom.film import Film, describe
from spider_bundle.dicom.header import (
    SECONDARY_CAPTURE,
    BlankFileError,
    Identifiers,
    NotDicomError,
    begins_as_dicom,
    is_sop_class,
)
from spider_bundle.dicom.localiser_choice import choose_pair
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.view import ViewInfo, view_info
from spider_bundle.errors import CODES, Code, Finding, Severity, SpiderError, finding
from spider_bundle.files import files_below, reason
from spider_bundle.pseudonym import pseudonym

#: Key of study keys unless a site sets its own. It is public: with it a key is a pseudonym that
#: anybody who knows the UID can compute, not a secret.
PUBLIC_KEY = "spider-bundle"

#: Largest usual time between the two radiographs of a study, minutes.
MAXIMUM_GAP = 30.0

_PAIR = "pair"
_END_BYTES = 1 << 20
_FILM_SUFFIXES = frozenset({"", ".dcm", ".dic", ".dicom", ".ima", ".img"})
"""Endings of radiographs; a number is another. They only count where a file holds nothing."""

_META_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
"""Head of the first element of a DICOM file: FileMetaInformationGroupLength."""
_META_START = 144
"""Where what that element counts begins."""


def study_key(study_instance_uid: str, key: str = PUBLIC_KEY) -> str:
    """Return the name of a study in files and reports: 16 hexadecimal digits of HMAC-SHA256.

    Args:
        study_instance_uid: StudyInstanceUID (0020,000D); of a pair from two joined studies that of
            the frontal radiograph, and its SOPInstanceUID where there is none.
        key: Secret of the site; :data:`PUBLIC_KEY` makes it pseudonymous but not secret.
    """
    return pseudonym(key, study_instance_uid)[:16]


def key_of(identifiers: Identifiers, key: str = PUBLIC_KEY) -> str:
    """Return the study key; a file without StudyInstanceUID does not share one with its like."""
    return study_key(identifiers.study or identifiers.instance, key)


@dataclass(frozen=True)
class Study:
    """The films of one examination.

    Attributes:
        key: See :func:`study_key`.
        frontal: The frontal radiograph, if there is exactly one.
        lateral: The lateral radiograph, if there is exactly one.
        films: All its radiographs.
        findings: What stands against it; without an error it can be read as a pair.
        lacks_view: Whether no film is frontal, or none lateral; it may still arrive.
        is_skipped: Whether this is a CT study without a pair of localisers of the head, which
            nobody meant to be read unless it was named (E27).
        slices: The other CT images of a CT study.
    """

    key: str
    frontal: Film | None
    lateral: Film | None
    films: tuple[Film, ...] = field(repr=False)
    findings: tuple[Finding, ...]
    lacks_view: bool
    is_skipped: bool = False
    slices: tuple[Film, ...] = field(default=(), repr=False)

    @property
    def is_complete(self) -> bool:
        """Whether there is one frontal and one lateral radiograph and no error."""
        return self.pair is not None and not any(
            found.severity is Severity.ERROR for found in self.findings
        )

    @property
    def pair(self) -> tuple[Film, Film] | None:
        """Frontal and lateral radiograph, if there is exactly one of each."""
        if self.frontal is None or self.lateral is None:
            return None
        return self.frontal, self.lateral


@dataclass(frozen=True)
class Refusal:
    """A study, or a file that might hold some, that cannot be taken.

    Attributes:
        study_key: Keyed hash of the study, or of the file.
        findings: Why; the facts of :func:`~spider_bundle.errors.Finding.facts`.
        is_incomplete: Whether a view is missing, which may still arrive.
        files: All radiographs of the study, or the file.
    """

    study_key: str
    findings: Sequence[Mapping[str, Any]]
    is_incomplete: bool = False
    files: Sequence[Path] = field(default=(), repr=False)

    @property
    def codes(self) -> list[str]:
        """Codes of the errors, each once, sorted."""
        return sorted({f["code"] for f in self.findings if f["severity"] == "error"})


def refused_file(path: Path, key: str, facts: Sequence[Mapping[str, Any]]) -> Refusal:
    """Refuse a file of which no study is known; its key is derived from its content.

    Raises:
        OSError: It has vanished, or cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        ends = hashlib.sha256(stream.read(_END_BYTES))
        # of a large file both ends are enough, and take no time
        stream.seek(max(stream.tell(), size - _END_BYTES))
        ends.update(stream.read(_END_BYTES))
    return Refusal(study_key(f"file {size} {ends.hexdigest()}", key), facts, files=(path,))


def refused_place(path: Path, key: str, facts: Sequence[Mapping[str, Any]]) -> Refusal:
    """Refuse a file or folder that must not or cannot be read; its key is derived from its path."""
    return Refusal(study_key(f"place {path.absolute()}", key), facts, files=(path,))


def unreadable(error: OSError) -> Finding:
    """Return A05 for an error of the file system, without its text, which names the file."""
    return finding(Code.INPUT_UNREADABLE, "batch", f"it cannot be read: {reason(error)}")


@dataclass(frozen=True)
class Studies:
    """What a search found.

    Attributes:
        studies: Studies in the order of their first file.
        refusals: Files and folders that may hold radiographs and cannot be read.
        foreign_files: Number of files that are not DICOM objects.
        other_objects: Number of DICOM files of each modality that are not radiographs.
        skipped: CT studies without a pair of localisers of the head.
    """

    studies: tuple[Study, ...]
    refusals: tuple[Refusal, ...]
    foreign_files: int
    other_objects: dict[str, int]
    skipped: tuple[Study, ...] = ()


def find_studies(
    paths: Path | str | Iterable[Path | str],
    *,
    key: str = PUBLIC_KEY,
    allow_secondary_capture: bool = False,
    frames: Collection[int] = (),
    keep_identity: bool = False,
    kind: str = "",
) -> Studies:
    """Find the radiographs below folders and group them by study, reading headers only.

    Files of any name at any depth are looked at; each is opened once, copies of one film twice.
    Only what is certainly no radiograph is passed over.

    Args:
        paths: Folders or files.
        key: See :func:`study_key`.
        allow_secondary_capture: Accept secondary captures.
        frames: See :func:`~.film.describe`, as for the next.
        keep_identity: Whether to read the identity of patient and study.
        kind: See :func:`group`.

    Raises:
        FileNotFoundError: A path does not exist, or is empty.
    """
    roots = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    films, slices = [], []
    refusals: dict[str, Refusal] = {}  # copies of one file have one name
    foreign = 0
    other: Counter[str] = Counter()
    for path in _files(roots):
        found: Film | Refusal | None
        try:
            found = examine(path, key, frames, keep_identity)
        except OSError as error:
            if is_gone(path, error):
                continue
            found = refused_place(path, key, [unreadable(error).facts()])
        if found is None:
            foreign += 1
        elif isinstance(found, Refusal):
            refusals.setdefault(found.study_key, found)
        elif is_radiograph(found, allow_secondary_capture):
            films.append(found)
        else:
            other[found.modality] += 1
            if found.ct is not None:
                slices.append(found)
    studies = group(without_copies(films), key, slices, kind)
    return Studies(
        tuple(study for study in studies if not study.is_skipped),
        tuple(refusals.values()),
        foreign,
        dict(other),
        tuple(study for study in studies if study.is_skipped),
    )


def examine(
    path: Path, key: str, frames: Collection[int] = (), keep_identity: bool = False
) -> Film | Refusal | None:
    """Describe a file of an input.

    Args:
        path: The file.
        key: See :func:`study_key`.
        frames: See :func:`~.film.describe`, as for the next.
        keep_identity: Whether to read the identity of patient and study.

    Returns:
        The film or other DICOM object; None for what is certainly none; a refusal (A01, E01, E02)
        of what may be one and cannot be used.

    Raises:
        OSError: It cannot be read.
    """
    try:
        film = describe(path, frames=frames, keep_identity=keep_identity)
        if film.is_directory:
            return None
        if film.sop_class and (film.rows or is_sop_class(film.sop_class)):
            return film
        message = "a damaged DICOM file: it does not say what it holds"
        facts = [finding(Code.NOT_A_RADIOGRAPH, "radiograph", message).facts()]
    except NotDicomError as error:
        if isinstance(error, BlankFileError) and is_named_as_a_film(path):
            facts = [found.facts() for found in error.findings]
        elif not holds_member(path, begins_as_dicom):
            return None
        else:
            message = "an archive with DICOM files, which is not opened here"
            action = "unpack it; spider batch opens zip archives that are not in others"
            facts = [finding(Code.ARCHIVE_UNREADABLE, "batch", message, action=action).facts()]
    except SpiderError as error:
        facts = [found.facts() for found in error.findings]
    return refused_file(path, key, facts)


def is_gone(path: Path, error: OSError) -> bool:
    """Return whether a file could not be read because it has vanished; a link is still there."""
    return isinstance(error, (FileNotFoundError, NotADirectoryError)) and not path.is_symlink()


def is_named_as_a_film(path: Path) -> bool:
    """Return whether a file that holds nothing is named as images are."""
    suffix = path.suffix.lower()
    # hidden folders are programs' own, such as that of the listener
    is_hidden = path.name.startswith(".") or path.parent.name.startswith(".")
    return not is_hidden and (suffix in _FILM_SUFFIXES or suffix[1:].isdigit())


def is_radiograph(film: Film, allow_secondary_capture: bool = False) -> bool:
    """Return whether a film is of an accepted SOP class."""
    return bool(film.kind) and (allow_secondary_capture or film.kind != SECONDARY_CAPTURE)


def without_copies(
    films: Sequence[Film], digest: Callable[[Path], object] | None = None
) -> list[Film]:
    """Leave out films whose data set is byte for byte that of another one; the first stays.

    A SOPInstanceUID alone does not tell: some anonymisers and modalities give the same to objects
    of different studies, and a corrected film may have that of the first one.

    Args:
        films: Radiographs.
        digest: What the content of a file is known by; asked for files of equal identifiers only.
            :func:`data_set_sha256` if not given.

    Raises:
        OSError: A file has vanished.
    """
    alike = Counter(film.identifiers for film in films)
    kept, seen = [], set()
    for film in films:
        is_alone = alike[film.identifiers] == 1
        content = None if is_alone else (digest or data_set_sha256)(film.path)
        if (film.identifiers, content) not in seen:
            kept.append(film)
        seen.add((film.identifiers, content))
    return kept


def data_set_sha256(path: Path) -> str:
    """Return the SHA-256 of a DICOM file from the data set on (PS3.10 section 7.1).

    Preamble and file meta information tell which way a file has come.

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


def group(
    films: Iterable[Film], key: str = PUBLIC_KEY, slices: Iterable[Film] = (), kind: str = ""
) -> tuple[Study, ...]:
    """Group radiographs and localisers by study.

    Two studies of one accession number and one patient that lack a view each are put together.

    Args:
        films: All radiographs and localisers of an input, without copies.
        key: See :func:`study_key`.
        slices: Its other CT images, which tell what the localisers of their study show.
        kind: ``radiograph`` or ``localiser``, what to take of a study that holds both.

    Returns:
        The studies in the order of their first film; CT studies without radiographs last.
    """
    groups: dict[str, list[_Named]] = {}
    scans: dict[str, list[Film]] = {}
    localisers: dict[str, list[Film]] = {}
    for film in slices:
        scans.setdefault(film.identifiers.study, []).append(film)
    for film in films:
        if film.ct is not None:
            localisers.setdefault(film.identifiers.study, []).append(film)
        else:
            named = _Named(film, view_info(film, Overrides()))
            groups.setdefault(film.identifiers.study, []).append(named)
    if kind == "localiser":
        groups = {study: named for study, named in groups.items() if study not in localisers}
    elif kind == "radiograph":
        localisers = {study: these for study, these in localisers.items() if study not in groups}
    mixed = [study for study in groups if study in localisers]
    found = [_mixed_study(groups.pop(study), localisers.pop(study), key) for study in mixed]
    found += [_study(members, key) for members in _joined(groups.values())]
    for study in dict.fromkeys((*localisers, *scans)):
        if study not in groups and study not in mixed:
            found.append(_ct_study(localisers.get(study, []), scans.get(study, []), key))
    return tuple(found)


def _mixed_study(members: Sequence[_Named], localisers: Sequence[Film], key: str) -> Study:
    """Return a study that holds radiographs and localisers; refused (E29)."""
    message = f"{len(members)} radiographs and {len(localisers)} localisers"
    found = finding(Code.MIXED_KINDS, _PAIR, message)
    films = (*(member.film for member in members), *localisers)
    return Study(key_of(films[0].identifiers, key), None, None, films, (found,), False)


def _ct_study(localisers: Sequence[Film], slices: Sequence[Film], key: str) -> Study:
    """Return the study of one CT examination."""
    choice = choose_pair(localisers, slices)
    films = tuple(localisers)
    name = key_of((films or tuple(slices))[0].identifiers, key)
    if choice.pair is None:
        assert choice.found is not None
        is_skipped = choice.found.code is Code.NO_HEAD_LOCALISERS
        return Study(name, None, None, films, (choice.found,), False, is_skipped)
    frontal, lateral = choice.pair
    found = identity_findings(frontal.identifiers, lateral.identifiers)
    return Study(name, frontal, lateral, films, tuple(found), False, slices=tuple(slices))


@dataclass(frozen=True)
class _Named:
    """A film with its view."""

    film: Film
    info: ViewInfo

    @property
    def description(self) -> str:
        """Safe words for messages, such as ``frontal PA 1024x1280, instance 1``."""
        film = self.film
        parts = [
            self.info.kind,
            self.info.position.value if self.info.position else "",
            f"{film.columns}x{film.rows}",
            "for processing" if film.for_processing else "",
        ]
        number = film.instance_number
        instance = "" if number is None else f", instance {number:.0f}"
        return " ".join(p for p in parts if p) + instance


def require_path(path: str | os.PathLike[str]) -> None:
    """Refuse a name of nothing; an empty one would be the current folder.

    Raises:
        FileNotFoundError: It is empty, or there is no such file or folder.
    """
    if not os.fspath(path) or not os.path.lexists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))


def _files(roots: Sequence[Path | str]) -> Iterator[Path]:
    for root in roots:
        require_path(root)
        path = Path(root)
        if path.is_dir():
            yield from files_below(path)
        else:
            yield path


def _lacks_view(members: Iterable[_Named]) -> bool:
    return not {"frontal", "lateral"} <= {member.info.kind for member in members}


def _joined(groups: Iterable[list[_Named]]) -> list[list[_Named]]:
    """Join studies of one patient and accession number that lack a view each (E05)."""
    joined: list[list[_Named]] = []
    lacking: dict[tuple[str, str], list[list[_Named]]] = {}
    for members in groups:
        identifiers = members[0].film.identifiers
        order = identifiers.accession, identifiers.patient
        partners = lacking.setdefault(order, [])
        if identifiers.accession and _lacks_view(members):
            partner = next(filter(_lacks_view, partners), None)
            if partner is not None:
                partner.extend(members)
                continue
            partners.append(members)
        joined.append(members)
    return joined


def _study(members: Sequence[_Named], key: str) -> Study:
    found = []
    if len({member.film.identifiers.patient for member in members}) > 1:
        message = "radiographs of different patients share one study"
        found.append(finding(Code.DIFFERENT_STUDIES, _PAIR, message, attribute="PatientID"))
    frontal, lateral = (_only(members, kind) for kind in ("frontal", "lateral"))
    listed = "; ".join(member.description for member in members)
    if frontal is None or lateral is None:
        message = f"{CODES[Code.NOT_A_PAIR].condition}: {listed}"
        found.append(finding(Code.NOT_A_PAIR, _PAIR, message))
    elif any(member.info.kind == "unknown" for member in members):
        message = f"a radiograph of unknown view is ignored: {listed}"
        found.append(finding(Code.NOT_A_PAIR, _PAIR, message, severity=Severity.WARNING))
    if frontal and lateral:
        found += identity_findings(frontal.identifiers, lateral.identifiers)
    films = tuple(member.film for member in members)
    # Joined studies have several UIDs; the pair that is read goes by its frontal radiograph.
    name = key_of((frontal or films[0]).identifiers, key)
    return Study(name, frontal, lateral, films, tuple(dict.fromkeys(found)), _lacks_view(members))


def _only(members: Iterable[_Named], kind: str) -> Film | None:
    """Return the film of a kind, if there is exactly one."""
    these = [member.film for member in members if member.info.kind == kind]
    return these[0] if len(these) == 1 else None


def identity_findings(first: Identifiers, second: Identifiers) -> list[Finding]:
    """Check that two films are of one study of one patient at one time: E05 and E07."""
    found = []
    if first.patient != second.patient:
        message = "the patients differ"
        found.append(finding(Code.DIFFERENT_STUDIES, _PAIR, message, attribute="PatientID"))
    if first.study != second.study:
        same = bool(first.accession) and first.accession == second.accession
        message = "the studies differ" + (", the accession number is the same" if same else "")
        severity = Severity.WARNING if same else None
        found.append(finding(Code.DIFFERENT_STUDIES, _PAIR, message, severity=severity))
    if first.acquired is None or second.acquired is None:
        message = "the time between the two radiographs is not known"
        found.append(finding(Code.TIME_GAP, _PAIR, message))
        return found
    minutes = abs((first.acquired - second.acquired).total_seconds()) / 60
    if minutes > MAXIMUM_GAP:
        another_day = first.acquired.date() != second.acquired.date()
        message = "taken on different days" if another_day else f"{minutes:.0f} minutes apart"
        severity = Severity.ERROR if another_day else None
        found.append(finding(Code.TIME_GAP, _PAIR, message, severity=severity))
    return found
