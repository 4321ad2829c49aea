"""The label map as a DICOM Segmentation on the derived CT series (DICOM PS3.3 A.51).

BINARY, one segment for each label. The segments refer to the CT series and never to the
radiographs, whose pixels they do not share. highdicom, which needs pydicom 3, is imported only when
a segmentation is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from spider_bundle import __version__
from spider_bundle.dicom.write import save_dataset
from spider_bundle.files import atomic_path
from spider_bundle.geometry import Grid
from spider_bundle.labels import LABEL_COLOURS, LABEL_NAMES, Label
from spider_bundle.logs import silenced, silent_pydicom
from spider_bundle.outputs.dicom_ct import (
    MANUFACTURER,
    NOTICE,
    SEGMENTATION_SERIES_NUMBER,
    DicomIdentity,
    axial_volume,
    derived_uid,
    describe_patient,
    describe_result,
    encoded,
)
from spider_bundle.outputs.optional_dependencies import require_extra


@dataclass(frozen=True)
class SegmentCode:
    """SNOMED CT concepts of a segment, each as (code, meaning)."""

    category: tuple[str, str]
    kind: tuple[str, str]


_STRUCTURE = ("91723000", "Anatomical Structure")

SEGMENT_CODES: Mapping[Label, SegmentCode] = {
    Label.SOFT_TISSUE: SegmentCode(("85756007", "Tissue"), ("87784001", "Soft tissue")),
    Label.BONE: SegmentCode(_STRUCTURE, ("272673000", "Bone")),
    Label.INTRACRANIAL: SegmentCode(_STRUCTURE, ("128319008", "Intracranial structure")),
    Label.INTERNAL_AIR: SegmentCode(("91720002", "Body Substance"), ("15158005", "Air")),
    Label.MANDIBLE: SegmentCode(_STRUCTURE, ("91609006", "Mandible")),
}
"""Segments in the order of their numbers, which are the label values."""

_ACQUISITION_EQUIPMENT = "109101"
#: ContentDate and ContentTime are required; without a study date they say nothing true.
_NO_DATE, _NO_TIME = "19000101", "000000"
#: Stands for UIDs until there is something to make them from.
_LATER = derived_uid("later")


def write_segmentation(
    path: str | os.PathLike[str],
    labels: npt.NDArray[Any],
    grid: Grid,
    ct_files: Sequence[str | os.PathLike[str]],
    identity: DicomIdentity,
) -> None:
    """Write a label map as a DICOM Segmentation; equal labels on equal CTs give equal bytes.

    Args:
        path: File to write, atomically.
        labels: Values of :class:`~spider_bundle.labels.Label`, shape ``(X, Y, Z)``.
        grid: Its grid (LPS mm), that of the CT.
        ct_files: Files of the CT series, as
            :func:`~spider_bundle.outputs.dicom_ct.write_ct_series` returned them.
        identity: Patient and study, those of the CT series.

    Raises:
        SpiderError: R03, highdicom is not installed.
        ValueError: The shape is not the grid's, the CT has other slices, or a value is no label.
        OSError: A file cannot be read or written.
    """
    require_extra("dicom")
    import highdicom
    from highdicom.color import CIELabColor
    from pydicom.sr.coding import Code

    if not np.isin(labels, list(Label)).all():
        raise ValueError("labels hold values that are no label")
    slices = axial_volume(labels.astype(np.uint8), grid).slices
    sources = [_source(file) for file in ct_files]
    if len(sources) != len(slices):
        raise ValueError(f"{len(slices)} slices of labels on a CT of {len(sources)}")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="SPIDER",
        version=__version__,
        family=Code("123110", "DCM", "Artificial Intelligence"),
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=label.value,
            segment_label=LABEL_NAMES[label],
            segmented_property_category=Code(code.category[0], "SCT", code.category[1]),
            segmented_property_type=Code(code.kind[0], "SCT", code.kind[1]),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=CIELabColor.from_rgb(*LABEL_COLOURS[label]),
        )
        for label, code in SEGMENT_CODES.items()
    ]
    with silenced("highdicom"), silent_pydicom():  # their records quote UIDs
        segmentation = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=slices,
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=_LATER,
            series_number=SEGMENTATION_SERIES_NUMBER,
            sop_instance_uid=_LATER,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name="SPIDER",
            software_versions=__version__,
            device_serial_number=(identity.weights_sha256 or "none")[:16],
            content_label="SPIDER",
            content_description=NOTICE,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_date=_NO_DATE,
            content_time=_NO_TIME,
        )
    describe_patient(segmentation, identity)
    describe_result(segmentation, identity, "Segmentation")
    _remove_chance(segmentation)
    _name(segmentation, identity.study_key)
    with atomic_path(path) as temporary:
        save_dataset(temporary, segmentation)


def _source(path: str | os.PathLike[str]) -> Dataset:
    """Header of a CT slice without the patient, whom highdicom could name in a log."""
    dataset = pydicom.dcmread(Path(path), stop_before_pixels=True)
    describe_patient(dataset, DicomIdentity("none"))
    return dataset


def _remove_chance(segmentation: Dataset) -> None:
    """Replace what highdicom takes from the clock and from chance."""
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        delattr(segmentation, keyword)
    if segmentation.StudyDate:
        segmentation.ContentDate = segmentation.StudyDate
        segmentation.ContentTime = segmentation.StudyTime or _NO_TIME
    # what remains names highdicom; it took the derived CT for a scanner's, which it is not
    segmentation.ContributingEquipmentSequence = [
        item
        for item in segmentation.ContributingEquipmentSequence
        if item.PurposeOfReferenceCodeSequence[0].CodeValue != _ACQUISITION_EQUIPMENT
    ]
    for item in segmentation.ContributingEquipmentSequence:
        item.pop("ContributionDateTime", None)
    _set_dimension_organization(segmentation, _LATER)


def _name(segmentation: Dataset, study_key: str) -> None:
    """Set the segmentation's own UIDs, made from all that it holds."""
    seed = derived_uid(study_key, encoded(segmentation))
    segmentation.SeriesInstanceUID = derived_uid(seed, "series")
    segmentation.SOPInstanceUID = derived_uid(seed, "instance")
    segmentation.file_meta.MediaStorageSOPInstanceUID = segmentation.SOPInstanceUID
    _set_dimension_organization(segmentation, derived_uid(seed, "dimensions"))


def _set_dimension_organization(segmentation: Dataset, uid: str) -> None:
    for sequence in (
        segmentation.DimensionOrganizationSequence,
        segmentation.DimensionIndexSequence,
    ):
        for item in sequence:
            item.DimensionOrganizationUID = uid
