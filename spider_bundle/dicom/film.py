"""Describe a film: everything that is ever asked of its header, from one parse.

A :class:`Film` holds plain validated values and neither a pydicom object nor pixels, so it can be
judged, grouped and paired by pure functions and may cross to another process. A value that is
malformed counts as absent here; :attr:`Film.faults` holds how it reads.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pydicom

from spider_bundle.dicom.ct_image import LOCALISER, CTImage, ct_image
from spider_bundle.dicom.header import (
    DX_FOR_PROCESSING,
    SOP_CLASSES,
    FilmStream,
    Header,
    Identifiers,
    NotDicomError,
    transfer_syntax,
)
from spider_bundle.dicom.identity import SourceIdentity, source_identity
from spider_bundle.dicom.lossy import LossyCompression, compression_of, is_lossy_syntax
from spider_bundle.logs import silent_pydicom

__all__ = ["EQUIPMENT", "Film", "NotDicomError", "Stamp", "describe"]

_DIRECTORY = "1.2.840.10008.1.3.10"

EQUIPMENT = (
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DetectorManufacturerName",
    "DetectorManufacturerModelName",
)
"""Equipment attributes of a film; none of them identifies a patient."""

_NUMBERS = {
    **dict.fromkeys(("ImagerPixelSpacing", "PixelSpacing"), 2),
    **dict.fromkeys(
        (
            *("DistanceSourceToDetector", "DistanceSourceToIsocenter", "DistanceSourceToPatient"),
            *("EstimatedRadiographicMagnificationFactor", "FieldOfViewRotation", "NumberOfFrames"),
            *("PositionerPrimaryAngle", "PositionerSecondaryAngle"),
        ),
        1,
    ),
}
"""Numbers of a film's geometry, and how many there must be."""

#: Clocks of two mounts of one file system differ by less, nanoseconds.
_CLOCK_NS = 1_000_000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Stamp:
    """A file as it was when its header was read.

    Attributes:
        size: Bytes.
        mtime_ns: Time of its last change before that.
        header_bytes: Number of bytes before the pixel data.
        header_sha256: Their SHA-256.
    """

    size: int
    mtime_ns: int
    header_bytes: int
    header_sha256: str

    @classmethod
    def of(cls, stream: io.BufferedReader, header_bytes: int) -> Stamp:
        """Return the stamp of an open file; its position does not change."""
        descriptor = stream.fileno()
        status = os.fstat(descriptor)
        digest, done = hashlib.sha256(), 0
        while chunk := os.pread(descriptor, min(_CHUNK, header_bytes - done), done):
            digest.update(chunk)
            done += len(chunk)
        return cls(status.st_size, status.st_mtime_ns, header_bytes, digest.hexdigest())

    def fits(self, stream: io.BufferedReader) -> bool:
        """Return whether an open file is still the one described; its position does not change."""
        now = Stamp.of(stream, self.header_bytes)
        moved = abs(now.mtime_ns - self.mtime_ns) >= _CLOCK_NS
        return not moved and (now.size, now.header_sha256) == (self.size, self.header_sha256)


