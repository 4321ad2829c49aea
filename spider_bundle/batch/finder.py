"""Find the studies of a folder tree and of zip archives.

Nothing is ever written to the input. Archives are unpacked into a private folder.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from spider_bundle.archives import ArchiveLimits, is_archive, unpack
from spider_bundle.batch.job import Job
from spider_bundle.batch.profile import Profile
from spider_bundle.batch.sandbox import CallError, CallStopped, Sandbox
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.pair import pair_films
from spider_bundle.dicom.studies import (
    Refusal,
    Study,
    data_set_sha256,
    examine,
    group,
    is_gone,
    is_radiograph,
    refused_file,
    refused_place,
    unreadable,
    without_copies,
)
from spider_bundle.errors import Code, Finding, Severity, SpiderError, finding
from spider_bundle.files import file_sha256, files_below
from spider_bundle.pseudonym import pseudonym

SANDBOX_MODULES = ("spider_bundle.batch.finder",)
"""What the sandbox imports before the first file."""
FILE_SECONDS = 60.0
"""Time limit for one file."""
MAXIMUM_FILE_BYTES = 2 << 30
"""Largest file of a radiograph; a worker reads it into memory as a whole."""
_MANY = 10
"""An archive, or that many files and more, may take so many times longer than a file."""

Signature = tuple[str, int, int, int]
"""Path and size of a file, times of change of its content and of its rights."""

RETRYABLE_CODES = frozenset({Code.INPUT_UNREADABLE.value, Code.NO_SPACE_TO_UNPACK.value})
"""Codes of what may be readable the next time."""
_GONE = (FileNotFoundError, NotADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Found:
    """What an input holds.

    Attributes:
        jobs: Studies that can be reconstructed, in the order of their first file.
        refusals: The others.
        foreign_files: Number of files that are not DICOM objects.
        other_objects: Number of DICOM objects that are not radiographs.
        skipped: Number of CT studies without a pair of localisers of the head (E27).
    """

    jobs: Sequence[Job]
    refusals: Sequence[Refusal]
    foreign_files: int
    other_objects: int
    skipped: int

    @property
    def counts(self) -> dict[str, int]:
        """Return the numbers for the log."""
        return {
            "studies": len(self.jobs),
            "refused": len(self.refusals),
            "foreign_files": self.foreign_files,
            "other_objects": self.other_objects,
            "skipped": self.skipped,
        }


class StudyFinder:
    """Find and check studies by their headers.

    Files are read in a sandbox only, so one that hangs or kills its reader is refused (A04) and
    does no other harm. All else is a pure function of the films that the sandbox describes. What
    was described is described again only when it has changed.

    Args:
        source: A folder, a zip archive, a DICOM file, or the DICOMDIR of a folder.
        workspace: Existing private folder for what is unpacked.
        key: Secret of the site.
        profile: Overrides of the site.
        excluded: Folder below the input that is passed over (the output).
        limits: Limits of an archive.
        reserve: Bytes of the workspace's disk that must stay free.
        seconds: Time limit for one file.
        keep_identity: Whether films carry the identity of the patient and the study.
        sandbox: The process that reads files; one of its own if not given.
        stop: Returns whether to stop the search.
    """

    def __init__(
        self,
        source: Path,
        workspace: Path,
        key: str,
        profile: Profile | None = None,
        *,
        excluded: Path | None = None,
        limits: ArchiveLimits | None = None,
        reserve: int = 0,
        seconds: float = FILE_SECONDS,
        keep_identity: bool = False,
        sandbox: Sandbox | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self._source = source.parent if source.name.upper() == "DICOMDIR" else source
        self._workspace = workspace
        self._key = key
        self._profile = profile or Profile()
        self._excluded = excluded.resolve() if excluded else None
        self._limits = limits
        self._reserve = reserve
        self._seconds = seconds
        self._keep_identity = keep_identity
        self._sandbox = sandbox or Sandbox(SANDBOX_MODULES)
        self._stop = stop
        self._unpacked: dict[Signature, Path | Refusal] = {}
        self._archives: dict[Path, Path] = {}
        self._answers: dict[tuple[Any, ...], Any] = {}
        self._asked: set[tuple[Any, ...]] = set()
        base = PairOverrides.from_mapping(self._profile.base)
        self._allow_secondary_capture = base.allow_secondary_capture
        self._kind = base.kind
        stated = [self._profile.base, *(rule.overrides for rule in self._profile.rules)]
        self._frames = frozenset().union(*(PairOverrides.from_mapping(o).frames for o in stated))

    def close(self) -> None:
        """End the sandbox; another search would start the next."""
        self._sandbox.close()

    def signatures(self) -> list[Signature]:
        """Return every file of the input as it is now, and the folders that cannot be listed.

        Raises:
            CallStopped: The search was stopped.
        """
        seen = []
        for path in self._files():
            if self._stop is not None and self._stop():
                raise CallStopped
            with suppress(*_GONE):
                seen.append(_signature(path))
        return seen

    def find(self, signatures: Iterable[Signature] | None = None) -> Found:
        """Find and check all studies.

        Args:
            signatures: Files to look at; all of the input if not given.

        Raises:
            CallStopped: The search was stopped.
            SpiderError: R02, the sandbox cannot start.
        """
        answers: list[Film | Refusal | None] = []
        for signature in self.signatures() if signatures is None else signatures:
            path = Path(signature[0])
            if is_zip(path):
                files = self._unpack_once(signature)
                if isinstance(files, Refusal):
                    answers.append(files)
                    continue
            else:
                files = [path]
            answers += [answer for file in files for answer in self._describe(file)]
        films = [film for film in answers if isinstance(film, Film)]
        radiographs = [f for f in films if is_radiograph(f, self._allow_secondary_capture)]
        slices = [film for film in films if film.ct is not None and not film.kind]
        kept = without_copies(radiographs, self._content)
        studies = group(kept, self._key, slices, self._kind)
        checked = [self._check(study) for study in studies if not study.is_skipped]
        self._answers = {q: a for q, a in self._answers.items() if q in self._asked}
        self._asked.clear()
        refusals = [found for found in (*answers, *checked) if isinstance(found, Refusal)]
        # copies of one file have one name; the first stays
        different = {refusal.study_key: refusal for refusal in reversed(refusals)}
        return Found(
            tuple(job for job in checked if isinstance(job, Job)),
            tuple(reversed(different.values())),
            foreign_files=answers.count(None),
            other_objects=len(films) - len(radiographs),
            skipped=sum(study.is_skipped for study in studies),
        )

    def origin(self, path: Path) -> Path:
        """Return the archive that a file was unpacked from; the file itself if none."""
        return self._archives.get(path.parent, path)

    def release(self, needed: Iterable[Path]) -> None:
        """Remove what was unpacked of archives that hold none of these files."""
        folders = {path.parent for path in needed}
        for folder in self._archives:
            if folder not in folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _files(self) -> Iterator[Path]:
        if self._source.is_file():
            yield self._source
        else:
            yield from files_below(self._source, self._excluded)

    def _unpack_once(self, signature: Signature) -> list[Path] | Refusal:
        """Return the files of an archive, or its refusal; none if it has vanished or is done."""
        unpacked = self._unpacked.get(signature) or self._unpack(Path(signature[0]))
        if unpacked is None:
            return []
        if isinstance(unpacked, Refusal):
            if RETRYABLE_CODES.isdisjoint(unpacked.codes):
                self._unpacked[signature] = unpacked
            return unpacked
        self._unpacked[signature] = unpacked
        return sorted(unpacked.iterdir()) if unpacked.exists() else []

    def _unpack(self, archive: Path) -> Path | Refusal | None:
        """Return the folder of the files of an archive; None if the archive has vanished."""
        try:
            folder = Path(tempfile.mkdtemp(dir=self._workspace))  # mode 0700
        except OSError:
            return self._refuse_unread(archive, [_facts_of(Code.NO_SPACE_TO_UNPACK)])
        arguments = (archive, folder, self._key, self._limits, self._reserve)
        try:
            refusal = self._sandbox.call(
                unpack_archive, *arguments, seconds=self._seconds * _MANY, stop=self._stop
            )
        except CallError as error:
            refusal = self._refuse_unread(archive, [_unexamined(error)])
        except _GONE:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        except OSError as error:
            refusal = self._refuse_unread(archive, [unreadable(error).facts()])
        if refusal is None:
            self._archives[folder] = archive
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        return cast(Refusal, refusal)

    def _describe(self, path: Path) -> Iterator[Film | Refusal | None]:
        """Yield what a file is (None: no DICOM object); nothing if it has vanished."""
        refuse = partial(self._refuse_unread, path)
        arguments = (path, self._key, self._frames, self._keep_identity)
        with suppress(*_GONE):
            yield self._ask((path,), refuse, examine, *arguments)

    def _content(self, path: Path) -> object:
        """Return what a file's content is known by; an unreadable one is like no other."""
        refuse = partial(self._refuse_unread, path)
        with suppress(*_GONE):
            answer = self._ask((path,), refuse, data_set_sha256, path)
            return answer if isinstance(answer, str) else path
        return path

    def _check(self, study: Study) -> Job | Refusal | None:
        """Check a study by its headers; None if a file has vanished."""
        files = tuple(film.path for film in study.films)
        if study.pair is None or not study.is_complete:
            return Refusal(study.key, _facts(study.findings), study.lacks_view, files)
        found = [*_size_findings(study.pair)]
        if not found:
            rule, overrides = self._profile.rule_for(*(film.equipment for film in study.pair))
            pair = pair_films(study.pair, PairOverrides.from_mapping(overrides), key=self._key)
            found += pair.findings
        if any(one.severity is Severity.ERROR for one in found):
            return Refusal(study.key, _facts([*study.findings, *found]), files=files)
        paths = tuple(film.path for film in study.pair)
        refuse = partial(Refusal, study.key, files=files)
        try:
            inputs = self._ask(paths, refuse, hash_files, paths, self._key)
        except _GONE:
            return None
        if isinstance(inputs, Refusal):
            return inputs
        # manifest and folder must name one study, however the pair is ordered
        pair = replace(pair, study_key=study.key)
        return Job(study.key, pair, overrides, rule, inputs, files)

    def _refuse_unread(self, path: Path, facts: Sequence[Mapping[str, Any]]) -> Refusal:
        """Refuse a file that must not be read again only to name it."""
        place = self.origin(path)
        # the folder of what is unpacked has another name in every run
        named = refused_place(path if place == path else place / path.name, self._key, facts)
        return replace(named, files=(path,))

    def _ask(
        self,
        paths: Sequence[Path],
        refuse: Callable[[list[Mapping[str, Any]]], Refusal],
        function: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """Return the sandbox's answer about files, or their refusal; asked once per change.

        Args:
            paths: The files.
            refuse: Makes the refusal if there is no answer.
            function: Function to call.
            arguments: Its arguments.

        Raises:
            FileNotFoundError: A file has vanished.
            NotADirectoryError: Its folder has.
        """
        try:
            question = (function.__name__, *map(_signature, paths))
            self._asked.add(question)
            if question not in self._answers:
                try:
                    answer = self._sandbox.call(
                        function, *arguments, seconds=self._seconds * len(paths), stop=self._stop
                    )
                except CallError as error:
                    answer = refuse([_unexamined(error)])
                self._answers[question] = answer
        except OSError as error:  # asked again at the next search: it may be mended by then
            if all(is_gone(path, error) for path in paths):
                raise
            return refuse([unreadable(error).facts()])
        return self._answers[question]


# ---- called in the sandbox


def hash_files(paths: Sequence[Path], key: str) -> str:
    """Return a keyed hash of the contents of files.

    Raises:
        OSError: One cannot be read.
    """
    return pseudonym(key, ":".join(map(file_sha256, paths)))


def unpack_archive(
    archive: Path, folder: Path, key: str, limits: ArchiveLimits | None, reserve: int
) -> Refusal | None:
    """Unpack an archive, see :func:`unpack`; return its refusal if it cannot be unpacked.

    Raises:
        OSError: The archive cannot be read, or the files cannot be written.
    """
    try:
        unpack(archive, folder, limits, reserve)
    except SpiderError as error:
        return refused_file(archive, key, [_facts_of(error.code, error.message)])
    except OSError as error:
        if error.errno not in _FULL:
            raise
        return refused_file(archive, key, [_facts_of(Code.NO_SPACE_TO_UNPACK)])
    return None


def _size_findings(pair: tuple[Film, Film]) -> Iterator[Finding]:
    for role, film in zip(("frontal", "lateral"), pair, strict=True):
        size = film.stamp.size
        if size > MAXIMUM_FILE_BYTES:
            message = f"a file of {size:.3g} bytes is beyond {MAXIMUM_FILE_BYTES:.3g}"
            yield finding(Code.INVALID_PIXEL_VALUES, role, message)


def _facts(findings: Iterable[Finding]) -> list[Mapping[str, Any]]:
    """Return findings as plain values, each once."""
    facts = [found.facts() for found in findings]
    return list({json.dumps(fact): fact for fact in facts}.values())


def _facts_of(code: Code, message: str = "") -> Mapping[str, Any]:
    return finding(code, "batch", message).facts()


def _unexamined(error: CallError) -> Mapping[str, Any]:
    return _facts_of(Code.FILE_NOT_EXAMINED, f"it could not be examined: {error}")


def _signature(path: Path) -> Signature:
    """Return a file as it is now.

    Raises:
        FileNotFoundError: It has vanished.
        NotADirectoryError: Its folder has.
    """
    try:
        status = path.stat()
    except OSError as error:
        if is_gone(path, error):
            raise
        return str(path), -1, 0, 0
    return str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_zip(path: Path) -> bool:
    """Return whether a file is to be unpacked; an unreadable one is left to the reader."""
    try:
        return is_archive(path)
    except OSError:
        return False
