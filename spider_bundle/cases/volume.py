"""CT volumes of one file each, and volumes in RAS order.

ITK reads NRRD and MetaImage files and turns axes; it is imported when it is first needed, as that
takes a second. NIfTI files are read with nibabel: ITK prefers the qform in places, refuses sheared
affines, and does not know NIfTI-2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from spider_bundle.arrays import Float32Array, FloatArray
from spider_bundle.errors import Code, SpiderError
from spider_bundle.geometry import LPS_TO_RAS, Grid

_SUFFIX = re.compile(r"\.(nii|nii\.gz|nrrd|mha)$", re.IGNORECASE)
_NRRD_SPACE = "left-posterior-superior"  # to which ITK turns the other anatomical spaces


@contextmanager
def silent_itk() -> Iterator[None]:
    """Keep warnings of ITK, which name files, off the terminal."""
    import itk

    shown = itk.Object.GetGlobalWarningDisplay()
    itk.Object.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        itk.Object.SetGlobalWarningDisplay(shown)


def is_volume(path: Path) -> bool:
    """Tell by its name whether a file holds a volume."""
    return _SUFFIX.search(path.name) is not None


def volume_stem(path: Path) -> str:
    """Return the name of a volume's file without its ending."""
    return _SUFFIX.sub("", path.name)


def read_volume(path: Path) -> tuple[Float32Array, Grid]:
    """Read a NIfTI, NRRD or MetaImage file in RAS order.

    Args:
        path: A file for which :func:`is_volume` holds.

    Returns:
        Values, shape ``(X, Y, Z)``, and their grid, LPS mm.

    Raises:
        SpiderError: P03 unreadable; P13 not one 3D image of numbers with a known orientation.
    """
    nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    try:
        if nifti:
            values, affine = _read_nifti(path)
        else:
            with silent_itk():
                values, affine = _read_with_itk(path)
    except SpiderError:
        raise
    except Exception as error:  # its text names the file
        raise SpiderError(Code.SCAN_UNREADABLE, type(error).__name__) from error
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise SpiderError(Code.INVALID_VOLUME)
    return in_ras_order(values, affine)


def in_ras_order(values: Float32Array, affine: FloatArray) -> tuple[Float32Array, Grid]:
    """Flip and permute the axes to the nearest RAS order; no value changes.

    Args:
        values: Volume, shape ``(X, Y, Z)``.
        affine: Index to LPS mm, shape ``(4, 4)``; may be oblique or sheared.
    """
    import itk

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = itk.image_view_from_array(np.ascontiguousarray(values.T, dtype=np.float32))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(affine[:3, :3] / spacing))
    orient = itk.OrientImageFilter[type(image), type(image)].New(image, UseImageDirection=True)
    orient.SetDesiredCoordinateDirection(itk.matrix_from_array(LPS_TO_RAS[:3, :3]))
    orient.Update()
    turned, lps = _array_and_affine(orient.GetOutput())
    x, y, z = turned.shape
    return turned, Grid((x, y, z), lps)


def _read_nifti(path: Path) -> tuple[Float32Array, FloatArray]:
    image: Any = nibabel.load(path)
    values = np.asarray(image.dataobj)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    oriented = int(image.header["sform_code"]) > 0 or int(image.header["qform_code"]) > 0
    if values.ndim != 3 or values.dtype.kind not in "iuf" or not oriented:
        raise SpiderError(Code.INVALID_VOLUME)
    return values.astype(np.float32), LPS_TO_RAS @ np.asarray(image.affine, dtype=np.float64)


def _read_with_itk(path: Path) -> tuple[Float32Array, FloatArray]:
    import itk

    is_nrrd = path.suffix.lower() == ".nrrd"
    codec = (itk.NrrdImageIO if is_nrrd else itk.MetaImageIO).New(FileName=str(path))
    codec.ReadImageInformation()
    scalar = codec.GetPixelTypeAsString(codec.GetPixelType()) == "scalar"
    facts = codec.GetMetaDataDictionary()
    space = facts["NRRD_space"] if facts.HasKey("NRRD_space") else ""
    if codec.GetNumberOfDimensions() != 3 or not scalar or (is_nrrd and space != _NRRD_SPACE):
        raise SpiderError(Code.INVALID_VOLUME)
    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=str(path), ImageIO=codec)
    reader.Update()
    return _array_and_affine(reader.GetOutput())


def _array_and_affine(image: Any) -> tuple[Float32Array, FloatArray]:
    """Return an ITK image as an array ``(X, Y, Z)`` and its index to LPS mm ``(4, 4)``."""
    import itk

    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.ascontiguousarray(itk.array_view_from_image(image).T), affine
