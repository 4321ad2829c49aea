"""The folder of one study, which becomes visible only as a whole.

A study is built in a hidden sibling ``.<study-key>.partial-<random>``, forced to disk and renamed
into place. While it is replaced, the finished study before it waits as ``.<study-key>.retired``;
should the run die just then, the next one puts it back. A lock per study, which the operating
system releases when its holder dies, tells dead runs from live ones.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from spider_bundle.errors import StudyError as StudyError
from spider_bundle.files import file_sha256, sync, sync_tree, write_text
from spider_bundle.outputs.dicom_ct import write_ct_series
from spider_bundle.outputs.dicom_seg import write_segmentation
from spider_bundle.outputs.html_report import HTML_FILE, report_page
from spider_bundle.outputs.mesh import write_meshes
from spider_bundle.outputs.nifti import write_ct, write_labels
from spider_bundle.outputs.optional_dependencies import require_extra
from spider_bundle.outputs.preview import PREVIEW_FILE, write_preview
from spider_bundle.outputs.report import REPORT_FILE, describe_files, write_report

if TYPE_CHECKING:
    from spider_bundle.reconstructor import Result

FORMATS = ("nifti", "preview", "dicom", "mesh", "html")

CT_FILE = "ct.nii.gz"
LABEL_FILE = "label.nii.gz"
DICOM_CT_FOLDER = "dicom/ct"
DICOM_SEGMENTATION_FILE = "dicom/seg.dcm"
REFUSED_FILE = "refused.json"

_log = logging.getLogger(__name__)
_LOCKS = ".locks"
_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")


def check_formats(formats: Collection[str]) -> frozenset[str]:
    """Check that results can be written in these formats, without importing what they need.

    Raises:
        SpiderError: R03, the packages of one are not installed.
        ValueError: One is none of :data:`FORMATS`.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ValueError(f"formats are {', '.join(FORMATS)}")
    for extra in {"dicom", "mesh"} & set(formats):
        require_extra(extra)
    return frozenset(formats)


def remove_partial_studies(out: str | os.PathLike[str]) -> int:
    """Clear up what dead runs left in an output folder; live runs are not touched.

    Args:
        out: Output folder; it may be absent.

    Returns:
        Number of studies that had something to clear up.
    """
    pattern = re.compile(rf"\.({_KEY.pattern})\.(?:partial-[0-9a-f]+|retired)")
    folder = Path(out)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    keys = {match.group(1) for name in names if (match := pattern.fullmatch(name))}
    cleared = 0
    for key in sorted(keys):
        try:
            with _lock(folder, key, timeout=0.0):
                _recover(folder, key)
                cleared += 1
        except Timeout:
            continue
    return cleared


@contextmanager
def study_folder(
    out: str | os.PathLike[str], study_key: str, timeout: float = 60.0
) -> Iterator[Path]:
    """Build a study's folder and let it appear, complete, under its name.

    The body writes into the yielded folder, :data:`REPORT_FILE` last. If it raises, nothing of it
    remains and a finished study of the same key stays as it was; otherwise the new folder replaces
    that study with everything in it.

    Args:
        out: Output folder, created if absent.
        study_key: Keyed hash of the study.
        timeout: Seconds to wait for another run that is writing the same study.

    Yields:
        The hidden folder to write into.

    Raises:
        ValueError: The key is not a plain name.
        StudyError: Another run keeps writing this study, the body wrote no report, or something
            that is not a finished study has the study's name.
        OSError: The disk refused.
    """
    if not _KEY.fullmatch(key := study_key):
        raise ValueError("a study key is 1 to 128 letters, digits, hyphens and underscores")
    folder = Path(out)
    try:
        with _lock(folder, key, timeout):
            _recover(folder, key)
            final = folder / key
            if os.path.lexists(final) and not (final / REPORT_FILE).is_file():
                raise StudyError(
                    "the output folder holds an entry with this study's name that is not a "
                    "finished study; move it away"
                )
            partial = folder / f".{key}.partial-{secrets.token_hex(8)}"
            partial.mkdir()
            try:
                yield partial
                if not (partial / REPORT_FILE).is_file():
                    raise StudyError("the study has no report")
                sync_tree(partial)
                _replace(partial, final, folder / f".{key}.retired")
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except Timeout as error:
        raise StudyError("another run is writing this study") from error


