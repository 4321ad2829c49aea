"""What the files of an input say about themselves.

Anybody may have made these files, so a batch calls this in a child process only. No pixels are
looked at.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spider_bundle.batch.archives import ArchiveLimits, unpack
from spider_bundle.batch.codes import BatchCode, BatchError, batch_facts
from spider_bundle.batch.job import Job, Refusal, refused_file
from spider_bundle.batch.profile import Profile
from spider_bundle.dicom.errors import (
    Code,
    Finding,
    RadiographError,
    Severity,
    finding,
    finding_facts,
)
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.film import describe as describe_film
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.pair import describe_pair
from spider_bundle.dicom.studies import Studies, Study, data_set_sha256, find_studies
from spider_bundle.files import file_sha256

MAXIMUM_FILE_BYTES = 2 << 30
"""Largest file of a radiograph; when its turn comes it is read into memory as a whole."""
_PREAMBLE, _MAGIC = 128, b"DICM"


def describe(path: Path, key: str, allow_secondary_capture: bool = False) -> Studies | Refusal:
    """What one file is.

    Args:
        path: The file.
        key: Secret of the site.
        allow_secondary_capture: Take a secondary capture for a radiograph.

    Returns:
        What :func:`find_studies` says of it alone; or a refusal (E01, E02) of a file that claims to
        be a DICOM file and cannot be read as one.

    Raises:
        OSError: It cannot be opened.
    """
    with path.open("rb") as stream:
        claims_to_be_dicom = stream.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    found = find_studies([path], key=key, allow_secondary_capture=allow_secondary_capture)
    if found.foreign_files and claims_to_be_dicom:
        try:
            if not describe_film(path).is_directory:
                message = "a damaged DICOM file: it does not say what it holds"
                raise RadiographError([finding(Code.E01, "radiograph", message)])
        except RadiographError as error:
            return refused_file(path, key, _facts(error.findings))
    return found


def content(path: Path) -> str:
    """SHA-256 of a radiograph, see :func:`data_set_sha256`.

    Raises:
        OSError: It cannot be read.
    """
    return data_set_sha256(path)


def group(
    paths: Sequence[Path], key: str, allow_secondary_capture: bool = False
) -> tuple[Study, ...]:
    """The studies that radiographs belong to; arguments as for :func:`describe`."""
    return find_studies(paths, key=key, allow_secondary_capture=allow_secondary_capture).studies


def check(study: Study, key: str, profile: Profile) -> Job | Refusal:
    """Whether a study can be taken, by its headers.

    Args:
        study: Any.
        key: Secret of the site.
        profile: What the site states about its apparatus.

    Raises:
        OSError: A file has vanished.
    """
    files = tuple(film.path for film in study.films)
    if study.frontal is None or study.lateral is None or not study.is_complete:
        return Refusal(study.key, _facts(study.findings), study.lacks_view, files)
    paths = study.frontal.path, study.lateral.path
    rule, overrides = None, profile.base
    found = [
        *_size_findings(study.frontal, "frontal"),
        *_size_findings(study.lateral, "lateral"),
    ]
    if not found:
        rule, overrides = profile.rule_for(study.frontal.equipment, study.lateral.equipment)
        found += describe_pair(paths, PairOverrides.from_mapping(overrides), key=key).findings
    if any(f.severity is Severity.ERROR for f in found):
        return Refusal(study.key, _facts([*study.findings, *found]), files=files)
    digests = ":".join(map(file_sha256, paths))
    inputs = hmac.new(key.encode(), digests.encode(), hashlib.sha256).hexdigest()
    return Job(study.key, *paths, overrides, rule, inputs, files)


def unpacked(
    archive: Path, folder: Path, key: str, limits: ArchiveLimits | None, reserve: int
) -> Refusal | None:
    """Unpack an archive, see :func:`unpack`; its refusal if something stands against it.

    Raises:
        OSError: The archive cannot be read, or the files cannot be written.
    """
    try:
        unpack(archive, folder, limits, reserve)
    except BatchError as error:
        return refused_file(archive, key, [batch_facts(error.code, error.message)])
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return refused_file(archive, key, [batch_facts(BatchCode.A06)])
    return None


def _size_findings(film: Film, role: str) -> Iterable[Finding]:
    size = film.stamp.size
    if size > MAXIMUM_FILE_BYTES:
        message = f"a file of {size:.3g} bytes is beyond {MAXIMUM_FILE_BYTES:.3g}"
        yield finding(Code.E16, role, message)


def _facts(findings: Iterable[Finding]) -> list[Mapping[str, Any]]:
    """Findings as plain values, each once."""
    facts = [finding_facts(found) for found in findings]
    return list({json.dumps(fact): fact for fact in facts}.values())
