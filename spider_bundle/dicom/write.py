"""Write synthetic radiographs as DICOM DX and CR objects, for the demonstration and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from spider_bundle.dicom.ct_image import CT_CLASSES, gantry_angle
from spider_bundle.dicom.header import DX_FOR_PROCESSING
from spider_bundle.dicom.view import rotation_from_nominal
from spider_bundle.geometry import (
    View,
    ViewPosition,
    beam_agreement,
    isocentric_view,
    orientation_vector,
)
from spider_bundle.slot_view import SlotView

CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
CT_IMAGE = CT_CLASSES[0]

#: Stored intensity of direct exposure relative to the largest stored value.
DIRECT_EXPOSURE = 0.95
#: Line integral at the largest stored value of a LOG image; a head reaches about 6.
LOG_RANGE = 10.0

_VIEW_CODES = {
    ViewPosition.PA: ("272479007", "postero-anterior"),
    ViewPosition.AP: ("399348003", "antero-posterior"),
    ViewPosition.LL: ("399173006", "left lateral"),
    ViewPosition.RL: ("399198007", "right lateral"),
}

# Manufacturer, further values of ImageType, ScanOptions.
_SCANNERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "Philips": ("Philips", (), "SURVIEW"),
    "GE": ("GE MEDICAL SYSTEMS", (), "SCOUT MODE"),
    "Canon": ("CANON_MEC", (), "SCANOSCOPE"),
    "Siemens": ("SIEMENS", ("CT_SOM5 TOP",), "TOPOGRAM"),
}

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class SyntheticIdentity:
    """Made-up identity of a synthetic examination; all UIDs derive from its name.

    Attributes:
        name: Anything that tells synthetic examinations apart.
        acquired: When it is said to have been taken.
    """

    name: str
    acquired: datetime = datetime(2000, 1, 1, 12, 0, 0)

    def uid(self, *parts: str) -> str:
        """Return a UID that is always the same for the same name and parts."""
        return str(generate_uid(entropy_srcs=["spider synthetic", self.name, *parts]))


def log_scale(bits: int = 16) -> float:
    """Return stored values per unit of line integral of the LOG images written here."""
    return (2**bits - 1) / LOG_RANGE


def reorient(
    image: npt.NDArray[Scalar], view: View, orientation: tuple[str, str]
) -> tuple[npt.NDArray[Scalar], View]:
    """Turn or mirror an image so that it has another PatientOrientation.

    Args:
        image: Shape ``view.shape``.
        view: Its geometry.
        orientation: Directions of increasing column and of increasing row wanted.

    Raises:
        ValueError: The orientation is not one of the eight that fit the view.
    """
    columns, rows = (orientation_vector(letters) for letters in orientation)
    if abs(columns @ view.column_vector) < abs(columns @ view.row_vector):
        image, view = image.T, view.transposed()
    if columns @ view.column_vector < 0:
        image, view = image[:, ::-1], view.flipped(columns=True)
    if rows @ view.row_vector < 0:
        image, view = image[::-1], view.flipped(rows=True)
    if min(columns @ view.column_vector, rows @ view.row_vector) < 0.7:
        raise ValueError(f"orientation {orientation} does not fit the view")
    return image, view


def write_dx(
    path: Path | str,
    line_integrals: npt.NDArray[np.floating],
    view: View,
    position: ViewPosition,
    identity: SyntheticIdentity,
    *,
    for_processing: bool = True,
    relationship: str = "LIN",
    sign: int = 1,
    photometric: str | None = None,
    bits: int = 16,
    positioner_angles: tuple[float, float] | None = None,
    instance_number: int = 1,
) -> None:
    """Write a DX image (DICOM PS3.3 A.26).

    Args:
        path: File to write.
        line_integrals: Shape ``view.shape``, 0 in air.
        view: Geometry; its central ray must meet the isocentre and the middle of the array.
        position: Nominal view.
        identity: Made-up identity; both radiographs of an examination share it.
        for_processing: FOR PROCESSING, else FOR PRESENTATION.
        relationship: ``LIN`` or ``LOG``.
        sign: +1 if high stored values mean much radiation, -1 if they mean dense tissue.
        photometric: MONOCHROME1 or MONOCHROME2; that which shows bones white if not given.
        bits: Bits stored, up to 16.
        positioner_angles: Primary and secondary angle of a view that deviates from the nominal
            one, degrees.
        instance_number: InstanceNumber.

    Raises:
        ValueError: The view cannot be expressed in DICOM, or an argument is not allowed.
    """
    stored = stored_values(line_integrals, relationship, sign, bits)
    shown = photometric or ("MONOCHROME1" if sign == 1 else "MONOCHROME2")
    sop_class = DX_FOR_PROCESSING if for_processing else DX_FOR_PRESENTATION
    dataset = _image(stored, bits, shown, sop_class, "DX", position, identity, instance_number)
    letters = _letters(view, position, positioner_angles)
    dataset.PresentationIntentType = "FOR PROCESSING" if for_processing else "FOR PRESENTATION"
    dataset.PatientOrientation = list(letters)
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = [_code("89546000", "Skull")]
    dataset.AcquisitionContextSequence = []
    dataset.ViewCodeSequence = [_code(*_VIEW_CODES[position])]
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = []
    dataset.DetectorType = "DIRECT"
    dataset.PositionerType = "NONE" if positioner_angles is None else "CARM"
    if positioner_angles is not None:
        dataset.PositionerPrimaryAngle, dataset.PositionerSecondaryAngle = (
            _decimal(angle) for angle in positioner_angles
        )
    dataset.PixelIntensityRelationship = relationship
    dataset.PixelIntensityRelationshipSign = sign
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "INVERSE" if shown == "MONOCHROME1" else "IDENTITY"
    dataset.LossyImageCompression = "00"
    if not for_processing:
        dataset.WindowCenter = _decimal(2 ** (bits - 1))
        dataset.WindowWidth = _decimal(2**bits)
    dataset.EstimatedRadiographicMagnificationFactor = _decimal(view.magnification)
    _add_geometry(dataset, view)
    save_dataset(path, dataset)


def write_cr(
    path: Path | str,
    line_integrals: npt.NDArray[np.floating],
    view: View,
    position: ViewPosition,
    identity: SyntheticIdentity,
    *,
    photometric: str = "MONOCHROME1",
    bits: int = 12,
    instance_number: int = 1,
) -> None:
    """Write a CR image (DICOM PS3.3 A.2); see :func:`write_dx` for the arguments.

    The stored values grow with the logarithm of the exposure in MONOCHROME1 and fall with it in
    MONOCHROME2, so both show bones white.

    Raises:
        ValueError: The view cannot be expressed in DICOM.
    """
    sign = 1 if photometric == "MONOCHROME1" else -1
    stored = stored_values(line_integrals, "LOG", sign, bits)
    dataset = _image(stored, bits, photometric, CR_IMAGE, "CR", position, identity, instance_number)
    dataset.PatientOrientation = list(_letters(view, position, None))
    # For CR this is the distance to the isocentre or the middle of the field of view.
    dataset.DistanceSourceToPatient = _decimal(view.sod)
    _add_geometry(dataset, view)
    save_dataset(path, dataset)


def write_localiser(
    path: Path | str,
    line_integrals: npt.NDArray[np.floating],
    view: SlotView,
    position: ViewPosition,
    identity: SyntheticIdentity,
    *,
    sod: float,
    scanner: str = "Philips",
    patient_position: str = "HFS",
    instance_number: int = 1,
) -> None:
    """Write a localiser (CT Image, DICOM PS3.3 A.3); see :func:`write_dx` for the arguments.

    Args:
        path: File to write.
        line_integrals: Shape ``view.shape``, 0 in air.
        view: Geometry in the scanner's frame.
        position: Its view.
        identity: Made-up identity; all images of an examination share it and its frame.
        sod: Distance from the source to the axis of the gantry, mm.
        scanner: ``Philips``, which states AngularPosition; ``GE``, which states a private azimuth;
            ``Canon``, which states TubeAngle; or ``Siemens``, which states no angle.
        patient_position: PatientPosition; as the tube stood for it.
        instance_number: InstanceNumber.
    """
    manufacturer, words, options = _SCANNERS[scanner]
    stored = np.clip(np.rint(24 + 400 * line_integrals), 0, 4095).astype(np.uint16)
    part = ("MONOCHROME2", CT_IMAGE, "CT", position, identity, instance_number)
    dataset = _image(stored, 12, *part)
    del dataset.ViewPosition, dataset.BurnedInAnnotation
    dataset.BodyPartExamined = "HEAD"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER", *words]
    dataset.Manufacturer, dataset.ScanOptions = manufacturer, options
    dataset.PatientPosition, dataset.GantryDetectorTilt = patient_position, "0"
    dataset.FrameOfReferenceUID = identity.uid("frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.RescaleIntercept, dataset.RescaleSlope = "-1024", "1"
    dataset.DistanceSourceToDetector = _decimal(view.sdd)
    dataset.DistanceSourceToPatient = _decimal(sod)
    scale = sod / view.sdd
    axis = view.source + sod * position.beam
    aside = (view.centre - axis) @ view.column_vector * scale
    rows, columns = view.shape
    pitch = view.spacing[1] * scale
    corner = (
        axis
        + (aside - (columns - 1) / 2 * pitch) * view.column_vector
        - (rows - 1) / 2 * view.spacing[0] * view.row_vector
    )
    dataset.ImagePositionPatient = [_decimal(v) for v in corner]
    both = (*view.column_vector, *view.row_vector)
    dataset.ImageOrientationPatient = [_decimal(v) for v in both]
    dataset.PixelSpacing = [_decimal(view.spacing[0]), _decimal(pitch)]
    dataset.DataCollectionDiameter = _decimal(columns * pitch)
    _add_tube(dataset, scanner, gantry_angle(position, patient_position))
    save_dataset(path, dataset)


def _add_tube(dataset: Dataset, scanner: str, angle: float) -> None:
    """State the angle of the tube, degrees, as the makes do."""
    if scanner == "Philips":
        dataset.AngularPosition = _decimal(angle)
    elif scanner == "GE":
        block = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x26, "SL", round(angle))
    elif scanner == "Canon":
        dataset.TubeAngle = angle


def stored_values(
    line_integrals: npt.NDArray[np.floating], relationship: str, sign: int, bits: int
) -> npt.NDArray[np.uint16]:
    """Quantise line integrals as a detector would.

    Args:
        line_integrals: Any shape.
        relationship: ``LIN`` or ``LOG``.
        sign: PixelIntensityRelationshipSign, +1 or -1.
        bits: Bits stored.

    Raises:
        ValueError: An argument is not allowed.
    """
    if relationship not in ("LIN", "LOG") or sign not in (1, -1) or not 8 <= bits <= 16:
        raise ValueError(f"cannot store {relationship} with sign {sign} in {bits} bits")
    largest = 2**bits - 1
    if relationship == "LIN":
        values = DIRECT_EXPOSURE * largest * np.exp(-line_integrals.astype(np.float64))
        inverted = sign == -1
    else:
        # Half a unit of line integral below air leaves room for noise.
        values = (line_integrals.astype(np.float64) + 0.05 * LOG_RANGE) * log_scale(bits)
        inverted = sign == 1
    if inverted:
        values = largest - values
    return np.clip(np.rint(values), 0, largest).astype(np.uint16)


def _letters(
    view: View, position: ViewPosition, angles: tuple[float, float] | None
) -> tuple[str, str]:
    """PatientOrientation of a view, after checking that DICOM can express the view.

    Raises:
        ValueError: It cannot.
    """
    rotation = None if angles is None else rotation_from_nominal(position, angles)
    first, second = (
        max("LRPAHF", key=lambda letter: float(orientation_vector(letter) @ vector))
        for vector in (view.column_vector, view.row_vector)
    )
    if beam_agreement((first, second), position) != 0:
        expressed = isocentric_view(
            position,
            sod=view.sod,
            sdd=view.sdd,
            spacing=view.spacing,
            shape=view.shape,
            orientation=(first, second),
            rotation=rotation,
        )
        if np.allclose(expressed.matrix, view.matrix, rtol=1e-6, atol=1e-6):
            return first, second
    raise ValueError(f"this view cannot be written as {position.value} with angles {angles}")


def _image(
    stored: npt.NDArray[np.uint16],
    bits: int,
    photometric: str,
    sop_class: str,
    modality: str,
    position: ViewPosition,
    identity: SyntheticIdentity,
    instance_number: int,
) -> FileDataset:
    """Make a data set with patient, study, series, equipment and pixel modules."""
    part = f"{modality} {position.value} {instance_number}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = identity.uid("instance", part)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientName = "Synthetic^Head"
    dataset.PatientID = f"SYN{identity.uid('patient')[-8:]}"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.StudyInstanceUID = identity.uid("study")
    dataset.SeriesInstanceUID = identity.uid("series", part)
    date, time = identity.acquired.strftime("%Y%m%d"), identity.acquired.strftime("%H%M%S")
    dataset.StudyDate = dataset.SeriesDate = date
    dataset.AcquisitionDate = dataset.ContentDate = date
    dataset.StudyTime = dataset.SeriesTime = time
    dataset.AcquisitionTime = dataset.ContentTime = time
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.SeriesNumber, dataset.InstanceNumber = 1, instance_number
    dataset.Modality, dataset.Manufacturer = modality, "SPIDER bundle (synthetic)"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""] if modality == "DX" else ["DERIVED", "PRIMARY"]
    dataset.BodyPartExamined, dataset.ViewPosition = "SKULL", position.value
    dataset.BurnedInAnnotation = "NO"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _add_geometry(dataset: Dataset, view: View) -> None:
    dataset.DistanceSourceToDetector = _decimal(view.sdd)
    dataset.ImagerPixelSpacing = [_decimal(pitch) for pitch in view.spacing]


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _decimal(value: float) -> str:
    """Return a number as a DICOM decimal string, which holds 16 characters."""
    return f"{value:.9g}"


def save_dataset(path: Path | str, dataset: FileDataset) -> None:
    """Write a conformant Explicit VR Little Endian file with pydicom 2.4 or 3."""
    if int(pydicom.__version__.split(".")[0]) >= 3:
        dataset.save_as(path, enforce_file_format=True)
    else:
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        dataset.save_as(path, write_like_original=False)