def write_study(
    out: str | os.PathLike[str], result: Result, formats: Collection[str], *, timeout: float = 60.0
) -> Path:
    """Write one study, all or nothing.

    Args:
        out: Output folder, created if absent.
        result: The study.
        formats: Some of :data:`FORMATS`: ``nifti`` (CT and labels), ``preview``, ``dicom`` (CT
            series and segmentation), ``mesh`` (bone and mandible), ``html`` (the report as a page,
            with the preview). The report is always written.
        timeout: Seconds to wait for another run that is writing the same study.

    Returns:
        The study's folder.

    Raises:
        ValueError: Shapes do not fit each other, values that cannot be written, or a bad key.
        StudyError: See :func:`study_folder`; or DICOM or a mesh cannot express this study.
        SpiderError: R03, the packages of a format are not installed.
        OSError: The disk refused.
    """
    report = result.report()
    with study_folder(out, result.study_key, timeout) as folder:
        if "nifti" in formats:
            write_ct(folder / CT_FILE, result.hu, result.grid)
            write_labels(folder / LABEL_FILE, result.labels, result.grid)
        if {"preview", "html"} & set(formats):
            write_preview(folder / PREVIEW_FILE, result, report)
        try:
            if "dicom" in formats:
                _write_dicom(folder, result)
            if "mesh" in formats:
                write_meshes(folder, result.labels, result.grid)
        except (ValueError, TypeError) as error:
            # its text may quote a value of the patient's
            raise StudyError(
                f"an optional output cannot express this study ({type(error).__name__})"
            ) from error
        if "html" in formats:
            listed = report.with_files(describe_files(folder))
            preview = (folder / PREVIEW_FILE).read_bytes()
            write_text(folder / HTML_FILE, report_page(listed.to_json(), preview))
        write_report(folder / REPORT_FILE, report.with_files(describe_files(folder)))
    return Path(out, result.study_key)


def is_whole(out: str | os.PathLike[str], study_key: str) -> bool:
    """Return whether a study's folder holds all that its report lists, byte for byte."""
    folder = Path(out, study_key)
    try:
        report = json.loads((folder / REPORT_FILE).read_bytes())
        return all(file_sha256(folder / f["name"]) == f["sha256"] for f in report["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def write_refusals(out: str | os.PathLike[str], refused: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``refused.json``; one of an earlier run is replaced.

    Args:
        out: Output folder, created if absent.
        refused: Study key and findings of each refused study.

    Returns:
        The file.

    Raises:
        OSError: It cannot be written.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / REFUSED_FILE, json.dumps({"refused": list(refused)}, indent=2) + "\n")
    for entry in refused:
        key = entry["study_key"]
        if key and (folder / key).is_dir():
            _log.warning("study %s was refused; its result is one of an earlier run", key)
    return folder / REFUSED_FILE


def _write_dicom(folder: Path, result: Result) -> None:
    """Write the CT series and the segmentation on it."""
    grid, identity = result.grid, result.identity
    lossy = result.provenance.lossy
    ct_files = write_ct_series(folder / DICOM_CT_FOLDER, result.hu, grid, identity, lossy)
    target = folder / DICOM_SEGMENTATION_FILE
    write_segmentation(target, result.labels, grid, ct_files, identity)


@contextmanager
def _lock(folder: Path, key: str, timeout: float) -> Iterator[None]:
    """Hold the study's lock; lock files stay, since removing a held one would split it in two."""
    locks = folder / _LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{key}.lock", timeout=timeout):
        yield


def _recover(folder: Path, key: str) -> None:
    """Undo what a dead run left behind; the caller holds the lock."""
    for partial in folder.glob(f".{key}.partial-*"):
        shutil.rmtree(partial, ignore_errors=True)
    retired, final = folder / f".{key}.retired", folder / key
    if retired.is_dir() and not os.path.lexists(final):
        os.rename(retired, final)
        sync(folder)
    shutil.rmtree(retired, ignore_errors=True)


def _replace(partial: Path, final: Path, retired: Path) -> None:
    """Rename the new folder into place; a finished study there steps aside first."""
    replacing = final.is_dir()
    if replacing:
        os.rename(final, retired)
    try:
        os.rename(partial, final)
    except OSError:
        if replacing:
            os.rename(retired, final)
        raise
    sync(final.parent)
    shutil.rmtree(retired, ignore_errors=True)
