"""The reconstruction as a DICOM CT series (CT Image Storage, DICOM PS3.3 A.3).

Equal volumes of a study give equal files: no clock and no random number is involved, and every new
UID is the UUID form (PS3.5 B.2) of a hash of the study key and of all that the objects hold:
patient, study, references, version, grid and voxels. A repeated run writes the same objects, and
objects that differ in anything never share a UID. Only the StudyInstanceUID of a pseudonymous study
is made from the study key alone: it holds all results of the study.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from spider_bundle import __version__
from spider_bundle.dicom.identity import SourceIdentity
from spider_bundle.dicom.lossy import LossyCompression
from spider_bundle.dicom.write import save_dataset
from spider_bundle.geometry import FloatArray, Grid
from spider_bundle.outputs.nifti import stored_hu
from spider_bundle.outputs.preview import DISPLAY_WINDOW

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"

NOTICE = "RESEARCH USE ONLY - NOT FOR DIAGNOSTIC USE"
MANUFACTURER = "SPIDER bundle"
CT_SERIES_NUMBER = 9001
SEGMENTATION_SERIES_NUMBER = 9002
"""High, so that they do not collide with those of a radiography system."""

_ORTHOGONAL = 1e-4


@dataclass(frozen=True)
class DicomIdentity:
    """Whose results these are.

    Attributes:
        study_key: Keyed hash of the study; names the pseudonymous patient and study.
        source: Patient, study and radiographs, if the operator keeps the identity; otherwise the
            objects belong to a new patient and a new study and name nothing of the old ones.
        weights_sha256: Hash of the weights, for the derivation description.
        in_scanner_frame: Whether the results lie in the frame of reference of the source, which
            is kept with the identity and otherwise one of the study's own.
    """

    study_key: str
    source: SourceIdentity | None = None
    weights_sha256: str | None = None
    in_scanner_frame: bool = False


class AxialVolume(NamedTuple):
    """A volume as axial slices.

    Attributes:
        slices: Values, shape ``(slices, rows, columns)``; columns run towards the patient's left,
            rows towards posterior and slices towards the head, as nearly as the grid's axes do.
        affine: Index ``(column, row, slice)`` to LPS mm, shape ``(4, 4)``.
    """

    slices: npt.NDArray[Any]
    affine: FloatArray

    @property
    def spacing(self) -> FloatArray:
        """Distance of columns, rows and slices in mm, shape ``(3,)``."""
        lengths: FloatArray = np.linalg.norm(self.affine[:3, :3], axis=0)
        return lengths

    @property
    def orientation(self) -> FloatArray:
        """Unit vectors of columns, rows and slices as columns, LPS, shape ``(3, 3)``."""
        return self.affine[:3, :3] / self.spacing


def axial_volume(values: npt.NDArray[Any], grid: Grid) -> AxialVolume:
    """Turn a volume into axial slices without interpolation.

    Args:
        values: Shape ``(X, Y, Z)``.
        grid: Its grid (LPS mm).

    Raises:
        ValueError: The shape is not the grid's, or the grid's axes are not at right angles.
    """
    if values.shape != grid.shape:
        raise ValueError(f"volume of shape {values.shape} on a grid of shape {grid.shape}")
    turn = nibabel.orientations.io_orientation(grid.affine)
    turned = nibabel.orientations.apply_orientation(values, turn)
    affine = grid.affine @ nibabel.orientations.inv_ornt_aff(turn, values.shape)
    volume = AxialVolume(np.ascontiguousarray(turned.T), affine)
    product = volume.orientation.T @ volume.orientation
    if not np.allclose(product, np.eye(3), atol=_ORTHOGONAL):
        raise ValueError("DICOM needs a grid with axes at right angles")
    return volume


def derived_uid(*parts: str | bytes) -> str:
    """UID of the UUID form ``2.25.`` made from a hash of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"


def encoded(dataset: Dataset) -> bytes:
    """Return a data set in Explicit VR Little Endian, to hash what it holds."""
    buffer = BytesIO()
    stream = DicomFileLike(buffer)
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset)
    return buffer.getvalue()


def write_ct_series(
    folder: str | os.PathLike[str],
    hu: npt.NDArray[Any],
    grid: Grid,
    identity: DicomIdentity,
    lossy: LossyCompression | None = None,
) -> list[Path]:
    """Write HU as a DICOM CT series, one file for each slice, the lowest slice first.

    Args:
        folder: Folder for the files ``0001.dcm``, ...; created if absent. The caller lets it appear
            as a whole.
        hu: HU, shape ``(X, Y, Z)``; stored as in the NIfTI file.
        grid: Its grid (LPS mm).
        identity: Patient and study.
        lossy: Lossy compression that the radiographs went through, if any.

    Returns:
        The files, in the order of the slices.

    Raises:
        ValueError: The shape is not the grid's, its axes are not at right angles, or a value is not
            finite.
        OSError: A file cannot be written.
    """
    volume = axial_volume(stored_hu(hu).astype("<i2"), grid)
    headers = [
        _header(number, volume, identity, lossy) for number in range(1, len(volume.slices) + 1)
    ]
    seed = derived_uid(identity.study_key, *map(encoded, headers), volume.slices.tobytes())
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for header, pixels in zip(headers, volume.slices, strict=True):
        paths.append(target / f"{header.InstanceNumber:04d}.dcm")
        save_dataset(paths[-1], _slice(header, pixels, seed))
    return paths


