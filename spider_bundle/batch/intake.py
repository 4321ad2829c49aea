"""What the input holds: the studies of a folder tree, of zip archives and of DICOMDIR file-sets.

Nothing is ever written to the input. Archives are unpacked into a private folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from spider_bundle.batch.archives import ArchiveLimits, is_archive
from spider_bundle.batch.codes import BatchCode, batch_facts
from spider_bundle.batch.examine import check, content, describe, group, unpacked
from spider_bundle.batch.job import Job, Refusal, refused_file, refused_place
from spider_bundle.batch.medium import DICOMDIR, file_ids, referenced_files
from spider_bundle.batch.profile import Profile
from spider_bundle.batch.sandbox import CallError, Sandbox
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.studies import Studies, Study, study_key, without_copies
from spider_bundle.files import files_below

EXAMINERS = ("spider_bundle.batch.examine",)
"""What the child process has loaded when it is asked about the first file."""
FILE_SECONDS = 60.0
"""Time in which a file must have been examined."""
_MANY = 10
"""An archive, or that many files and more, may take so many times longer than a file."""

Signature = tuple[str, int, int, int]
"""Path and size of a file, times of change of its content and of its rights."""

PASSING = frozenset({BatchCode.A05.value, BatchCode.A06.value})
"""Codes of what may be read the next time."""
_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True)
class Found:
    """What an input holds.

    Attributes:
        jobs: Studies that can be taken, in the order of their first file.
        refusals: The others.
        foreign_files: Number of files that are not DICOM objects.
        other_objects: Number of DICOM objects that are not radiographs.
        deferred: Archives for which there is no room now (A06); let others go and look again.
    """

    jobs: Sequence[Job]
    refusals: Sequence[Refusal]
    foreign_files: int
    other_objects: int
    deferred: Sequence[Refusal] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Numbers for the log."""
        return {
            "studies": len(self.jobs),
            "refused": len(self.refusals),
            "foreign_files": self.foreign_files,
            "other_objects": self.other_objects,
        }


