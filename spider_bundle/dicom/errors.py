"""The stable codes of everything that can be wrong with radiographs, as data.

Messages, attributes and actions are shown to operators and written to reports. They never hold a
name, an identifier, a date, a path or a UID; numbers and view names are fine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class Severity(StrEnum):
    """Whether a finding stops the reconstruction."""

    ERROR = "error"
    WARNING = "warning"


class Code(StrEnum):
    """Stable codes of findings; see :data:`CODES` for what each means."""

    E01 = "E01"
    E02 = "E02"
    E03 = "E03"
    E04 = "E04"
    E05 = "E05"
    E06 = "E06"
    E07 = "E07"
    E08 = "E08"
    E09 = "E09"
    E10 = "E10"
    E11 = "E11"
    E12 = "E12"
    E13 = "E13"
    E14 = "E14"
    E15 = "E15"
    E16 = "E16"
    E17 = "E17"
    E18 = "E18"
    E19 = "E19"
    E20 = "E20"
    E21 = "E21"
    E22 = "E22"
    E23 = "E23"
    E24 = "E24"


@dataclass(frozen=True)
class CodeInfo:
    """What a code means.

    Attributes:
        condition: When it is raised.
        severity: Default severity.
        attribute: The DICOM attribute concerned.
        action: What the operator can do.
        limits: Numeric limits by name; the unit ends the name.
    """

    condition: str
    severity: Severity
    attribute: str
    action: str
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


def _limits(**values: float) -> Mapping[str, float]:
    return MappingProxyType(values)


CODES: Mapping[Code, CodeInfo] = MappingProxyType(
    {
        Code.E01: CodeInfo(
            "not DICOM, or not a radiograph (CR, DX, XA, XRF, Enhanced XA, Enhanced XRF)",
            Severity.ERROR,
            "SOPClassUID",
            "export the original radiograph; allow secondary captures explicitly if it is one",
        ),
        Code.E02: CodeInfo(
            "pixel data cannot be decoded",
            Severity.ERROR,
            "TransferSyntaxUID",
            "install the named plugin, or export the image again uncompressed",
        ),
        Code.E03: CodeInfo(
            "not a single-channel MONOCHROME1 or MONOCHROME2 image",
            Severity.ERROR,
            "PhotometricInterpretation",
            "export the original greyscale image",
        ),
        Code.E04: CodeInfo(
            "multi-frame image without a chosen frame, or subtracted image",
            Severity.ERROR,
            "NumberOfFrames",
            "choose a frame of an image that is not subtracted",
        ),
        Code.E05: CodeInfo(
            "the two radiographs belong to different studies or patients",
            Severity.ERROR,
            "StudyInstanceUID",
            "give the two radiographs of one examination of one patient",
        ),
        Code.E06: CodeInfo(
            "not exactly one frontal and one lateral radiograph",
            Severity.ERROR,
            "ViewPosition",
            "name the two files to use, or set the view of a file",
        ),
        Code.E07: CodeInfo(
            "too much time between the two radiographs",
            Severity.WARNING,
            "AcquisitionDateTime",
            "check that the head was in the same pose in both radiographs",
            _limits(warning_minutes=30.0),
        ),
        Code.E08: CodeInfo(
            "the view is unknown, or oblique",
            Severity.ERROR,
            "ViewPosition",
            "set the view to AP, PA, LL or RL if the radiograph is a plain one",
            _limits(positioner_degrees=10.0),
        ),
        Code.E09: CodeInfo(
            "the orientation of the image contradicts its view",
            Severity.ERROR,
            "PatientOrientation",
            "look at the image, then set its view or its orientation",
        ),
        Code.E10: CodeInfo(
            "the orientation of the image is not given",
            Severity.ERROR,
            "PatientOrientation",
            "set the orientation: patient directions of increasing column and of increasing row",
        ),
        Code.E11: CodeInfo(
            "the distance from source to detector is missing or implausible",
            Severity.ERROR,
            "DistanceSourceToDetector",
            "set the distance from source to detector in mm",
            _limits(minimum_mm=500.0, maximum_mm=4500.0),
        ),
        Code.E12: CodeInfo(
            "the pixel pitch at the detector is missing or implausible",
            Severity.ERROR,
            "ImagerPixelSpacing",
            "set the pixel pitch at the detector in mm",
            _limits(minimum_mm=0.01, maximum_mm=2.0, anisotropy=0.01),
        ),
        Code.E13: CodeInfo(
            "PixelSpacing differs from ImagerPixelSpacing; the latter is used",
            Severity.WARNING,
            "PixelSpacing",
            "check that ImagerPixelSpacing is the pitch at the detector",
            _limits(relative_difference=0.01),
        ),
        Code.E14: CodeInfo(
            "the distance from source to isocentre cannot be derived",
            Severity.ERROR,
            "DistanceSourceToPatient",
            "set the distance from the source to the middle of the head in mm",
            _limits(maximum_magnification=20.0),
        ),
        Code.E15: CodeInfo(
            "the relation of pixel values to X-ray intensity is not given; only tones are used",
            Severity.WARNING,
            "PixelIntensityRelationship",
            "use the FOR PROCESSING image if there is one",
        ),
        Code.E16: CodeInfo(
            "the pixel values are constant, saturated or invalid, or the image is too large",
            Severity.ERROR,
            "PixelData",
            "export the image again",
            _limits(
                minimum_distinct_values=16,
                maximum_saturated_fraction=0.9,
                maximum_edge=65535,
                maximum_frame_pixels=1e8,
                maximum_pixels=2e9,
            ),
        ),
        Code.E17: CodeInfo(
            "text may be burned into the image",
            Severity.WARNING,
            "BurnedInAnnotation",
            "check the image and mask boxes with text",
        ),
        Code.E18: CodeInfo(
            "the exposed field cuts the head",
            Severity.WARNING,
            "CollimatorShape",
            "what lies outside either field is guessed; use uncollimated radiographs",
            _limits(
                isocentre_radius_mm=40.0,
                isocentre_usable_fraction=0.5,
                edge_fraction=0.2,
                minimum_field_fraction=0.05,
            ),
        ),
        Code.E19: CodeInfo(
            "the two views are not about orthogonal",
            Severity.ERROR,
            "PositionerPrimaryAngle",
            "use two radiographs taken at about 90 degrees to each other",
            _limits(nominal_degrees=90.0, tolerance_degrees=10.0),
        ),
        Code.E20: CodeInfo(
            "the field of view was rotated or flipped; PatientOrientation is trusted",
            Severity.WARNING,
            "FieldOfViewRotation",
            "check left and right in the preview",
        ),
        Code.E21: CodeInfo(
            "the body part is not stated as skull or head",
            Severity.WARNING,
            "BodyPartExamined",
            "check that the radiograph shows a head",
        ),
        Code.E22: CodeInfo(
            "the image was compressed with loss",
            Severity.WARNING,
            "LossyImageCompression",
            "use the image as acquired if there is one",
        ),
        Code.E23: CodeInfo(
            "the statements about the side contradict each other",
            Severity.ERROR,
            "ImageLaterality",
            "look at the image, then set the view to LL or RL",
        ),
        Code.E24: CodeInfo(
            "air at the border comes out denser than the head: the polarity is wrong",
            Severity.ERROR,
            "PixelIntensityRelationshipSign",
            "look at the image, then set whether high stored values are dense",
            _limits(strip_fraction=0.05, air_level=0.2, air_spread=0.08, contradicting_sides=2),
        ),
    }
)


@dataclass(frozen=True)
class Finding:
    """One thing found about a radiograph or a pair.

    Attributes:
        code: Stable code.
        severity: Error or warning.
        role: ``frontal``, ``lateral``, ``pair``, or ``radiograph`` if the view is not known.
        message: What was found, without identities, paths or UIDs.
        attribute: The DICOM attribute concerned.
        action: What the operator can do.
    """

    code: Code
    severity: Severity
    role: str
    message: str
    attribute: str
    action: str

    def __str__(self) -> str:
        return f"{self.code.value} {self.severity.value} ({self.role}): {self.message}"


def finding(
    code: Code,
    role: str,
    message: str = "",
    *,
    severity: Severity | None = None,
    attribute: str | None = None,
    action: str | None = None,
) -> Finding:
    """A finding whose unstated parts come from :data:`CODES`."""
    info = CODES[code]
    return Finding(
        code,
        severity or info.severity,
        role,
        message or info.condition,
        attribute or info.attribute,
        action or info.action,
    )


def finding_facts(found: Finding) -> dict[str, str | None]:
    """A finding as plain values, for reports."""
    return {
        "code": found.code.value,
        "severity": found.severity.value,
        "message": found.message,
        "role": found.role,
        "attribute": found.attribute or None,
        "action": found.action or None,
    }


class RadiographError(Exception):
    """Radiographs that cannot be used, with every finding made until then.

    Attributes:
        findings: All findings; at least one is an error.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(self.findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(found for found in self.findings if found.severity is Severity.ERROR)

    def __str__(self) -> str:
        return "\n".join(f"{found}. To do: {found.action}." for found in self.errors)