def describe_patient(dataset: Dataset, identity: DicomIdentity) -> None:
    """Set the Patient and General Study modules (DICOM C.7.1.1, C.7.2.1).

    A pseudonymous patient has the study key for name and ID, and no dates.
    """
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod"):
        dataset.pop(keyword, None)  # a segmentation has those of the source it was made with
    empty = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")
    for keyword in (*empty, "ReferringPhysicianName", "StudyID", "AccessionNumber"):
        setattr(dataset, keyword, "")
    dataset.PatientID = identity.study_key
    dataset.PatientName = f"{identity.study_key}^"  # the caret marks a name of one component
    dataset.StudyInstanceUID = derived_uid(identity.study_key, "study")
    if identity.source is None:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "New object; name and ID are a keyed hash of the study"
        return
    dataset.PatientName = dataset.PatientID = ""
    for keyword, value in identity.source.attributes.items():
        setattr(dataset, keyword, value)


def describe_result(dataset: Dataset, identity: DicomIdentity, what: str) -> None:
    """Say in every place that survives somewhere what this object is and is not for.

    De-identification (PS3.15) removes descriptions and comments; ImageType and ContentQualification
    stay.

    Args:
        dataset: The object.
        identity: Patient and study.
        what: What it holds, for SeriesDescription.
    """
    dataset.SeriesDescription = f"SPIDER {what}, {NOTICE}"
    dataset.ImageComments = NOTICE
    dataset.ContentQualification = "RESEARCH"
    weights = f", weights SHA-256 {identity.weights_sha256}" if identity.weights_sha256 else ""
    dataset.DerivationDescription = (
        f"{what} estimated from two radiographs by a neural network (spider-bundle {__version__}"
        f"{weights}). {NOTICE}."
    )
    dataset.BurnedInAnnotation = "NO"
    # a head surface can be recognised, also one that was reconstructed
    dataset.RecognizableVisualFeatures = "YES"
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = "SPIDER"
    dataset.SoftwareVersions = __version__


def decimal(value: float) -> str:
    """Return a number as a DICOM decimal string, which holds 16 characters."""
    return f"{value + 0.0:.9g}"


def decimals(values: Sequence[float] | FloatArray) -> list[str]:
    """Numbers as DICOM decimal strings; noise around zero is written as 0."""
    return [decimal(round(float(value), 9)) for value in values]


def _header(
    number: int, volume: AxialVolume, identity: DicomIdentity, lossy: LossyCompression | None
) -> Dataset:
    """All of a slice but its pixels and the UIDs that are made from what the series holds."""
    dataset = Dataset()
    describe_patient(dataset, identity)
    describe_result(dataset, identity, "CT")
    dataset.SOPClassUID = CT_IMAGE_STORAGE
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    dataset.Modality = "CT"
    dataset.SeriesNumber, dataset.InstanceNumber = CT_SERIES_NUMBER, number
    dataset.BodyPartExamined = "HEAD"
    dataset.PatientPosition = "HFS"
    dataset.PositionReferenceIndicator = ""
    if identity.in_scanner_frame:
        kept = identity.source.frame_of_reference if identity.source else ""
        own = derived_uid(identity.study_key, "frame of reference")
        dataset.FrameOfReferenceUID = kept or own
    dataset.AcquisitionNumber = None
    dataset.KVP = None
    if identity.source is not None and identity.source.references:
        dataset.SourceImageSequence = [
            _reference(sop_class, instance) for sop_class, instance in identity.source.references
        ]
    column, row, between = volume.spacing
    dataset.PixelSpacing = decimals([row, column])
    dataset.SliceThickness = dataset.SpacingBetweenSlices = decimals([between])[0]
    dataset.ImageOrientationPatient = decimals(volume.orientation[:, :2].T.ravel())
    position = volume.affine @ [0.0, 0.0, number - 1.0, 1.0]
    dataset.ImagePositionPatient = decimals(position[:3])
    dataset.SliceLocation = decimals([float(volume.orientation[:, 2] @ position[:3])])[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = volume.slices.shape[1:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "HU"
    low, high = DISPLAY_WINDOW
    dataset.WindowCenter, dataset.WindowWidth = decimals([(low + high) / 2, high - low])
    # not reset in what is derived from an image that was compressed with loss (C.7.6.1.1.5)
    dataset.LossyImageCompression = "00" if lossy is None else "01"
    if lossy is not None and lossy.ratios:
        dataset.LossyImageCompressionRatio = [decimal(ratio) for ratio in lossy.ratios]
    if lossy is not None and lossy.methods:
        dataset.LossyImageCompressionMethod = list(lossy.methods)
    return dataset


def _slice(header: Dataset, pixels: npt.NDArray[np.int16], seed: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_IMAGE_STORAGE
    meta.MediaStorageSOPInstanceUID = derived_uid(seed, "instance", str(header.InstanceNumber))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", header, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID = derived_uid(seed, "series")
    if "FrameOfReferenceUID" not in dataset:
        # of this series alone: nothing says that two reconstructions place the head alike
        dataset.FrameOfReferenceUID = derived_uid(seed, "frame of reference")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _reference(sop_class: str, instance: str) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
