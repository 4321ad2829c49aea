"""Identity of a study for DICOM results, read only when the operator asks for it.

Nothing here is read in a normal run. Values that are malformed are left empty, never repaired: a
shortened PatientID could be that of somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from pydicom.valuerep import PersonName

from spider_bundle.dicom.header import Header

PATIENT_SEX = ("M", "F", "O")

#: Attributes of the Patient and General Study modules (DICOM C.7.1.1, C.7.2.1) that are kept, with
#: their value representation.
KEPT_ATTRIBUTES: Mapping[str, str] = {
    "PatientName": "PN",
    "PatientID": "LO",
    "IssuerOfPatientID": "LO",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "StudyInstanceUID": "UI",
    "StudyDate": "DA",
    "StudyTime": "TM",
    "ReferringPhysicianName": "PN",
    "StudyID": "SH",
    "AccessionNumber": "SH",
    "StudyDescription": "LO",
}

_LENGTHS = {"LO": 64, "SH": 16, "UI": 64}
_PATTERNS = {
    "DA": r"\d{8}",
    "TM": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
    "UI": r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+",
    "CS": "|".join(PATIENT_SEX),
}


@dataclass(frozen=True, repr=False)
class SourceIdentity:
    """Patient, study and instances of the radiographs; its repr hides all of it.

    Attributes:
        attributes: Valid, non-empty values by keyword of :data:`KEPT_ATTRIBUTES`.
        references: SOPClassUID and SOPInstanceUID of each radiograph, frontal first.
        frame_of_reference: FrameOfReferenceUID of the (frontal) radiograph.
    """

    attributes: Mapping[str, str]
    references: tuple[tuple[str, str], ...]
    frame_of_reference: str = ""

    def __repr__(self) -> str:
        return "SourceIdentity(hidden)"

    def with_lateral(self, lateral: SourceIdentity) -> SourceIdentity:
        """Return the identity of a pair: patient and study are those of this, frontal, film."""
        return replace(self, references=self.references + lateral.references)


def source_identity(header: Header) -> SourceIdentity:
    """Return the identity that one header states, with a reference to that instance."""
    attributes = {k: _valid(header, k, vr) for k, vr in KEPT_ATTRIBUTES.items()}
    sop_class, instance = (_valid(header, k, "UI") for k in ("SOPClassUID", "SOPInstanceUID"))
    return SourceIdentity(
        {keyword: value for keyword, value in attributes.items() if value},
        ((sop_class, instance),) if sop_class and instance else (),
        _valid(header, "FrameOfReferenceUID", "UI"),
    )


def _valid(header: Header, keyword: str, representation: str) -> str:
    """Return an attribute's value if it is one valid value of its representation, else empty."""
    value = header.value(keyword)
    if not isinstance(value, (str, int, float, PersonName)):
        return ""
    text = str(value).strip(" \0")
    groups = text.split("=") if representation == "PN" else [text]
    length = _LENGTHS.get(representation, 64)
    pattern = _PATTERNS.get(representation, r"[^\\\x00-\x1f\x7f]*")
    if len(groups) > 3 or any(len(group) > length for group in groups):
        return ""
    if not re.fullmatch(pattern, text) or (representation == "DA" and not _is_date(text)):
        return ""
    return text


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True
