"""One table of faults in a film's header: what is changed, and which finding comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.pair import describe_pair
from spider_bundle.errors import SpiderError
from tests.films import read_pair

from .conftest import Writer

CT, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
NO_VIEW = {"ViewPosition": None, "ViewCodeSequence": None}
PIXELS = {"E02", "E15", "E16", "E18", "E24"}
"""Codes that only the pixel data tell, or reading them."""


@dataclass(frozen=True)
class Fault:
    """A change to one film of a sound pair.

    Attributes:
        codes: What is found: codes with ``!`` for an error and ``?`` for a warning.
        film: The film that is changed.
        changes: Attributes to set or, None, to delete.
        edit: Further changes to its data set.
        role: Role that the findings carry; that of the film if empty.
        overrides: What the operator states.
        cr: Whether the film is a CR image instead of a DX image.
    """

    codes: str
    film: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    edit: Callable[[Dataset], None] | None = None
    role: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    cr: bool = False

    @property
    def found(self) -> set[tuple[str, str, str]]:
        severities = {"!": "error", "?": "warning"}
        role = self.role or self.film
        return {(code[:-1], severities[code[-1]], role) for code in self.codes.split()}


def short_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:1000]


def unknown_syntax(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = "1.2.3.4.5.6"


def two_frames(dataset: Dataset) -> None:
    dataset.NumberOfFrames = 2
    dataset.PixelData = dataset.PixelData * 2


def constant(dataset: Dataset) -> None:
    dataset.PixelData = b"\x01\x00" * (len(dataset.PixelData) // 2)


def towne(dataset: Dataset) -> None:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99TEST", "Towne"
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = [item]


FAULTS = {
    "CT": Fault("E01!", "frontal", {"SOPClassUID": CT}),
    "secondary capture": Fault("E01!", "lateral", {"SOPClassUID": SECONDARY_CAPTURE}),
    "short pixel data": Fault("E02!", "lateral", edit=short_pixels),
    "unknown transfer syntax": Fault("E02!", "frontal", edit=unknown_syntax),
    "RGB": Fault("E03!", "frontal", {"PhotometricInterpretation": "RGB"}),
    "three samples": Fault("E03!", "lateral", {"SamplesPerPixel": 3}),
    "two frames": Fault("E04!", "frontal", edit=two_frames),
    "no such frame": Fault("E04!", "frontal", edit=two_frames, overrides={"frontal": {"frame": 2}}),
    "subtracted": Fault("E04!", "lateral", {"ImageType": ["DERIVED", "PRIMARY", "SUBTRACTED"]}),
    "patient": Fault("E05!", "lateral", {"PatientID": "X"}, role="pair"),
    "study": Fault("E05!", "lateral", {"StudyInstanceUID": "1.2.3"}, role="pair"),
    "no time": Fault(
        "E07?", "lateral", {"AcquisitionTime": None, "ContentTime": None}, role="pair"
    ),
    "another day": Fault("E07!", "lateral", {"AcquisitionDate": "20000102"}, role="pair"),
    "no view": Fault("E08!", "frontal", NO_VIEW),
    "view that was stated": Fault("", "frontal", NO_VIEW, overrides={"frontal": {"view": "AP"}}),
    "side of the view": Fault("E08!", "lateral", {**NO_VIEW, "ViewPosition": "LATERAL"}),
    "oblique view": Fault("E08!", "frontal", {**NO_VIEW, "ViewPosition": "LLO"}),
    "oblique angle": Fault(
        "E08!",
        "frontal",
        {**NO_VIEW, "PositionerType": "CARM", "PositionerPrimaryAngle": "-32"},
    ),
    "modifier of the view": Fault("E08!", "frontal", edit=towne),
    "orientation of the other view": Fault("E09!", "lateral", {"PatientOrientation": ["L", "F"]}),
    "orientation along one axis": Fault("E09!", "lateral", {"PatientOrientation": ["F", "F"]}),
    "no orientation": Fault("E10!", "frontal", {"PatientOrientation": None}),
    "no such direction": Fault("E10!", "lateral", {"PatientOrientation": ["X", "F"]}),
    "no source distance": Fault("E11! E14!", "frontal", {"DistanceSourceToDetector": None}),
    "source distance in cm": Fault("E11! E14!", "frontal", {"DistanceSourceToDetector": "115"}),
    "source distance with a sign": Fault("", "frontal", {"DistanceSourceToDetector": "+1200.0"}),
    "no pitch": Fault("E12!", "lateral", {"ImagerPixelSpacing": None}),
    "PixelSpacing alone": Fault(
        "E12!", "lateral", {"ImagerPixelSpacing": None, "PixelSpacing": ["0.2", "0.2"]}
    ),
    "pitch of zero": Fault("E12!", "frontal", {"ImagerPixelSpacing": ["0", "0"]}),
    "long pixels": Fault("E12!", "frontal", {"ImagerPixelSpacing": ["1.8", "1.85"]}),
    "huge pixels": Fault("E12!", "frontal", {"ImagerPixelSpacing": ["2.1", "2.1"]}),
    "two pitches": Fault("E13?", "frontal", {"PixelSpacing": ["1.5", "1.5"]}),
    "no magnification": Fault(
        "E14!", "lateral", {"EstimatedRadiographicMagnificationFactor": None}
    ),
    "isocentre behind the detector": Fault(
        "E14! E15?", "frontal", {"DistanceSourceToPatient": "1300"}, cr=True
    ),
    "no relationship": Fault("E15?", "lateral", cr=True),
    "constant image": Fault("E16!", "lateral", edit=constant),
    "burned in": Fault("E17?", "frontal", {"BurnedInAnnotation": "YES"}),
    "burned in or not": Fault("E17?", "lateral", {"BurnedInAnnotation": None}),
    "turned field of view": Fault("E20?", "frontal", {"FieldOfViewRotation": "90"}),
    "mirrored field of view": Fault("E20?", "lateral", {"FieldOfViewHorizontalFlip": "YES"}),
    "field of view as it was": Fault(
        "", "frontal", {"FieldOfViewRotation": "0", "FieldOfViewHorizontalFlip": "NO"}
    ),
    "chest": Fault(
        "E21?", "frontal", {"BodyPartExamined": "CHEST", "AnatomicRegionSequence": None}
    ),
    "compressed with loss": Fault("E22?", "lateral", {"LossyImageCompression": "01"}),
    "two views": Fault("E23!", "lateral", {"ViewPosition": "RL"}),
    "other side": Fault("E23!", "lateral", {"ImageLaterality": "R"}),
    "side that was stated": Fault(
        "", "lateral", {"ImageLaterality": "R"}, overrides={"lateral": {"view": "LL"}}
    ),
    "same side": Fault("", "lateral", {"ImageLaterality": "L"}),
    "polarity": Fault("E24!", "frontal", {"PixelIntensityRelationshipSign": -1}),
}


def seen(findings: Any) -> set[tuple[str, str, str]]:
    return {(f.code.value, f.severity.value, f.role) for f in findings}


def findings_of(paths: list[Path], overrides: PairOverrides) -> tuple[Any, bool]:
    """What is found about a pair, and whether it is refused."""
    try:
        return read_pair(*paths, overrides).findings, False
    except SpiderError as error:
        return error.findings, True


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_in_its_film(name: str, write: Writer) -> None:
    fault = FAULTS[name]
    paths = [
        write(position, cr=fault.cr, edit=fault.edit, **fault.changes)
        if role == fault.film
        else write(position)
        for role, position in (("frontal", "AP"), ("lateral", "LL"))
    ]
    overrides = PairOverrides.from_mapping(fault.overrides)
    findings, is_refused = findings_of(paths, overrides)
    assert seen(findings) == fault.found
    assert is_refused == ("!" in fault.codes)
    if not any(code in fault.codes for code in PIXELS):
        assert seen(describe_pair(paths, overrides).findings) == fault.found
