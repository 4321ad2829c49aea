"""Head CTs with known contents as arrays, DICOM series and NIfTI files."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from spider_bundle.cases import folder
from spider_bundle.cases.scan import ScanSource
from spider_bundle.geometry import LPS_TO_RAS, Grid
from spider_bundle.phantom import HeadPhantom

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SHIFT = np.array([31.0, -47.0, 812.0])
"""Where the phantom's origin lies in the space of a scan, LPS mm."""


@lru_cache(maxsize=4)
def head_scan(spacing: float = 4.0, voxels: int = 60) -> tuple[np.ndarray, Grid]:
    """HU (do not change in place) and grid of the head phantom, moved by :data:`SHIFT`."""
    centred = Grid.centred(spacing, voxels)
    hu, _ = HeadPhantom.nominal().voxelise(centred, supersample=2)
    affine = centred.affine.copy()
    affine[:3, 3] += SHIFT
    hu = np.rint(hu).astype(np.float32)
    hu.setflags(write=False)
    return hu, Grid(centred.shape, affine)


def write_nifti(path: Path, hu: np.ndarray, grid: Grid, axes: str = "RAS") -> Path:
    """Write with the axes stored in any order and direction."""
    turn = nibabel.orientations.axcodes2ornt(axes)
    values = nibabel.orientations.apply_orientation(hu, turn)
    affine = grid.ras_affine @ nibabel.orientations.inv_ornt_aff(turn, hu.shape)
    image = nibabel.Nifti1Image(values.astype(np.int16), affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_with_itk(path: Path, hu: np.ndarray, grid: Grid) -> Path:
    """Write in the format of the name, with the axes as they are."""
    image = itk.image_from_array(np.ascontiguousarray(hu.T.astype(np.int16)))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.affine[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(grid.affine[:3, :3] / grid.spacing))
    path.parent.mkdir(parents=True, exist_ok=True)
    itk.imwrite(image, str(path))
    return path


def write_series(place: Path, hu: np.ndarray, grid: Grid, **changes: Any) -> list[Path]:
    """Write a volume as one CT image per slice along its last axis.

    Args:
        place: Folder to write to.
        hu: HU, shape ``(columns, rows, slices)``.
        grid: Its grid; the first two axes are orthogonal.
        changes: Attributes that every slice gets; ``None`` deletes one.
    """
    place.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    column, row, _ = (grid.affine[:3, i] / grid.spacing[i] for i in range(3))
    paths = []
    for k in range(hu.shape[2]):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = CT_IMAGE
        data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID = series
        data.StudyInstanceUID = series
        data.PatientID, data.PatientName = "SECRET-ID", "Doe^Jane"
        data.PatientBirthDate = "19610203"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.Modality = "CT"
        data.ImagePositionPatient = [
            f"{v:.6f}" for v in grid.affine[:3, 3] + k * grid.affine[:3, 2]
        ]
        data.ImageOrientationPatient = [f"{v:.8f}" for v in (*column, *row)]
        data.PixelSpacing = [grid.spacing[1], grid.spacing[0]]
        data.Rows, data.Columns = hu.shape[1], hu.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 0
        data.RescaleSlope, data.RescaleIntercept = 0.5, -2000
        stored = np.rint((hu[:, :, k].T + 2000) / 0.5).astype(np.uint16)
        data.PixelData = np.ascontiguousarray(stored).tobytes()
        for name, value in changes.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID or generate_uid()
        paths.append(place / f"{generate_uid()}.dcm")  # names say nothing about the order
        pydicom.dcmwrite(paths[-1], data, enforce_file_format=True)
    return paths


def crash_or_prepare(source: ScanSource, *arguments: Any) -> dict[str, Any]:
    """Prepare a scan, or die at once if its name says so; for child processes."""
    if "crash" in source.name:
        os._exit(1)
    return folder._prepare(source, *arguments)


def edit(path: Path, **changes: Any) -> None:
    """Change attributes of a DICOM file."""
    data = pydicom.dcmread(path)
    for name, value in changes.items():
        setattr(data, name, value)
    data.save_as(path)


def acquired(hu: np.ndarray, grid: Grid, axes: str) -> tuple[np.ndarray, Grid]:
    """The same volume with its axes in another order, as a scanner may store it."""
    turn = nibabel.orientations.axcodes2ornt(axes)
    values = nibabel.orientations.apply_orientation(hu, turn)
    ras = grid.ras_affine @ nibabel.orientations.inv_ornt_aff(turn, hu.shape)
    return values, Grid(values.shape, LPS_TO_RAS @ ras)
