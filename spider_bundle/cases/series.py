"""CT series: pydicom tells where the slices lie and what they mean, ITK's GDCM decodes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import UID
from scipy import ndimage

from spider_bundle.arrays import Float32Array, FloatArray
from spider_bundle.cases.volume import silent_itk
from spider_bundle.dicom.header import FilmStream, transfer_syntax
from spider_bundle.errors import Code, SpiderError

MIN_SLICES = 16
"""A series has at least this many."""
MAX_TILT_DEGREES = 35.0
"""Largest gantry tilt."""
MAX_GAP_STEPS = 1.5
"""Largest distance between neighbouring slices, in steps of the series."""
MAX_ASTRAY_MM = 1.0
"""How far a slice may lie beside the line through the series."""
MIN_STEP_MM = 0.01
"""Slices that are nearer to each other lie at one position."""

_EVEN = 0.05  # steps by which a slice may be off without being interpolated
_RESCALED = ("", "HU", "US")


def read_series(files: Sequence[Path]) -> tuple[Float32Array, FloatArray, float]:
    """Stack the slices of a series by their positions (C.7.6.2).

    Args:
        files: CT images of one size, orientation and series, in any order.

    Returns:
        HU, shape ``(columns, rows, slices)``, NaN where the scanner declared padding; index to LPS
        mm, shape ``(4, 4)``, sheared where the gantry was tilted; and the tilt, degrees.

    Raises:
        SpiderError: P01, P03 to P08 or P10, the series cannot be used.
    """
    headers = [_header(path) for path in files]
    if len(headers) < MIN_SLICES:
        raise SpiderError(Code.SCAN_TOO_SMALL, f"{len(headers)} slices")
    positions, orientation, spacing = _slice_geometry(headers)
    normal = np.cross(orientation[0], orientation[1])
    order = np.argsort(positions @ normal)
    positions = positions[order]
    increment, tilt = _increment(positions, normal)
    hu = _decoded([files[i] for i in order])
    for k, i in enumerate(order):
        _correct(hu[:, :, k], headers[i])
    hu = _evenly(hu, (positions - positions[0]) @ increment / (increment @ increment))
    affine = np.eye(4)
    affine[:3, 0] = orientation[0] * spacing[1]
    affine[:3, 1] = orientation[1] * spacing[0]
    affine[:3, 2] = increment
    affine[:3, 3] = positions[0]
    return hu, affine, tilt


def _header(path: Path) -> Any:
    """Return the header of a slice whose pixels are all there: GDCM fills up what is missing."""
    try:
        with FilmStream(path) as stream:
            data = pydicom.dcmread(stream, force=True)
        size = len(data.PixelData)
        frames = int(data.get("NumberOfFrames") or 1)
        bits = int(data.Rows) * int(data.Columns) * frames * int(data.BitsAllocated)
        syntax = transfer_syntax(data.file_meta)
        compressed = bool(syntax) and UID(syntax).is_encapsulated
        del data.PixelData
    except Exception as error:
        raise SpiderError(Code.SCAN_UNREADABLE, type(error).__name__) from error
    if not compressed and size < bits // 8:
        raise SpiderError(Code.SCAN_UNREADABLE, "pixels are missing")
    if frames != 1:
        raise SpiderError(Code.NOT_CT)
    return data


def _slice_geometry(headers: list[Any]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return positions ``(n, 3)``, direction cosines ``(2, 3)`` and pixel spacing ``(2,)``."""
    try:
        positions = np.array([h.ImagePositionPatient for h in headers], dtype=np.float64)
        orientations = np.array([h.ImageOrientationPatient for h in headers], dtype=np.float64)
        spacings = np.array([h.PixelSpacing for h in headers], dtype=np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise SpiderError(Code.INCONSISTENT_SLICES) from error
    orientation = orientations[0].reshape(2, 3) if orientations[0].size == 6 else np.zeros((2, 3))
    frames = {str(h.get("FrameOfReferenceUID", "")) for h in headers}
    if (
        not np.allclose(orientation @ orientation.T, np.eye(2), atol=1e-2)
        or not np.allclose(orientations, orientations[0], atol=1e-3)
        or not np.allclose(spacings, spacings[0], rtol=1e-3)
        or not (spacings > 0).all()
        or len(frames) > 1
    ):
        raise SpiderError(Code.INCONSISTENT_SLICES)
    return positions, orientation, spacings[0]


def _increment(positions: FloatArray, normal: FloatArray) -> tuple[FloatArray, float]:
    """Return the step from slice to slice ``(3,)``, LPS mm, and the gantry tilt in degrees."""
    depths = positions @ normal
    gaps = np.diff(depths)
    if gaps.min() < MIN_STEP_MM:
        raise SpiderError(Code.DUPLICATE_SLICES)
    step = float(np.median(gaps))
    path = positions[-1] - positions[0]
    line = positions[0] + (depths - depths[0])[:, None] / (depths[-1] - depths[0]) * path
    astray = float(np.linalg.norm(positions - line, axis=1).max())
    if gaps.max() > MAX_GAP_STEPS * step or astray > MAX_ASTRAY_MM:
        raise SpiderError(Code.MISSING_SLICES, f"gaps of {gaps.min():.2f} to {gaps.max():.2f} mm")
    increment = path * step / (depths[-1] - depths[0])
    cosine = float(increment @ normal / np.linalg.norm(increment))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
    if tilt > MAX_TILT_DEGREES:
        raise SpiderError(Code.GANTRY_TILT, f"{tilt:.0f} degrees")
    return increment, tilt


def _decoded(files: Sequence[Path]) -> Float32Array:
    """Decode slices in the given order and rescale them (C.11.1), ``(columns, rows, slices)``."""
    import itk

    reader = itk.ImageSeriesReader[itk.Image[itk.F, 3]].New(
        FileNames=[str(path) for path in files],
        ImageIO=itk.GDCMImageIO.New(),
        MetaDataDictionaryArrayUpdate=False,
    )
    try:
        with silent_itk():
            reader.Update()
    except RuntimeError as error:
        raise SpiderError(Code.SCAN_UNREADABLE, type(error).__name__) from error
    hu: Float32Array = itk.array_from_image(reader.GetOutput()).T
    return hu


def _correct(hu: Float32Array, header: Any) -> None:
    """Set padding to NaN (C.7.5.1.1.2), and undo what GDCM does to MONOCHROME1.

    A photometric interpretation says how to show values, and nothing of what they are. The padding
    value may occur inside the head too, where the scanner clipped it; padding reaches the border.

    Args:
        hu: A slice as GDCM rescaled it, changed in place, shape ``(columns, rows)``.
        header: Its header.

    Raises:
        SpiderError: P10, the values are no HU.
    """
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    kind = str(header.get("RescaleType") or "").upper()
    if slope is None or intercept is None or kind not in _RESCALED:
        raise SpiderError(Code.NOT_HU)
    slope, intercept = float(slope), float(intercept)
    if not math.isfinite(slope) or slope == 0:  # GDCM takes 1 instead
        raise SpiderError(Code.NOT_HU)
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        largest = -1 if header.PixelRepresentation else 2 ** int(header.BitsStored) - 1
        hu[:] = slope * largest + 2 * intercept - hu
    value = header.get("PixelPaddingValue")
    if value is None:
        return
    limit = header.get("PixelPaddingRangeLimit")
    ends = np.array([value, value if limit is None else limit], dtype=np.float64)
    low, high = np.sort(ends * slope + intercept)
    half = abs(slope) / 2
    parts, _ = ndimage.label((hu > low - half) & (hu < high + half))
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    hu[np.isin(parts, border[border > 0])] = np.nan


def _evenly(hu: Float32Array, places: npt.NDArray[np.float64]) -> Float32Array:
    """Interpolate slices at any places, in steps, linearly onto whole steps; NaN spreads."""
    whole = np.rint(places)
    if np.abs(places - whole).max() < _EVEN and (np.diff(whole) == 1).all():
        return hu
    wanted = np.arange(np.floor(places[-1] + _EVEN) + 1)
    lower = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, len(places) - 2)
    share = (wanted - places[lower]) / (places[lower + 1] - places[lower])
    share = np.clip(share, 0.0, 1.0)
    even = hu[..., lower] * (1 - share) + hu[..., lower + 1] * share
    return even.astype(np.float32)
