"""One table of faults in a film's header: what is changed, and which finding comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.pair import describe_pair
from spider_bundle.errors import SpiderError
from tests.films import read_pair

from .conftest import Writer

CT, SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
NO_VIEW = {"ViewPosition": None, "ViewCodeSequence": None}
PIXELS = {"E02", "E15", "E16", "E18", "E24", "E31"}
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


def values_of(dataset: Dataset) -> Any:
    return np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)


def stores(change: Callable[[Any], Any], **attributes: Any) -> Callable[[Dataset], None]:
    """Replace the pixels by what becomes of them, and set attributes."""

    def edit(dataset: Dataset) -> None:
        dataset.PixelData = np.asarray(change(values_of(dataset))).astype("<u2").tobytes()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return edit


def compresses(syntax: str, **attributes: Any) -> Callable[[Dataset], None]:
    """Compress the pixels, and set attributes afterwards."""

    def edit(dataset: Dataset) -> None:
        dataset.compress(syntax)
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return edit


def writes(keyword: str, text: str) -> Callable[[Dataset], None]:
    """Write an attribute that pydicom would not take."""

    def edit(dataset: Dataset) -> None:
        data, tag = text.encode(), Tag(keyword)
        data += b" " * (len(data) % 2)
        dataset[tag] = RawDataElement(tag, "DS", len(data), data, 0, False, True)

    return edit


def more_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData + dataset.PixelData[: 40 * dataset.Columns]


def frames_of_no_number(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData * 3


def shuffled(values: Any) -> Any:
    return np.random.default_rng(0).permutation(values.ravel())


def log_as_linear(values: Any) -> Any:
    return 65535 - 4000 * -np.log(np.maximum(values, 1) / 62258)


def linear_table(count: int, data: bytes) -> Callable[[Dataset], None]:
    """Put a look-up table of 12 bits into the modality step."""

    def edit(dataset: Dataset) -> None:
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [count, 0, 12])
        item.add_new("LUTData", "OW", data)
        dataset.ModalityLUTSequence = [item]

    return edit


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
    "distance to the detector": Fault(
        "",
        "lateral",
        {"EstimatedRadiographicMagnificationFactor": None},
        overrides={"lateral": {"oid": 200.0}},
    ),
    "distance to the detector beyond the tube": Fault(
        "E14!", "lateral", overrides={"lateral": {"oid": 1250.0}}
    ),
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
    "shape against interpretation": Fault(
        "E15? E24?", "lateral", {"PresentationLUTShape": "IDENTITY"}, cr=True
    ),
    "sign against interpretation": Fault(
        "E24?", "frontal", {"SOPClassUID": DX, "PhotometricInterpretation": "MONOCHROME2"}
    ),
    "sign against interpretation of raw values": Fault(
        "", "frontal", {"PhotometricInterpretation": "MONOCHROME2"}
    ),
    "no such sign": Fault("E31!", "frontal", {"PixelIntensityRelationshipSign": 0}),
    # pixels that are not what the header says
    "more bits than stored": Fault(
        "E31!", "frontal", edit=stores(lambda v: v >> 2, BitsStored=12, HighBit=11)
    ),
    "bits that were lost": Fault(
        "E31!", "lateral", edit=stores(lambda v: v & 0x3FF, BitsStored=10, HighBit=9), cr=True
    ),
    "bits that were lost, all declared": Fault(
        "E31!", "lateral", edit=stores(lambda v: v & 0x1FFF)
    ),
    "bits at the wrong end": Fault(
        "E31!", "lateral", edit=stores(lambda v: v >> 4, BitsStored=12, HighBit=15)
    ),
    "bits at the high end": Fault(
        "", "lateral", edit=stores(lambda v: v & 0xFFF0, BitsStored=12, HighBit=15)
    ),
    "more bits stored than allocated": Fault("E31!", "frontal", {"BitsStored": 20, "HighBit": 19}),
    "high bit below the stored ones": Fault("E31!", "frontal", {"HighBit": 11}),
    "odd allocation": Fault("E31!", "frontal", {"BitsAllocated": 12}),
    "representation of no kind": Fault("E31!", "frontal", {"PixelRepresentation": 2}),
    "unsigned values called signed": Fault("E31!", "lateral", {"PixelRepresentation": 1}),
    "JPEG 2000 of more bits": Fault(
        "E31!", "frontal", edit=compresses(JPEG2000Lossless, BitsStored=12, HighBit=11)
    ),
    "JPEG-LS of more bits": Fault(
        "E31!", "lateral", edit=compresses(JPEGLSLossless, BitsStored=14, HighBit=13)
    ),
    "run lengths of more bits": Fault(
        "E31!", "lateral", edit=compresses(RLELossless, BitsStored=12, HighBit=11)
    ),
    "signed JPEG 2000": Fault(
        "E31!", "frontal", edit=compresses(JPEG2000Lossless, PixelRepresentation=1)
    ),
    "swapped bytes": Fault("E31!", "frontal", edit=stores(lambda v: v.byteswap())),
    "rows and columns": Fault("E31!", "lateral", {"Rows": 180, "Columns": 200}),
    "half as many columns": Fault("E31!", "lateral", {"Rows": 400, "Columns": 90}),
    "one column less": Fault("E31!", "lateral", {"Columns": 179}),
    "more pixels": Fault("E31!", "frontal", edit=more_pixels),
    "frames of no number": Fault("E31!", "frontal", edit=frames_of_no_number),
    "noise": Fault("E16!", "lateral", edit=stores(shuffled)),
    "logarithms called linear": Fault("E31!", "frontal", edit=stores(log_as_linear)),
    "signed DX with an intercept": Fault(
        "E31!",
        "frontal",
        edit=stores(lambda v: v ^ 0x8000, PixelRepresentation=1, RescaleIntercept="32768"),
    ),
    "signed DX": Fault("E31!", "frontal", edit=stores(lambda v: v ^ 0x8000, PixelRepresentation=1)),
    "rescaled DX": Fault("E31!", "lateral", {"RescaleSlope": "-1"}),
    "malformed rescale": Fault("E31!", "lateral", edit=writes("RescaleSlope", "1,0"), cr=True),
    "table that is cut": Fault("E31!", "lateral", edit=linear_table(4096, bytes(800)), cr=True),
    "table beyond its bits": Fault(
        "E31!", "lateral", edit=linear_table(4096, b"\xff\xff" * 4096), cr=True
    ),
    "table of no order": Fault(
        "E31!",
        "lateral",
        edit=linear_table(4096, (np.arange(4096) * 37 % 4096).astype("<u2").tobytes()),
        cr=True,
    ),
    # sequences without content
    "empty item of a table": Fault(
        "E15?", "lateral", {"ModalityLUTSequence": [Dataset()]}, cr=True
    ),
    "empty item of an eponym": Fault(
        "", "lateral", {"ProjectionEponymousNameCodeSequence": [Dataset()]}
    ),
    "empty items of a view": Fault(
        "", "lateral", {"ViewCodeSequence": [Dataset()], "ViewPosition": "LL"}
    ),
    # devices that take no plain views
    "panoramic": Fault("E33!", "frontal", {"Modality": "PX"}),
    "intraoral": Fault("E33!", "lateral", {"Modality": "IO"}),
    "ultrasound": Fault("E33!", "lateral", {"Modality": "US"}),
    "panoramic positioner": Fault("E33!", "frontal", {"PositionerType": "PANORAMIC"}),
    "slot scanner": Fault(
        "E34!", "frontal", {"Manufacturer": "EOS imaging", "ManufacturerModelName": "EOS System"}
    ),
    # numbers that are impossible or none
    "detector in the head": Fault(
        "E14!", "frontal", {"EstimatedRadiographicMagnificationFactor": "1.01"}
    ),
    "detector in a frontal head": Fault(
        "E14!", "frontal", {"EstimatedRadiographicMagnificationFactor": f"{1200 / 1138:.6f}"}
    ),
    "detector beside a lateral head": Fault(
        "", "lateral", {"EstimatedRadiographicMagnificationFactor": f"{1200 / 1138:.6f}"}
    ),
    "magnification below 1": Fault(
        "E14!", "lateral", {"EstimatedRadiographicMagnificationFactor": "0.87"}
    ),
    "magnification in percent": Fault(
        "E14!", "lateral", {"EstimatedRadiographicMagnificationFactor": "115"}
    ),
    "no magnification but 0": Fault(
        "E14!", "lateral", {"EstimatedRadiographicMagnificationFactor": "0"}
    ),
    "source at the skin": Fault(
        "E14! E15?", "lateral", {"DistanceSourceToPatient": "200"}, cr=True
    ),
    "small field": Fault("E12!", "frontal", {"ImagerPixelSpacing": ["0.3", "0.3"]}),
    "large field": Fault(
        "E12! E31!",
        "frontal",
        {"ImagerPixelSpacing": ["1.8", "1.8"], "Rows": 800, "Columns": 45},
    ),
    "one pitch of two": Fault("E12!", "frontal", {"ImagerPixelSpacing": "1.8"}),
    "pitch with a comma": Fault("E12!", "frontal", edit=writes("ImagerPixelSpacing", "1,8\\1,8")),
    "distance with a comma": Fault(
        "E11! E14!", "lateral", edit=writes("DistanceSourceToDetector", "1200,0")
    ),
    "two distances": Fault("E11! E14!", "lateral", {"DistanceSourceToDetector": ["1200", "1150"]}),
    "no number": Fault("E11! E14!", "lateral", edit=writes("DistanceSourceToDetector", "NaN")),
    "empty distance": Fault("E11! E14!", "lateral", {"DistanceSourceToDetector": ""}),
    "text for a magnification": Fault(
        "E14!", "lateral", edit=writes("EstimatedRadiographicMagnificationFactor", "normal")
    ),
    "impossible angle": Fault(
        "E08!",
        "frontal",
        {**NO_VIEW, "PositionerType": "CARM", "PositionerPrimaryAngle": "540"},
    ),
    "angle with a comma": Fault("E08!", "frontal", edit=writes("PositionerPrimaryAngle", "0,5")),
    "turned by a text": Fault("E20?", "frontal", edit=writes("FieldOfViewRotation", "ninety")),
    "frames in words": Fault("E04!", "frontal", edit=writes("NumberOfFrames", "one")),
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


@pytest.mark.parametrize(
    ("keyword", "text", "shown"),
    [
        ("ImagerPixelSpacing", "0,6\\0,6", "ImagerPixelSpacing is malformed: 0,6\\0,6"),
        ("ImagerPixelSpacing", "0.6", "ImagerPixelSpacing is malformed: 0.6"),
        ("DistanceSourceToDetector", "1150 mm", "DistanceSourceToDetector is malformed: 1150 mm"),
        ("DistanceSourceToDetector", "nan", "DistanceSourceToDetector is malformed: nan"),
        ("DistanceSourceToDetector", "", "DistanceSourceToDetector is empty"),
        ("DistanceSourceToDetector", "Doe", "DistanceSourceToDetector is malformed"),
        ("DistanceSourceToDetector", "1985.03.12", "DistanceSourceToDetector is malformed"),
        ("DistanceSourceToDetector", "9" * 40 + ",0", "DistanceSourceToDetector is malformed"),
    ],
)
def test_a_malformed_number_is_shown_and_nothing_else_is(
    keyword: str, text: str, shown: str, write: Writer
) -> None:
    pair = describe_pair([write(edit=writes(keyword, text)), write("LL")])
    assert [f.message for f in pair.findings if f.attribute == keyword] == [shown]
