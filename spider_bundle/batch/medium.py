"""DICOMDIR file-sets: the files that a medium's directory names (DICOM PS3.10 section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom import Dataset

from spider_bundle.batch.codes import BatchCode, batch_facts
from spider_bundle.batch.job import Refusal, refused_file
from spider_bundle.dicom.header import FilmStream
from spider_bundle.logs import silent_pydicom

DICOMDIR = "DICOMDIR"

FileIDs = tuple[tuple[str, ...], ...]
"""Components of each File ID; a single empty one stands for what is no File ID."""


def file_ids(directory: Path, key: str) -> FileIDs | Refusal:
    """File IDs of a DICOMDIR (PS3.3 section F.3), in its order.

    The records are read one after the other; their offsets, which may lead in circles, are not
    used.

    Args:
        directory: The DICOMDIR.
        key: Secret of the site.

    Returns:
        The File IDs, or a refusal (A03) if it cannot be read.

    Raises:
        OSError: It has vanished.
    """
    try:
        with FilmStream(directory) as stream:
            dataset = stream.parse("batch", pixels=False)
        with silent_pydicom():
            records = dataset.get("DirectoryRecordSequence") or []
            named = [_file_id(r) for r in records if "ReferencedFileID" in r]
    except Exception as error:  # pydicom raises nearly every kind of exception on damaged files
        message = f"the DICOMDIR cannot be read ({type(error).__name__})"
        facts = [batch_facts(BatchCode.A03, message)]
        return refused_file(directory, key, facts, is_incomplete=True)
    return tuple(name for name in named if name)


def _file_id(record: Dataset) -> tuple[str, ...]:
    value = record.ReferencedFileID
    if not value:
        return ()
    parts = (value,) if isinstance(value, str) else tuple(value)
    return parts if all(isinstance(part, str) for part in parts) else ("",)


def referenced_files(directory: Path, ids: Iterable[Sequence[str]]) -> tuple[list[Path], int]:
    """The files that File IDs name.

    Args:
        directory: The DICOMDIR; what it names lies in its folder and below.
        ids: See :func:`file_ids`.

    Returns:
        The files, in the order given, and the number of those that are absent or would lie
        elsewhere, be it through a link. Names are upper case by the standard and often lower case
        on disk; both are found.
    """
    paths = [_below(directory.parent, parts) for parts in ids]
    return list(dict.fromkeys(path for path in paths if path)), paths.count(None)


def _below(folder: Path, parts: Sequence[str]) -> Path | None:
    """The file of that name below the folder, in either case; None if there is none."""
    # a component of a File ID is a plain name, so nothing can lead out of the folder
    if any(not part or part in (".", "..") or "/" in part or "\\" in part for part in parts):
        return None
    for spelled in (parts, [part.lower() for part in parts]):
        path = folder.joinpath(*spelled)
        try:
            if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                return path
        except (OSError, ValueError, RuntimeError):  # no possible name, or links in a circle
            return None
    return None