class Intake:
    """Finds and checks the studies of an input; pixels are not looked at.

    Whatever reads the files does so in a child process, so one that hangs or kills its reader is
    refused (A04) and takes nothing else down. What has been examined is examined again only when
    it has changed.

    Args:
        source: A folder, a zip archive, a DICOMDIR or a DICOM file.
        workspace: Existing private folder for what is unpacked.
        key: Secret of the site.
        profile: What the site states about its apparatus.
        excluded: Folder below the input that is passed over (the output).
        limits: What an archive may hold.
        reserve: Bytes of the workspace's disk that must stay free.
        seconds: Time in which a file must have been examined.
        child: The process that examines; one of its own if not given.
    """

    def __init__(
        self,
        source: Path,
        workspace: Path,
        key: str,
        profile: Profile | None = None,
        excluded: Path | None = None,
        limits: ArchiveLimits | None = None,
        reserve: int = 0,
        seconds: float = FILE_SECONDS,
        child: Sandbox | None = None,
    ) -> None:
        self._source = source
        self._workspace = workspace
        self._key = key
        self._profile = profile or Profile()
        self._excluded = excluded.resolve() if excluded else None
        self._limits = limits
        self._reserve = reserve
        self._seconds = seconds
        self._child = child or Sandbox(EXAMINERS)
        self._unpacked: dict[Signature, Path | Refusal] = {}
        self._archives: dict[Path, Path] = {}
        self._answers: dict[tuple[Any, ...], Any] = {}
        self._asked: set[tuple[Any, ...]] = set()
        stated = PairOverrides.from_mapping(self._profile.base)
        self._allow_secondary_capture = (
            stated.frontal.allow_secondary_capture or stated.lateral.allow_secondary_capture
        )

    def close(self) -> None:
        """End the child process; another search would start the next."""
        self._child.close()

    def signatures(self) -> list[Signature]:
        """Every file of the input as it is now, and the folders that cannot be listed.

        What vanishes meanwhile is left out.
        """
        seen = []
        for path in self._files():
            with suppress(*_GONE):
                seen.append(_signature(path))
        return seen

    def find(self, signatures: Iterable[Signature] | None = None) -> Found:
        """Find and check all studies.

        Args:
            signatures: Files to look at; all of the input if not given.

        Raises:
            BatchError: R02, the child process cannot start.
        """
        films: list[Path] = []
        refusals: list[Refusal] = []
        deferred: list[Refusal] = []
        for signature in self.signatures() if signatures is None else signatures:
            path = Path(signature[0])
            if not is_zip(path):
                films.append(path)
                continue
            unpacked_to = self._unpacked.get(signature) or self._unpack(path)
            if unpacked_to is None:
                continue
            codes = unpacked_to.codes if isinstance(unpacked_to, Refusal) else []
            if not PASSING.intersection(codes):
                self._unpacked[signature] = unpacked_to
            if isinstance(unpacked_to, Refusal):
                (deferred if BatchCode.A06 in codes else refusals).append(unpacked_to)
            elif unpacked_to.exists():
                films += sorted(unpacked_to.iterdir())
        refusals += self._damaged_directories(films)
        answers = [self._ask_about(path, describe, self._allow_secondary_capture) for path in films]
        refusals += [answer for answer in answers if isinstance(answer, Refusal)]
        described = [answer for answer in answers if isinstance(answer, Studies)]
        checked = [self._check(study) for study in self._studies(described)]
        jobs = [answer for answer in checked if isinstance(answer, Job)]
        refusals += [answer for answer in checked if isinstance(answer, Refusal)]
        self._answers = {q: a for q, a in self._answers.items() if q in self._asked}
        self._asked.clear()
        foreign = sum(found.foreign_files for found in described)
        others = sum(sum(found.other_objects.values()) for found in described)
        # copies of one file have one name; a DICOMDIR is told as such
        different = {refusal.study_key: refusal for refusal in reversed(refusals)}
        return Found(
            tuple(jobs), tuple(reversed(different.values())), foreign, others, tuple(deferred)
        )

    def origin(self, path: Path) -> Path:
        """The archive that a file was unpacked from; the file itself if none."""
        return self._archives.get(path.parent, path)

    def release(self, busy: Iterable[Path]) -> None:
        """Remove what was unpacked of archives that are of no more use.

        Args:
            busy: Files that are still needed; an archive that holds none of them is let go.
        """
        needed = {path.parent for path in busy}
        for folder in self._archives:
            if folder not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    def _files(self) -> Iterator[Path]:
        if self._source.is_file():
            yield self._source
            if self._source.name.upper() == DICOMDIR:
                ids = self._ask_about(self._source, file_ids)
                if isinstance(ids, tuple):  # a refusal is told by find
                    yield from referenced_files(self._source, ids)[0]
            return
        yield from files_below(self._source, self._excluded)

    def _unpack(self, archive: Path) -> Path | Refusal | None:
        """The folder that an archive was unpacked to, or its refusal; None if it has vanished."""
        try:
            folder = Path(tempfile.mkdtemp(dir=self._workspace))  # mode 0700
        except OSError:
            return self._refuse_unread(archive, [batch_facts(BatchCode.A06)])
        arguments = (archive, folder, self._key, self._limits, self._reserve)
        try:
            refusal = self._child.call(unpacked, *arguments, seconds=self._seconds * _MANY)
        except CallError as error:
            refusal = self._refuse_unread(archive, [_unexamined(error)])
        except _GONE:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        except OSError as error:
            refusal = self._refuse_unread(archive, [_unreadable(error)])
        if refusal is None:
            self._archives[folder] = archive
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        return cast(Refusal, refusal)

    def _damaged_directories(self, films: Iterable[Path]) -> Iterator[Refusal]:
        """DICOMDIRs of the input that cannot be read or name files that are not there."""
        for path in films:
            if path.name.upper() != DICOMDIR or not path.is_relative_to(self._source):
                continue
            ids = self._ask_about(path, file_ids)
            if isinstance(ids, tuple) and (absent := referenced_files(path, ids)[1]):
                message = f"the DICOMDIR names {absent} files that are not there"
                facts = [batch_facts(BatchCode.A03, message)]
                yield refused_file(path, self._key, facts, is_incomplete=True)
            elif isinstance(ids, Refusal):
                yield ids

    def _studies(self, described: Iterable[Studies]) -> list[Study | Refusal]:
        """The studies of all radiographs, in the order of their first file."""
        every = [c for found in described for study in found.studies for c in study.films]
        candidates = without_copies(every, self._content)
        studies: list[tuple[Path, Study | Refusal]] = []
        for members in _related(candidates):
            paths = tuple(candidate.path for candidate in members)
            identifiers = members[0].identifiers
            name = study_key(identifiers.study or identifiers.instance, self._key)
            arguments = (paths, self._key, self._allow_secondary_capture)
            answer = self._ask(paths, partial(Refusal, name, files=paths), group, *arguments)
            if isinstance(answer, Refusal):
                studies.append((paths[0], answer))
            else:
                studies += [(study.films[0].path, study) for study in answer or ()]
        order = {candidate.path: number for number, candidate in enumerate(candidates)}
        return [study for _, study in sorted(studies, key=lambda named: order[named[0]])]

    def _check(self, study: Study | Refusal) -> Job | Refusal | None:
        if isinstance(study, Refusal):
            return study
        paths = tuple(candidate.path for candidate in study.films)
        refuse = partial(Refusal, study.key, files=paths)
        return self._ask(paths, refuse, check, study, self._key, self._profile)

    def _ask_about(self, path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the child says about one file; the function takes it, the key and the rest."""
        refuse = partial(self._refuse_unread, path)
        return self._ask((path,), refuse, function, path, self._key, *arguments)

    def _content(self, path: Path) -> object:
        """What a file's content is known by; one that cannot be read is like no other."""
        answer = self._ask((path,), partial(self._refuse_unread, path), content, path)
        return answer if isinstance(answer, str) else path

    def _refuse_unread(self, path: Path, facts: Sequence[Mapping[str, Any]]) -> Refusal:
        """Refuse a file that nobody should read again only to name it."""
        archive = self.origin(path)
        place = str(path) if archive == path else f"{archive} {path.name}"
        return refused_place(path, place, self._key, facts)

    def _ask(
        self,
        paths: Sequence[Path],
        refuse: Callable[[list[Mapping[str, Any]]], Refusal],
        function: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """What the child says about files; asked once as long as they do not change.

        Args:
            paths: The files.
            refuse: Makes the refusal of an answer that does not come.
            function: What the child is to call.
            arguments: Its arguments.

        Returns:
            The answer or the refusal; None if a file has vanished.
        """
        try:
            question = (function.__name__, *map(_signature, paths))
            self._asked.add(question)
            if question not in self._answers:
                seconds = self._seconds * min(len(paths), _MANY)
                try:
                    answer = self._child.call(function, *arguments, seconds=seconds)
                except CallError as error:
                    answer = refuse([_unexamined(error)])
                self._answers[question] = answer
        except _GONE:
            return None
        except OSError as error:  # asked again at the next search: it may be mended by then
            return refuse([_unreadable(error)])
        return self._answers[question]


def _related(candidates: Iterable[Film]) -> Iterable[Sequence[Film]]:
    """Radiographs that may make one study: by its UID, or by order and patient (E05)."""
    parents: dict[tuple[str, ...], tuple[str, ...]] = {}

    def root(name: tuple[str, ...]) -> tuple[str, ...]:
        while parents.setdefault(name, name) != name:
            parents[name] = name = parents[parents[name]]
        return name

    related: dict[tuple[str, ...], list[Film]] = {}
    members = list(candidates)
    for identifiers in (candidate.identifiers for candidate in members):
        if identifiers.accession:
            parents[root((identifiers.accession, identifiers.patient))] = root((identifiers.study,))
    for candidate in members:
        related.setdefault(root((candidate.identifiers.study,)), []).append(candidate)
    return related.values()


def _unexamined(error: CallError) -> Mapping[str, Any]:
    return batch_facts(BatchCode.A04, f"it could not be examined: {error}")


def _unreadable(error: OSError) -> Mapping[str, Any]:
    # the whole text of the error names the file
    reason = error.strerror or type(error).__name__
    return batch_facts(BatchCode.A05, f"it cannot be read: {reason}")


def _signature(path: Path) -> Signature:
    """A file as it is now.

    Raises:
        FileNotFoundError: It has vanished.
        NotADirectoryError: Its folder has.
    """
    try:
        status = path.stat()
    except _GONE:
        raise
    except OSError:
        return str(path), -1, 0, 0
    return str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_zip(path: Path) -> bool:
    """Whether a file is to be unpacked; one that cannot be read is left to the reader."""
    try:
        return is_archive(path)
    except OSError:
        return False
