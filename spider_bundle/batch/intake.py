"""What the input holds: the studies of a folder tree, of zip archives and of DICOMDIR file-sets.

Nothing is ever written to the input. Archives are unpacked into a private folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spider_bundle.batch.archives import ArchiveLimits, is_archive
from spider_bundle.batch.child import CallError, Child
from spider_bundle.batch.codes import BatchCode, batch_facts
from spider_bundle.batch.examine import check, describe, group, unpacked
from spider_bundle.batch.job import Job, Refusal, refused_file
from spider_bundle.batch.medium import DICOMDIR, file_ids, referenced_files
from spider_bundle.batch.profile import Profile
from spider_bundle.radiographs.pair import Candidate, Studies, Study, study_key

EXAMINERS = ("spider_bundle.batch.examine",)
"""What the child process has loaded when it is asked about the first file."""
FILE_SECONDS = 60.0
"""Time in which a file must have been examined."""
_MANY = 10
"""An archive, or that many files and more, may take so many times longer than a file."""

Signature = tuple[str, int, int]
"""Path, size and time of change of a file."""


@dataclass(frozen=True)
class Found:
    """What an input holds.

    Attributes:
        jobs: Studies that can be taken, in the order of their first file.
        refusals: The others.
        foreign_files: Number of files that are not DICOM objects.
        other_objects: Number of DICOM objects that are not radiographs.
    """

    jobs: Sequence[Job]
    refusals: Sequence[Refusal]
    foreign_files: int
    other_objects: int

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
        seconds: float = FILE_SECONDS,
        child: Child | None = None,
    ) -> None:
        self._source = source
        self._workspace = workspace
        self._key = key
        self._profile = profile or Profile()
        self._excluded = excluded.resolve() if excluded else None
        self._limits = limits
        self._seconds = seconds
        self._child = child or Child(EXAMINERS)
        self._unpacked: dict[Signature, Path | Refusal] = {}
        self._answers: dict[tuple[Any, ...], Any] = {}
        self._asked: set[tuple[Any, ...]] = set()

    def close(self) -> None:
        """End the child process; another search would start the next."""
        self._child.close()

    def signatures(self) -> list[Signature]:
        """Every file of the input as it is now; those that vanish meanwhile are left out."""
        seen = []
        for path in self._files():
            with suppress(OSError):
                seen.append(_signature(path))
        return seen

    def find(self, signatures: Iterable[Signature] | None = None) -> Found:
        """Find and check all studies.

        Args:
            signatures: Files to look at; all of the input if not given.

        Raises:
            BatchError: R02, the child process cannot start.
            OSError: An archive cannot be unpacked for want of space.
        """
        films: list[Path] = []
        refusals: list[Refusal] = []
        for signature in self.signatures() if signatures is None else signatures:
            path = Path(signature[0])
            if not is_zip(path):
                films.append(path)
                continue
            content = self._unpacked.get(signature) or self._unpack(path)
            self._unpacked[signature] = content
            if isinstance(content, Refusal):
                refusals.append(content)
            elif content.exists():
                films += sorted(content.iterdir())
        refusals += self._damaged_directories(films)
        answers = [self._ask_about(path, describe) for path in films]
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
        return Found(tuple(jobs), tuple(reversed(different.values())), foreign, others)

    def release(self, busy: Iterable[Path]) -> None:
        """Remove what was unpacked of archives that are of no more use.

        Args:
            busy: Files that are still needed; an archive that holds none of them is let go.
        """
        needed = {path.parent for path in busy}
        for content in self._unpacked.values():
            if isinstance(content, Path) and content not in needed:
                shutil.rmtree(content, ignore_errors=True)

    def _files(self) -> Iterator[Path]:
        if self._source.is_file():
            yield self._source
            if self._source.name.upper() == DICOMDIR:
                ids = self._ask_about(self._source, file_ids)
                if isinstance(ids, tuple):  # a refusal is told by find
                    yield from referenced_files(self._source, ids)[0]
            return
        for folder, folders, names in os.walk(self._source):
            folders[:] = sorted(
                name
                for name in folders
                if not self._excluded or Path(folder, name).resolve() != self._excluded
            )
            # reading a pipe or a device would wait for ever
            yield from (p for n in sorted(names) if (p := Path(folder, n)).is_file())

    def _unpack(self, archive: Path) -> Path | Refusal:
        folder = Path(tempfile.mkdtemp(dir=self._workspace))  # mode 0700
        seconds = self._seconds * _MANY
        try:
            facts = self._child.call(unpacked, archive, folder, self._limits, seconds=seconds)
        except CallError as error:
            facts = [_unexamined(error)]
        if not facts:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        return refused_file(archive, self._key, facts)

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
        every = [c for found in described for study in found.studies for c in study.candidates]
        # a second copy of the same object says nothing new
        first = {c.identifiers.instance or c.path: c for c in reversed(every)}
        candidates = list(reversed(first.values()))
        studies: list[tuple[Path, Study | Refusal]] = []
        for members in _related(candidates):
            paths = tuple(candidate.path for candidate in members)
            identifiers = members[0].identifiers
            name = study_key(identifiers.study or identifiers.instance, self._key)
            answer = self._ask(paths, partial(Refusal, name, files=paths), group, paths, self._key)
            if isinstance(answer, Refusal):
                studies.append((paths[0], answer))
            else:
                studies += [(study.candidates[0].path, study) for study in answer or ()]
        order = {candidate.path: number for number, candidate in enumerate(candidates)}
        return [study for _, study in sorted(studies, key=lambda named: order[named[0]])]

    def _check(self, study: Study | Refusal) -> Job | Refusal | None:
        if isinstance(study, Refusal):
            return study
        paths = tuple(candidate.path for candidate in study.candidates)
        refuse = partial(Refusal, study.key, files=paths)
        return self._ask(paths, refuse, check, study, self._key, self._profile)

    def _ask_about(self, path: Path, function: Callable[[Path, str], Any]) -> Any:
        refuse = partial(refused_file, path, self._key)
        return self._ask((path,), refuse, function, path, self._key)

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
                except (CallError, OSError) as error:
                    answer = refuse([_unexamined(error)])
                self._answers[question] = answer
        except OSError:
            return None
        return self._answers[question]


def _related(candidates: Iterable[Candidate]) -> Iterable[Sequence[Candidate]]:
    """Radiographs that may make one study: by its UID, or by order and patient (E05)."""
    parents: dict[tuple[str, ...], tuple[str, ...]] = {}

    def root(name: tuple[str, ...]) -> tuple[str, ...]:
        while parents.setdefault(name, name) != name:
            parents[name] = name = parents[parents[name]]
        return name

    related: dict[tuple[str, ...], list[Candidate]] = {}
    members = list(candidates)
    for identifiers in (candidate.identifiers for candidate in members):
        if identifiers.accession:
            parents[root((identifiers.accession, identifiers.patient))] = root((identifiers.study,))
    for candidate in members:
        related.setdefault(root((candidate.identifiers.study,)), []).append(candidate)
    return related.values()


def _unexamined(error: Exception) -> Mapping[str, Any]:
    # the text of an OSError names the file
    reason = str(error) if isinstance(error, CallError) else type(error).__name__
    return batch_facts(BatchCode.A04, f"it could not be examined: {reason}")


def _signature(path: Path) -> Signature:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def is_zip(path: Path) -> bool:
    """Whether a file is to be unpacked; one that cannot be read is left to the reader."""
    try:
        return is_archive(path)
    except OSError:
        return False