@dataclass(frozen=True, repr=False)
class Film:
    """One parsed radiograph or other DICOM object; its repr hides all of it.

    Texts are upper case and empty if absent, numbers are finite. Angles are degrees, lengths mm.

    Attributes:
        path: Its file.
        stamp: By which an exchanged file is noticed.
        sop_class: SOPClassUID.
        is_directory: Whether it is a DICOMDIR.
        modality: Modality where it is one of the standard's codes, else ``unknown``.
        identifiers: For pairing only.
        identity: Patient, study and instance, if they were asked for.
        equipment: Values of :data:`EQUIPMENT`.
        instance_number: InstanceNumber.
        frames: NumberOfFrames.
        frame: Index of the frame that the values are of.
        rows: Rows.
        columns: Columns.
        samples_per_pixel: SamplesPerPixel.
        bits_allocated: BitsAllocated.
        positioner: PositionerType.
        photometric: PhotometricInterpretation.
        image_type: ImageType.
        derivations: Code values of DerivationCodeSequence.
        mask_operations: MaskOperation of each item of MaskSubtractionSequence.
        burned_in: BurnedInAnnotation.
        field_of_view_rotation: FieldOfViewRotation.
        is_flipped: Whether FieldOfViewHorizontalFlip is YES.
        body_parts: BodyPartExamined.
        regions: Code values of AnatomicRegionSequence.
        has_lossy_flag: Whether LossyImageCompression is 01.
        lossy: Lossy compression, its ratio empty if only the pixel data tell it.
        is_lossy_syntax: Whether the transfer syntax loses something.
        laterality: L or R, or empty.
        view_codes: (value, scheme) of each item of ViewCodeSequence.
        view_modifiers: Meanings of all view modifiers.
        has_eponym: Whether ProjectionEponymousNameCodeSequence names a projection.
        view_position: ViewPosition.
        orientation: PatientOrientation.
        angles: Primary and secondary positioner angle where they are relative to the patient.
        imager_spacing: ImagerPixelSpacing.
        pixel_spacing: PixelSpacing.
        calibration: PixelSpacingCalibrationType.
        sdd: DistanceSourceToDetector.
        source_to_isocentre: DistanceSourceToIsocenter.
        source_to_patient: DistanceSourceToPatient.
        magnification: EstimatedRadiographicMagnificationFactor.
        faults: What is wrong with attributes of :data:`_NUMBERS` that are present.
        ct: What a CT image says beyond that; None for any other object.
        others: The film with the values of the other frames that were asked for, by their index.
    """

    path: Path
    stamp: Stamp
    sop_class: str
    is_directory: bool
    modality: str
    identifiers: Identifiers
    identity: SourceIdentity | None
    equipment: Mapping[str, str]
    instance_number: float | None
    frames: int
    frame: int
    rows: int
    columns: int
    samples_per_pixel: float
    bits_allocated: float
    positioner: str
    photometric: str
    image_type: tuple[str, ...]
    derivations: tuple[str, ...]
    mask_operations: tuple[str, ...]
    burned_in: str
    field_of_view_rotation: float
    is_flipped: bool
    body_parts: tuple[str, ...]
    regions: tuple[str, ...]
    has_lossy_flag: bool
    lossy: LossyCompression | None
    is_lossy_syntax: bool
    laterality: str
    view_codes: tuple[tuple[str, str], ...]
    view_modifiers: tuple[str, ...]
    has_eponym: bool
    view_position: str
    orientation: tuple[str, ...]
    angles: tuple[float, float] | None
    imager_spacing: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    calibration: str
    sdd: float | None
    source_to_isocentre: float | None
    source_to_patient: float | None
    magnification: float | None
    faults: Mapping[str, str]
    ct: CTImage | None = None
    others: Mapping[int, Film] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Value of :data:`~.header.SOP_CLASSES`, a CT localiser, or empty for any other object."""
        if self.ct is not None:
            return LOCALISER if self.ct.is_localiser else ""
        return SOP_CLASSES.get(self.sop_class, "")

    @property
    def for_processing(self) -> bool:
        """Whether this is a DX FOR PROCESSING image (DICOM C.8.11.1.1.1)."""
        return self.sop_class == DX_FOR_PROCESSING

    @property
    def decoded_bytes(self) -> float:
        """Size of the pixels that the header declares."""
        bits = self.samples_per_pixel * self.bits_allocated
        return float(self.rows) * self.columns * self.frames * bits / 8

    def at(self, frame: int | None) -> Film:
        """Return the film with the values of another frame, which was described with it."""
        return self if frame is None else self.others.get(frame, self)

    def __repr__(self) -> str:
        return "Film(hidden)"


def describe(
    path: Path | str, *, frames: Collection[int] = (), keep_identity: bool = False
) -> Film:
    """Parse the header of a file, which is opened once.

    Args:
        path: The file.
        frames: Indices of frames that an override may choose; functional groups differ by frame.
        keep_identity: Whether to read the patient's and the study's identity too.

    Returns:
        The film; one that is no radiograph has an empty :attr:`Film.kind`.

    Raises:
        OSError: It cannot be opened.
        NotDicomError: E01, it is not a DICOM file.
        SpiderError: E01 or E02, it is a damaged or a deflated one.
    """
    with FilmStream(path) as stream:
        since = os.fstat(stream.fileno()).st_mtime_ns  # a change while it is parsed shows too
        dataset = stream.parse("radiograph", pixels=False)
        stamp = replace(Stamp.of(stream, stream.tell()), mtime_ns=since)
    with silent_pydicom():
        film, *others = [
            _film(Path(path), stamp, dataset, frame, keep_identity)
            for frame in (0, *sorted(set(frames) - {0}))
        ]
    return replace(film, others={other.frame: other for other in others})


def _film(
    path: Path, stamp: Stamp, dataset: pydicom.Dataset, frame: int, keep_identity: bool
) -> Film:
    header = Header(dataset, frame)
    syntax = transfer_syntax(dataset.file_meta)
    sop_class = header.text("SOPClassUID")
    modifiers = header.codes("ViewModifierCodeSequence")
    for item in header.items("ViewCodeSequence"):
        modifiers += Header(item).codes("ViewModifierCodeSequence")
    number, numbers, text, texts = header.number, header.numbers, header.text, header.texts
    return Film(
        path=path,
        stamp=stamp,
        sop_class=sop_class,
        is_directory=sop_class == _DIRECTORY or "DirectoryRecordSequence" in dataset,
        modality=header.modality,
        identifiers=header.identifiers(),
        identity=source_identity(header) if keep_identity else None,
        equipment={keyword: text(keyword) for keyword in EQUIPMENT},
        instance_number=number("InstanceNumber"),
        frames=header.frames,
        frame=frame,
        rows=int(number("Rows") or 0),
        columns=int(number("Columns") or 0),
        samples_per_pixel=number("SamplesPerPixel") or 0.0,
        bits_allocated=number("BitsAllocated") or 0.0,
        positioner=text("PositionerType"),
        photometric=text("PhotometricInterpretation"),
        image_type=texts("ImageType"),
        derivations=tuple(value for value, _, _ in header.codes("DerivationCodeSequence")),
        mask_operations=tuple(
            Header(item).text("MaskOperation") for item in header.items("MaskSubtractionSequence")
        ),
        burned_in=text("BurnedInAnnotation"),
        field_of_view_rotation=number("FieldOfViewRotation") or 0.0,
        is_flipped=text("FieldOfViewHorizontalFlip") == "YES",
        body_parts=texts("BodyPartExamined"),
        regions=tuple(value for value, _, _ in header.codes("AnatomicRegionSequence")),
        has_lossy_flag=text("LossyImageCompression") == "01",
        lossy=compression_of(header, syntax),
        is_lossy_syntax=is_lossy_syntax(syntax),
        laterality=header.laterality,
        view_codes=tuple((value, scheme) for value, scheme, _ in header.codes("ViewCodeSequence")),
        view_modifiers=tuple(meaning for _, _, meaning in modifiers),
        has_eponym=any(map(any, header.codes("ProjectionEponymousNameCodeSequence"))),
        view_position=text("ViewPosition"),
        orientation=texts("PatientOrientation"),
        angles=_positioner_angles(header, SOP_CLASSES.get(sop_class, "")),
        imager_spacing=numbers("ImagerPixelSpacing"),
        pixel_spacing=numbers("PixelSpacing"),
        calibration=text("PixelSpacingCalibrationType"),
        sdd=number("DistanceSourceToDetector"),
        source_to_isocentre=number("DistanceSourceToIsocenter"),
        source_to_patient=number("DistanceSourceToPatient"),
        magnification=number("EstimatedRadiographicMagnificationFactor"),
        faults={
            keyword: fault
            for keyword, count in _NUMBERS.items()
            if (fault := header.fault(keyword, count))
        },
        ct=ct_image(header),
    )


def _positioner_angles(header: Header, kind: str) -> tuple[float, float] | None:
    """Return primary and secondary angle where they are relative to the patient."""
    is_c_arm = kind == "DX" and header.text("PositionerType") == "CARM"
    if kind not in ("XA", "Enhanced XA", "Enhanced XRF") and not is_c_arm:
        return None
    primary = header.number("PositionerPrimaryAngle")
    if primary is None:
        return None
    angles = [primary, header.number("PositionerSecondaryAngle") or 0.0]
    for index, axis in enumerate(("Primary", "Secondary")):
        increments = header.numbers(f"Positioner{axis}AngleIncrement")
        # Increments are relative to the first frame (DICOM C.8.7.5).
        if len(increments) == header.frames and 0 <= header.frame < header.frames > 1:
            angles[index] += increments[header.frame]
    return (angles[0], angles[1]) if all(map(math.isfinite, angles)) else None
