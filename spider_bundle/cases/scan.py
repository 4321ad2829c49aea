"""Find CT scans in a folder tree and read them: DICOM series, NIfTI, NRRD and MetaImage files.

Space is DICOM's patient space (LPS mm, C.7.6.2.1.1).
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from spider_bundle.arrays import Mask
from spider_bundle.cases.series import MIN_SLICES, read_series
from spider_bundle.cases.volume import in_ras_order, is_volume, read_volume, volume_stem
from spider_bundle.dicom.header import (
    BlankFileError,
    FilmStream,
    NotDicomError,
    is_sop_class,
)
from spider_bundle.dicom.studies import data_set_sha256, is_gone, is_named_as_a_film
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import files_below
from spider_bundle.geometry import Grid
from spider_bundle.logs import silent_pydicom

MIN_EXTENT_MM = 80.0
"""A scan covers at least this along every axis."""
MAX_SPACING_MM = 6.5
"""Largest voxel size of a scan."""
AIR_HU = -700.0
"""Air is less dense than this."""
MIN_AIR_FRACTION = 0.01
"""A scan in HU holds at least this share of air ..."""
MIN_BONE_HU = 200.0
"""... and something at least as dense as this."""

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_IMAGES = "1.2.840.10008.5.1.4.1.1."
_DIRECTORY = "1.2.840.10008.1.3.10"
_HEADER = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "ImageType",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "Rows",
    "Columns",
    "SamplesPerPixel",
]
_CIRCLE_PADDING = 0.98  # share of the corners that is constant where the scan is a disc


@dataclass(frozen=True)
class ScanSource:
    """A scan that was found, by its headers.

    Attributes:
        uid: What identifies the scan; never shown.
        patient: What identifies the patient; never shown.
        name: Path below the folder; never shown.
        files: Its files, sorted; never shown.
        fault: Why it cannot be used, where its headers tell already.
        contours: Segmentation of the mandible; never shown.
    """

    uid: str = field(repr=False)
    patient: str = field(repr=False)
    name: str = field(repr=False)
    files: tuple[Path, ...] = field(repr=False)
    fault: Code | None = None
    contours: Path | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Scan:
    """A CT volume with its axes in RAS order.

    Attributes:
        hu: CT in HU, shape ``(X, Y, Z)``; -1000 where nothing was measured.
        measured: False where the scanner or a converter filled in values, same shape.
        grid: Its grid, LPS mm; may be oblique, or sheared where the gantry was tilted.
        gantry_tilt: Angle between the slice normal and the stacking direction, degrees.
    """

    hu: npt.NDArray[np.float32]
    measured: Mask
    grid: Grid
    gantry_tilt: float = 0.0


def find_scans(
    folder: str | Path,
    *,
    contours: str = "{stem}_mandible.nii.gz",
    patient_pattern: str | None = None,
    leave_out: str | Path | None = None,
) -> list[ScanSource]:
    """Find the scans below a folder, in a stable order.

    Links to folders are followed once; hidden files and folders are left out. Files and folders
    that may hold a scan and cannot be read are scans with a fault, one for each folder.

    Args:
        folder: Any tree of files.
        contours: Name of the mandible's segmentation beside a scan. ``{stem}`` is the name of a
            volume's file without its ending, or of a series' folder (the segmentation then lies
            beside that folder, or in it).
        patient_pattern: Regular expression for the patient of volumes, searched in the path below
            the folder; its first group (or all of it) names the patient. Files without a match,
            and all files if it is not given, are patients of their own.
        leave_out: Folder that is not searched.

    Raises:
        ValueError: The pattern is not a regular expression, or ``contours`` not a name.
    """
    root = Path(folder)
    try:
        pattern = re.compile(patient_pattern) if patient_pattern else None
        companion = re.compile(re.escape(contours.format(stem="\0")).replace("\0", ".+"))
    except (re.error, KeyError, IndexError, ValueError) as error:
        raise ValueError("not a usable pattern") from error
    slices: list[tuple[Path, Any]] = []
    series: dict[tuple[Any, ...], list[tuple[Path, Any]]] = defaultdict(list)
    sources = []
    unread: dict[Path, list[Path]] = defaultdict(list)
    excluded = Path(leave_out).resolve() if leave_out else None
    for path in sorted(files_below(root, excluded)):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if is_volume(path):
            if not companion.fullmatch(path.name) and os.path.isfile(path):
                segmentation = path.with_name(contours.format(stem=volume_stem(path)))
                sources.append(
                    ScanSource(
                        name,
                        _patient_in(name, pattern),
                        name,
                        (path,),
                        contours=segmentation if segmentation.is_file() else None,
                    )
                )
            continue
        try:
            header = _header(path)
        except SpiderError:
            unread[path if path.is_dir() else path.parent].append(path)
            continue
        if header is not None:
            slices.append((path, header))
    for path, header in _without_copies(slices):
        series[(_series_key(header), _owner(path, header))].append((path, header))
    stacks = [(key, part) for (key, _), stack in series.items() for part in _parts(stack)]
    alike = Counter(key for key, _ in stacks)
    for key, part in stacks:
        source = _series_source(root, key, part, contours)
        if alike[key] > 1:  # an anonymiser gave one UID to several
            source = replace(source, uid=f"{source.uid}|{source.patient}|{source.name}")
        sources.append(source)
    for folder, files in unread.items():
        name = folder.relative_to(root).as_posix()
        source = ScanSource(f"unread|{name}", name, name, tuple(files), Code.SCAN_UNREADABLE)
        sources.append(source)
    return sorted(sources, key=lambda source: (source.name, source.uid))


def read_scan(source: ScanSource) -> Scan:
    """Read the voxels of a scan.

    Raises:
        SpiderError: The scan cannot be used; P01 to P10 and P13.
    """
    if source.fault is not None:
        raise SpiderError(source.fault)
    tilt = 0.0
    if is_volume(source.files[0]):
        values, grid = read_volume(source.files[0])
    else:
        with silent_pydicom():  # values are decoded when they are first used
            stacked, affine, tilt = read_series(source.files)
        values, grid = in_ras_order(stacked, affine)
    measured = np.isfinite(values) & ~filled(values)
    hu = np.where(measured, values, np.float32(-1000.0))
    scan = Scan(hu, measured, grid, tilt)
    _check(scan)
    return scan


def filled(hu: npt.NDArray[np.floating[Any]]) -> Mask:
    """Find voxels that a scanner filled in because they lie outside its field of view.

    Everything below -1024 HU is filling. -1024 itself may be air; it is filling outside of the
    circle in each slice, if the corners hold nothing else and the inside of the circle does.

    Args:
        hu: CT in HU, shape ``(X, Y, Z)``, slices along z; NaN is filling too.
    """
    filling: Mask = hu < -1024.0
    y, x = np.ogrid[-1 : 1 : hu.shape[1] * 1j, -1 : 1 : hu.shape[0] * 1j]
    radius = np.hypot(x, y).T
    constant = ~(hu > -1024.0)
    corners = radius > 1.01
    rim = (radius > 0.9) & (radius < 0.99)
    if corners.any() and rim.any():
        outside = constant[corners].mean(axis=0)
        inside = constant[rim].mean(axis=0)
        discs = (outside > _CIRCLE_PADDING) & (inside < 0.5)
        filling |= constant & (radius > 0.99)[..., None] & discs
    return filling


def _patient_in(name: str, pattern: re.Pattern[str] | None) -> str:
    """Return what names the patient in the path of a volume: group, match, or the path."""
    match = pattern.search(name) if pattern else None
    if match is None:
        return name
    return (match.group(1) if match.re.groups else "") or match.group()


def _header(path: Path) -> Any | None:
    """Return the header of a DICOM file with an image, or None.

    Raises:
        SpiderError: P03, it may be one and cannot be read.
    """
    try:
        with FilmStream(path) as stream, silent_pydicom():
            header = pydicom.dcmread(
                stream, stop_before_pixels=True, specific_tags=_HEADER, force=True
            )
            kind = str(header.get("SOPClassUID") or "")
            is_image = kind.startswith(_IMAGES) and header.get("Rows")
            stored = header.file_meta.get("MediaStorageSOPClassUID")
            is_cut = kind == _CT_IMAGE or not is_sop_class(kind)
            if not is_image and is_cut and stored != _DIRECTORY:
                raise SpiderError(Code.SCAN_UNREADABLE)  # cut before it says what it is
            return header if is_image else None
    except NotDicomError as error:
        if isinstance(error, BlankFileError) and is_named_as_a_film(path):
            raise SpiderError(Code.SCAN_UNREADABLE) from None
        return None
    except Exception as error:  # pydicom raises nearly every kind of exception on damaged files
        if isinstance(error, OSError) and is_gone(path, error):
            return None
        raise SpiderError(Code.SCAN_UNREADABLE) from None


def _owner(path: Path, header: Any) -> tuple[str, ...]:
    """Return what slices share besides their series: patient and study, or else the folder."""
    names = ("IssuerOfPatientID", "PatientID", "StudyInstanceUID")
    owner = tuple(str(header.get(name) or "") for name in names)
    return (*owner, "" if header.get("SeriesInstanceUID") else str(path.parent))


def _without_copies(slices: Sequence[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """Leave out files with the data set of another one; UIDs alone do not tell."""
    alike = Counter(str(header.get("SOPInstanceUID", "")) for _, header in slices)
    crowds = Counter(path.parent for path, _ in slices)
    kept: dict[str, tuple[Path, Any]] = {}
    # single copies may lie elsewhere
    for path, header in sorted(slices, key=lambda found: -crowds[found[0].parent]):
        uid = str(header.get("SOPInstanceUID", ""))
        content = data_set_sha256(path) if alike[uid] > 1 else uid
        kept.setdefault(content, (path, header))
    return list(kept.values())


def _parts(slices: list[tuple[Path, Any]]) -> list[list[tuple[Path, Any]]]:
    """Return slices by their folders if they lie at the same places, else all as one stack."""
    folders: dict[Path, list[tuple[Path, Any]]] = defaultdict(list)
    for path, header in slices:
        folders[path.parent].append((path, header))
    places = {str(header.get("ImagePositionPatient")) for _, header in slices}
    return [slices] if len(places) == len(slices) else list(folders.values())


def _series_key(header: Any) -> tuple[Any, ...]:
    """Return what the slices of one stack have in common."""
    try:
        orientation = tuple(round(float(v), 2) + 0.0 for v in header.ImageOrientationPatient)
    except (AttributeError, TypeError, ValueError):
        orientation = ()
    series = str(header.get("SeriesInstanceUID", ""))
    return (series, header.Rows, header.get("Columns"), orientation, _fault(header))


def _series_source(
    root: Path, key: tuple[Any, ...], slices: list[tuple[Path, Any]], contours: str
) -> ScanSource:
    """Return the source of a series, named by the folder in which most of its slices lie."""
    first, header = slices[0]
    # copies of single slices may lie elsewhere
    home = Counter(path.parent for path, _ in slices).most_common(1)[0][0]
    parent = home.relative_to(root).as_posix()
    segmentation = contours.format(stem=home.name)
    places = ([home.with_name(segmentation)] if parent != "." else []) + [home / segmentation]
    issuer = header.get("IssuerOfPatientID") or ""
    patient = header.get("PatientID") or header.get("StudyInstanceUID")
    return ScanSource(
        "|".join(str(part) for part in key),
        f"{issuer}|{patient or first.relative_to(root).as_posix()}",
        parent,
        tuple(sorted(path for path, _ in slices)),
        _fault(header),
        next((place for place in places if place.is_file()), None),
    )


def _fault(header: Any) -> Code | None:
    if header.get("SOPClassUID") != _CT_IMAGE or int(header.get("SamplesPerPixel") or 1) != 1:
        return Code.NOT_CT
    kinds = header.get("ImageType") or ()
    return Code.LOCALISER if "LOCALIZER" in [str(kind).upper() for kind in kinds] else None


def _check(scan: Scan) -> None:
    """Refuse what cannot hold a head in HU."""
    spacing = np.array(scan.grid.spacing)
    if spacing.max() > MAX_SPACING_MM:
        raise SpiderError(Code.VOXELS_TOO_COARSE, f"{spacing.max():.1f} mm")
    slices, extent = min(scan.grid.shape), float((spacing * scan.grid.shape).min())
    if slices < MIN_SLICES or extent < MIN_EXTENT_MM:
        raise SpiderError(Code.SCAN_TOO_SMALL, f"{slices} slices, {extent:.0f} mm")
    known = scan.hu[scan.measured]
    if not known.size:
        raise SpiderError(Code.NOT_HU)
    air = float((known < AIR_HU).mean())
    if air < MIN_AIR_FRACTION or known.max() < MIN_BONE_HU:
        raise SpiderError(Code.NOT_HU, f"{100 * air:.0f} % air, at most {known.max():.0f}")
