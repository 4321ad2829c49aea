"""Find CT scans in a folder tree and read them: DICOM series and NIfTI files.

Space is DICOM's patient space (LPS mm, C.7.6.2.1.1). NIfTI is RAS.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError
from scipy import ndimage

from spider_bundle.arrays import Mask
from spider_bundle.cases.rejections import CODES, Code, ScanRejectedError
from spider_bundle.geometry import LPS_TO_RAS, Grid
from spider_bundle.logs import silent_pydicom

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_IMAGES = "1.2.840.10008.5.1.4.1.1."
_NIFTI = (".nii", ".nii.gz")
_HEADER = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "ImageType",
    "ImageOrientationPatient",
    "Rows",
    "Columns",
    "SamplesPerPixel",
]
_CIRCLE_PADDING = 0.98  # share of the corners that is constant where the scan is a disc
_EVEN = 0.05  # steps by which a slice may be off without being interpolated
_RESCALED = ("", "HU", "US")


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
        hu: CT in HU, shape ``(X, Y, Z)``.
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

    Args:
        folder: Any tree of files.
        contours: Name of the mandible's segmentation beside a scan. ``{stem}`` is the name of a
            NIfTI file without its ending, or of a series' folder (the segmentation then lies
            beside that folder, or in it).
        patient_pattern: Regular expression for the patient of NIfTI files, searched in the path
            below the folder; its first group (or all of it) names the patient. Files without a
            match, and all files if it is not given, are patients of their own.
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
    series: dict[tuple[Any, ...], list[tuple[str, Path, Any]]] = defaultdict(list)
    sources = []
    seen: set[str] = set()
    for path in _files(root, Path(leave_out) if leave_out else None):
        name = path.relative_to(root).as_posix()
        if path.name.lower().endswith(_NIFTI):
            if not companion.fullmatch(path.name):
                match = pattern.search(name) if pattern else None
                patient = (
                    (match.group(1) or "" if pattern and pattern.groups else "") if match else ""
                )
                patient = patient or (match.group() if match else name)
                stem = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
                segmentation = _existing(path.with_name(contours.format(stem=stem)))
                sources.append(ScanSource(name, patient, name, (path,), None, segmentation))
            continue
        header = _header(path)
        if header is None or str(header.get("SOPInstanceUID", name)) in seen:
            continue
        seen.add(str(header.get("SOPInstanceUID", name)))
        series[_series(header)].append((name, path, header))
    for key, members in series.items():
        name, _, header = members[0]
        # copies of single slices may lie elsewhere
        home = Counter(member[1].parent for member in members).most_common(1)[0][0]
        parent = home.relative_to(root).as_posix()
        beside = home.with_name(contours.format(stem=home.name))
        inside = home / contours.format(stem=home.name)
        issuer = header.get("IssuerOfPatientID") or ""
        identifier = header.get("PatientID") or header.get("StudyInstanceUID") or name
        sources.append(
            ScanSource(
                "|".join(str(part) for part in key),
                f"{issuer}|{identifier}",
                parent,
                tuple(sorted(member[1] for member in members)),
                _fault(header),
                (_existing(beside) if parent != "." else None) or _existing(inside),
            )
        )
    return sorted(sources, key=lambda source: (source.name, source.uid))


def read_scan(source: ScanSource) -> Scan:
    """Read the voxels of a scan.

    Raises:
        ScanRejectedError: The scan cannot be used; P01 to P10 and P13.
    """
    if source.fault is not None:
        raise ScanRejectedError(source.fault)
    if source.files[0].name.lower().endswith(_NIFTI):
        scan = read_nifti(source.files[0])
    else:
        with silent_pydicom():  # values are decoded when they are first used
            scan = _read_series(source.files)
    _check(scan)
    return scan


def read_nifti(path: Path) -> Scan:
    """Read a NIfTI volume with its axes flipped and permuted to RAS order.

    Raises:
        ScanRejectedError: P03 unreadable; P13 not one 3D image with an orientation.
    """
    try:
        image = nibabel.load(path)
        values = np.asarray(image.dataobj)
    except Exception as error:
        raise ScanRejectedError(Code.P03, type(error).__name__) from error
    header = image.header
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    oriented = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    linear = np.asarray(image.affine, dtype=np.float64)[:3, :3]
    if values.ndim != 3 or values.dtype.kind not in "iuf" or not oriented:
        raise ScanRejectedError(Code.P13)
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(linear)) < 1e-6:
        raise ScanRejectedError(Code.P13)
    return _in_ras_order(values.astype(np.float32), np.isfinite(values), image.affine)


def _files(root: Path, leave_out: Path | None) -> list[Path]:
    """Files below a folder, sorted; links to folders are followed once, hidden names left out."""
    seen = {leave_out.resolve()} if leave_out else set()
    files = []
    for parent, folders, names in os.walk(root, followlinks=True):
        place = Path(parent).resolve()
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file())


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _header(path: Path) -> Any | None:
    """Header of a DICOM file with an image, or None."""
    try:
        with silent_pydicom():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
    except (InvalidDicomError, OSError, ValueError, AttributeError, NotImplementedError):
        return None
    is_image = str(header.get("SOPClassUID", "")).startswith(_IMAGES)
    return header if is_image and header.get("Rows") else None


def _series(header: Any) -> tuple[Any, ...]:
    """What the slices of one stack have in common."""
    try:
        orientation = tuple(round(float(v), 2) + 0.0 for v in header.ImageOrientationPatient)
    except (AttributeError, TypeError, ValueError):
        orientation = ()
    series = str(header.get("SeriesInstanceUID", ""))
    return (series, header.Rows, header.get("Columns"), orientation, _fault(header))


def _fault(header: Any) -> Code | None:
    if header.get("SOPClassUID") != _CT_IMAGE or int(header.get("SamplesPerPixel") or 1) != 1:
        return Code.P01
    kinds = header.get("ImageType") or ()
    return Code.P02 if "LOCALIZER" in [str(kind).upper() for kind in kinds] else None


def _read_series(files: Iterable[Path]) -> Scan:
    """Stack the slices of a series by their positions (C.7.6.2)."""
    slices = []
    for path in files:
        try:
            slices.append(pydicom.dcmread(path))
        except Exception as error:
            raise ScanRejectedError(Code.P03, type(error).__name__) from error
    limits = CODES[Code.P08].limits
    if len(slices) < limits["minimum_slices"]:
        raise ScanRejectedError(Code.P08, f"{len(slices)} slices")
    positions, orientation, spacing = _slice_geometry(slices)
    normal = np.cross(orientation[0], orientation[1])
    order = np.argsort(positions @ normal)
    positions = positions[order]
    increment, tilt = _increment(positions, normal)
    planes, known = zip(*(_pixels(slices[i]) for i in order), strict=True)
    if len({plane.shape for plane in planes}) != 1:
        raise ScanRejectedError(Code.P04, "pixel arrays of different sizes")
    # planes are (row, column); volumes are (column, row, slice)
    hu, measured = _evenly(
        np.stack([plane.T for plane in planes], axis=-1),
        np.stack([plane.T for plane in known], axis=-1),
        (positions - positions[0]) @ increment / (increment @ increment),
    )
    affine = np.eye(4)
    affine[:3, 0] = orientation[0] * spacing[1]
    affine[:3, 1] = orientation[1] * spacing[0]
    affine[:3, 2] = increment
    affine[:3, 3] = positions[0]
    scan = _in_ras_order(hu, measured, LPS_TO_RAS @ affine)
    return Scan(scan.hu, scan.measured, scan.grid, tilt)


def _slice_geometry(
    slices: list[Any],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Positions ``(n, 3)``, direction cosines ``(2, 3)`` of columns and rows, pixel spacing."""
    try:
        positions = np.array([s.ImagePositionPatient for s in slices], dtype=np.float64)
        orientations = np.array([s.ImageOrientationPatient for s in slices], dtype=np.float64)
        spacings = np.array([s.PixelSpacing for s in slices], dtype=np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise ScanRejectedError(Code.P04) from error
    orientation = orientations[0].reshape(2, 3) if orientations[0].size == 6 else np.zeros((2, 3))
    frames = {str(s.get("FrameOfReferenceUID", "")) for s in slices}
    if (
        not np.allclose(orientation @ orientation.T, np.eye(2), atol=1e-2)
        or not np.allclose(orientations, orientations[0], atol=1e-3)
        or not np.allclose(spacings, spacings[0], rtol=1e-3)
        or not (spacings > 0).all()
        or len(frames) > 1
    ):
        raise ScanRejectedError(Code.P04)
    return positions, orientation, spacings[0]


def _increment(
    positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], float]:
    """Step from slice to slice ``(3,)``, LPS mm, and the gantry tilt in degrees."""
    depths = positions @ normal
    gaps = np.diff(depths)
    if gaps.min() < CODES[Code.P07].limits["minimum_mm"]:
        raise ScanRejectedError(Code.P07)
    limits = CODES[Code.P06].limits
    step = float(np.median(gaps))
    path = positions[-1] - positions[0]
    line = positions[0] + (depths - depths[0])[:, None] / (depths[-1] - depths[0]) * path
    astray = float(np.linalg.norm(positions - line, axis=1).max())
    if gaps.max() > limits["largest_gap_in_steps"] * step or astray > limits["astray_mm"]:
        raise ScanRejectedError(Code.P06, f"gaps of {gaps.min():.2f} to {gaps.max():.2f} mm")
    increment = path * step / (depths[-1] - depths[0])
    cosine = float(increment @ normal / np.linalg.norm(increment))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
    if tilt > CODES[Code.P05].limits["maximum_degrees"]:
        raise ScanRejectedError(Code.P05, f"{tilt:.0f} degrees")
    return increment, tilt


