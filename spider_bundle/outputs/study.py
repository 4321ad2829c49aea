"""The folder of one study, which becomes visible only as a whole.

A study is built in a hidden sibling ``.<study-key>.partial-<random>``, forced to disk and renamed
into place. While it is replaced, the finished study before it waits as ``.<study-key>.retired``;
should the run die just then, the next one puts it back. A lock per study, which the operating
system releases when its holder dies, tells dead runs from live ones.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from spider_bundle.dicom.provenance import ViewProvenance
from spider_bundle.files import sync, sync_tree
from spider_bundle.geometry import Grid
from spider_bundle.outputs.consistency import reprojection_consistency
from spider_bundle.outputs.html_report import HTML_FILE, report_page, write_page
from spider_bundle.outputs.nifti import write_ct, write_labels
from spider_bundle.outputs.preview import PREVIEW_FILE, write_preview
from spider_bundle.outputs.report import (
    REPORT_FILE,
    build_report,
    describe_files,
    warning_codes,
    write_report,
)

CT_FILE = "ct.nii.gz"
LABEL_FILE = "label.nii.gz"

_LOCKS = ".locks"
_KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")


class StudyError(RuntimeError):
    """The study folder cannot be written; the message says why and names no path."""


@dataclass(frozen=True)
class RunFacts:
    """What the run knows that the volumes do not show; see :func:`~.report.build_report`."""

    device: str
    weights_sha256: str | None
    views: Sequence[ViewProvenance]
    assumptions: Sequence[str] = ()
    findings: Sequence[Mapping[str, Any]] = ()
    timings: Mapping[str, float] = field(default_factory=dict)


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
    key = _checked(study_key)
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
                _replace(partial, final, _retired(folder, key))
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except Timeout as error:
        raise StudyError("another run is writing this study") from error


def write_study(
    out: str | os.PathLike[str],
    study_key: str,
    *,
    hu: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    grid: Grid,
    image: npt.NDArray[np.floating[Any]],
    reprojection: npt.NDArray[np.floating[Any]],
    facts: RunFacts,
    mask: npt.NDArray[np.bool_] | None = None,
    pixel_size: float | None = None,
    hidden: Sequence[bool] = (False, False),
    extras: Callable[[Path], None] | None = None,
    html: bool = False,
    timeout: float = 60.0,
) -> Path:
    """Write CT, labels, preview and report of one study, all or nothing.

    Args:
        out: Output folder, created if absent.
        study_key: Keyed hash of the study.
        hu: Reconstructed HU, shape ``(X, Y, Z)``.
        labels: Label map, shape ``(X, Y, Z)``.
        grid: Grid of both (LPS mm).
        image: Network images, shape ``(2, H, W)``: frontal, lateral; 0 outside the exposed field.
        reprojection: The reconstruction projected in the same views, shape ``(2, H, W)``.
        facts: What the run knows, for the report.
        mask: Exposed fields, shape ``(2, H, W)``; where ``image`` is positive if not given.
        pixel_size: Pixel size of the network images at the isocentre in mm, for the scale bar.
        hidden: Radiographs that the preview must not show, frontal and lateral.
        extras: Writes further files (DICOM, meshes) into the folder it is given; the report lists
            them too.
        html: Whether to write the report as a page as well.
        timeout: Seconds to wait for another run that is writing the same study.

    Returns:
        The study's folder.

    Raises:
        ValueError: Shapes do not fit each other, values that cannot be written, or a bad key.
        StudyError: See :func:`study_folder`.
        OSError: The disk refused.
    """
    consistency = {
        role: reprojection_consistency(
            image[view], reprojection[view], None if mask is None else mask[view]
        )
        for view, role in enumerate(("frontal", "lateral"))
    }
    with study_folder(out, study_key, timeout) as folder:
        write_ct(folder / CT_FILE, hu, grid)
        write_labels(folder / LABEL_FILE, labels, grid)
        write_preview(
            folder / PREVIEW_FILE,
            image=image,
            reprojection=reprojection,
            hu=hu,
            labels=labels,
            grid=grid,
            warnings=warning_codes(facts.findings),
            pixel_size=pixel_size,
            hidden=hidden,
        )
        if extras is not None:
            extras(folder)
        known = {item.name: getattr(facts, item.name) for item in fields(facts)}
        report = build_report(study_key, grid=grid, reprojection=consistency, **known)
        if html:
            listed = report.with_files(describe_files(folder))
            preview = (folder / PREVIEW_FILE).read_bytes()
            write_page(folder / HTML_FILE, report_page(listed.to_json(), preview))
        write_report(folder / REPORT_FILE, report.with_files(describe_files(folder)))
    return Path(out, study_key)


def _checked(study_key: str) -> str:
    if not _KEY.fullmatch(study_key):
        raise ValueError("a study key is 1 to 128 letters, digits, hyphens and underscores")
    return study_key


def _retired(folder: Path, key: str) -> Path:
    return folder / f".{key}.retired"


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
    retired, final = _retired(folder, key), folder / key
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
