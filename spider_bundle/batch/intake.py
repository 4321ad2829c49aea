"""What the input holds: the studies of a folder tree, of zip archives and of DICOMDIR file-sets.

Nothing is ever written to the input. Archives are unpacked into a private folder.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from spider_bundle.batch.archives import ArchiveLimits, is_archive, unpack
from spider_bundle.batch.codes import BatchCode, BatchError, batch_facts
from spider_bundle.batch.job import Job
from spider_bundle.batch.profile import Profile, apparatus
from spider_bundle.files import file_sha256
from spider_bundle.radiographs.errors import (
    Code,
    RadiographError,
    Severity,
    finding,
    finding_facts,
)
from spider_bundle.radiographs.header import Header, open_dataset, quiet
from spider_bundle.radiographs.overrides import PairOverrides
from spider_bundle.radiographs.pair import Study, check_headers, find_studies, study_key

_DICOMDIR = "DICOMDIR"

Signature = tuple[str, int, int]
"""Path, size and time of change of a file."""


@dataclass(frozen=True)
class Refusal:
    """A study, or an archive that might hold some, that cannot be taken.

    Attributes:
        study_key: Keyed hash of the study, or of the archive's content.
        findings: Why; the facts of :func:`~spider_bundle.radiographs.transforms.finding_facts`.
        is_incomplete: Whether a view is missing, which may still arrive.
        files: All radiographs of the study, or the archive.
    """

    study_key: str
    findings: Sequence[Mapping[str, Any]]
    is_incomplete: bool = False
    files: Sequence[Path] = field(default=(), repr=False)

    @property
    def codes(self) -> list[str]:
        """Codes of the errors, each once, sorted."""
        return sorted({f["code"] for f in self.findings if f["severity"] == "error"})


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

    Args:
        source: A folder, a zip archive, a DICOMDIR or a DICOM file.
        workspace: Existing private folder for what is unpacked.
        key: Secret of the site.
        profile: What the site states about its apparatus.
        excluded: Folder below the input that is passed over (the output).
        limits: What an archive may hold.
    """

    def __init__(
        self,
        source: Path,
        workspace: Path,
        key: str,
        profile: Profile | None = None,
        excluded: Path | None = None,
        limits: ArchiveLimits | None = None,
    ) -> None:
        self._source = source
        self._workspace = workspace
        self._key = key
        self._profile = profile or Profile()
        self._excluded = excluded.resolve() if excluded else None
        self._limits = limits
        self._unpacked: dict[Signature, Path | Refusal] = {}
        self._digests: dict[Signature, str] = {}

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
        studies = find_studies(films, key=self._key)
        jobs = []
        for study in studies.studies:
            job = self._check(study)
            if isinstance(job, Job):
                jobs.append(job)
            else:
                refusals.append(job)
        others = sum(studies.other_objects.values())
        return Found(tuple(jobs), tuple(refusals), studies.foreign_files, others)

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
            if self._source.name.upper() == _DICOMDIR:
                with suppress(BatchError):  # told by find
                    yield from referenced_files(self._source)[0]
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
        try:
            unpack(archive, folder, self._limits)
        except BatchError as error:
            shutil.rmtree(folder, ignore_errors=True)
            return self._refusal(archive, error)
        return folder

    def _refusal(self, path: Path, error: BatchError, is_incomplete: bool = False) -> Refusal:
        key = study_key(f"file {file_sha256(path)}", self._key)
        return Refusal(key, [batch_facts(error.code, error.message)], is_incomplete, (path,))

    def _damaged_directories(self, films: Iterable[Path]) -> Iterator[Refusal]:
        """DICOMDIRs of the input that name files which are not there."""
        for path in films:
            if path.name.upper() != _DICOMDIR or not path.is_relative_to(self._source):
                continue
            try:
                _, absent = referenced_files(path)
                if absent:
                    message = f"the DICOMDIR names {absent} files that are not there"
                    raise BatchError(BatchCode.A03, message)
            except BatchError as error:
                yield self._refusal(path, error, is_incomplete=True)

    def _check(self, study: Study) -> Job | Refusal:
        files = tuple(candidate.path for candidate in study.candidates)
        if study.frontal is None or study.lateral is None or not study.is_complete:
            lacks = not {"frontal", "lateral"} <= {c.kind for c in study.candidates}
            facts = [finding_facts(found) for found in study.findings]
            return Refusal(study.key, facts, lacks, files)
        paths = study.frontal.path, study.lateral.path
        try:
            sides = [apparatus(Header(open_dataset(path, "pair", pixels=False))) for path in paths]
            rule, overrides = self._profile.rule_for(*sides)
            found = check_headers(*paths, PairOverrides.from_mapping(overrides))
            digests = ":".join(map(self._digest, paths))
        except RadiographError as error:
            found = error.findings
        except Exception as error:  # whatever it is, it must not take other studies down
            message = f"reading the radiographs failed unexpectedly ({type(error).__name__})"
            found = (finding(Code.E01, "pair", message),)
        if any(f.severity is Severity.ERROR for f in found):
            facts = [finding_facts(f) for f in (*study.findings, *found)]
            different = list({json.dumps(fact): fact for fact in facts}.values())
            return Refusal(study.key, different, files=files)
        inputs = hmac.new(self._key.encode(), digests.encode(), hashlib.sha256).hexdigest()
        return Job(study.key, *paths, overrides, rule, inputs, files)

    def _digest(self, path: Path) -> str:
        """SHA-256 of a file, read once as long as it does not change."""
        signature = _signature(path)
        if signature not in self._digests:
            self._digests[signature] = file_sha256(path)
        return self._digests[signature]


def referenced_files(directory: Path) -> tuple[list[Path], int]:
    """The files that a DICOMDIR names (DICOM PS3.10 section 8, PS3.3 annex F).

    Args:
        directory: The DICOMDIR; what it names lies in its folder and below.

    Returns:
        The files, in the order of the directory, and the number of those that are absent or would
        lie elsewhere. Names are upper case by the standard and often lower case on disk; both are
        found.

    Raises:
        BatchError: A03, it cannot be read.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(directory)
            records = dataset.get("DirectoryRecordSequence") or []
            names = [r.ReferencedFileID for r in records if r.get("ReferencedFileID")]
            split = [[n] if isinstance(n, str) else [str(part) for part in n] for n in names]
    except Exception as error:  # pydicom raises nearly every kind of exception on damaged files
        message = f"the DICOMDIR cannot be read ({type(error).__name__})"
        raise BatchError(BatchCode.A03, message) from None
    paths = [_below(directory.parent, parts) for parts in split]
    present = dict.fromkeys(path for path in paths if path is not None)
    return list(present), paths.count(None)


def _below(folder: Path, parts: Sequence[str]) -> Path | None:
    """The file of that name below the folder, in either case; None if there is none."""
    # a component of a File ID is a plain name, so nothing can lead out of the folder
    if any(not part or part in (".", "..") or "/" in part or "\\" in part for part in parts):
        return None
    for spelled in (parts, [part.lower() for part in parts]):
        path = folder.joinpath(*spelled)
        if path.is_file():
            return path
    return None


def _signature(path: Path) -> Signature:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def is_zip(path: Path) -> bool:
    """Whether a file is to be unpacked; one that cannot be read is left to the reader."""
    try:
        return is_archive(path)
    except OSError:
        return False