def _evenly(
    hu: npt.NDArray[np.float32], measured: Mask, places: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], Mask]:
    """Interpolate slices at any places, in steps, linearly onto whole steps."""
    whole = np.rint(places)
    if np.abs(places - whole).max() < _EVEN and (np.diff(whole) == 1).all():
        return hu, measured
    wanted = np.arange(np.floor(places[-1] + _EVEN) + 1)
    lower = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, len(places) - 2)
    share = (wanted - places[lower]) / (places[lower + 1] - places[lower])
    share = np.clip(share, 0.0, 1.0)
    even = hu[..., lower] * (1 - share) + hu[..., lower + 1] * share
    return even.astype(np.float32), measured[..., lower] & measured[..., lower + 1]


def _pixels(dataset: Any) -> tuple[npt.NDArray[np.float32], Mask]:
    """HU of a slice (C.11.1) and where they are not padding (C.7.5.1.1.2)."""
    try:
        stored = dataset.pixel_array
    except Exception as error:
        raise ScanRejectedError(Code.P03, type(error).__name__) from error
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    kind = str(dataset.get("RescaleType") or "").upper()
    if slope is None or intercept is None or kind not in _RESCALED:
        raise ScanRejectedError(Code.P10)
    if stored.ndim != 2:
        raise ScanRejectedError(Code.P01)
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return hu, ~_padding(dataset, stored)


