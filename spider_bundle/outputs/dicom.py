"""The DICOM results of a study and where they are in its folder."""

from __future__ import annotations

from pathlib import Path

from spider_bundle.outputs.dicom_ct import write_ct_series
from spider_bundle.outputs.dicom_seg import write_segmentation
from spider_bundle.outputs.result import StudyResult

DICOM_CT_FOLDER = "dicom/ct"
DICOM_SEGMENTATION_FILE = "dicom/seg.dcm"


def write_dicom(folder: Path, study: StudyResult) -> None:
    """Write the CT series and the segmentation on it.

    Args:
        folder: The study's folder.
        study: The study.

    Raises:
        MissingExtraError: R03, highdicom is not installed.
        ValueError: DICOM cannot express this study.
        OSError: A file cannot be written.
    """
    ct_files = write_ct_series(
        folder / DICOM_CT_FOLDER, study.hu, study.grid, study.identity, study.lossy
    )
    write_segmentation(
        folder / DICOM_SEGMENTATION_FILE, study.labels, study.grid, ct_files, study.identity
    )