def _padding(dataset: Any, stored: npt.NDArray[Any]) -> Mask:
    """Pixels with the declared padding value that are connected to the border.

    The value may occur inside the head too, where the scanner clipped it.
    """
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    parts, _ = ndimage.label((stored >= low) & (stored <= high))
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    padding: Mask = np.isin(parts, border[border > 0])
    return padding


def _in_ras_order(values: npt.NDArray[np.float32], known: Mask, ras_affine: Any) -> Scan:
    """Flip and permute the axes to the nearest RAS order; no value changes."""
    turn = nibabel.orientations.io_orientation(ras_affine)
    affine = ras_affine @ nibabel.orientations.inv_ornt_aff(turn, values.shape)
    hu = np.ascontiguousarray(nibabel.orientations.apply_orientation(values, turn))
    measured = np.ascontiguousarray(nibabel.orientations.apply_orientation(known, turn))
    measured &= np.isfinite(hu) & ~filled(hu)
    return Scan(np.where(measured, hu, -1000.0), measured, Grid.from_ras(affine, hu.shape))


def filled(hu: npt.NDArray[np.floating[Any]]) -> Mask:
    """Voxels that a scanner filled in because they lie outside its field of view.

    Everything below -1024 HU is filling. -1024 itself may be air; it is filling outside of the
    circle in each slice, if the corners hold nothing else and the inside of the circle does.

    Args:
        hu: CT in HU, shape ``(X, Y, Z)``, slices along z.
    """
    filling: Mask = hu < -1024.0
    y, x = np.ogrid[-1 : 1 : hu.shape[1] * 1j, -1 : 1 : hu.shape[0] * 1j]
    radius = np.hypot(x, y).T
    constant = hu <= -1024.0
    corners = radius > 1.01
    rim = (radius > 0.9) & (radius < 0.99)
    if corners.any() and rim.any():
        outside = constant[corners].mean(axis=0)
        inside = constant[rim].mean(axis=0)
        discs = (outside > _CIRCLE_PADDING) & (inside < 0.5)
        filling |= constant & (radius > 0.99)[..., None] & discs
    return filling


def _check(scan: Scan) -> None:
    """Refuse what cannot hold a head in HU."""
    spacing = np.array(scan.grid.spacing)
    if spacing.max() > CODES[Code.P09].limits["maximum_mm"]:
        raise ScanRejectedError(Code.P09, f"{spacing.max():.1f} mm")
    limits = CODES[Code.P08].limits
    extent = float((spacing * scan.grid.shape).min())
    if min(scan.grid.shape) < limits["minimum_slices"] or extent < limits["minimum_extent_mm"]:
        raise ScanRejectedError(Code.P08, f"{min(scan.grid.shape)} slices, {extent:.0f} mm")
    limits = CODES[Code.P10].limits
    known = scan.hu[scan.measured]
    if not known.size:
        raise ScanRejectedError(Code.P10)
    air = float((known < limits["air_hu"]).mean())
    if air < limits["air_fraction"] or known.max() < limits["bone_hu"]:
        raise ScanRejectedError(Code.P10, f"{100 * air:.0f} % air, at most {known.max():.0f}")
