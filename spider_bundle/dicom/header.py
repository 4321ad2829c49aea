"""Open DICOM files safely and look their attributes up, whatever the kind of radiograph.

Real files hold malformed values everywhere, so a value that does not parse counts as absent here
and the checks further on name what is missing.
"""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filereader import read_file_meta_info

from spider_bundle.dicom.errors import CODES, Code, RadiographError, finding

SECONDARY_CAPTURE = "SC"

#: Accepted SOP classes (DICOM PS3.4 B.5) and the short names used in messages.
SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.12.1": "XA",
    "1.2.840.10008.5.1.4.1.1.12.1.1": "Enhanced XA",
    "1.2.840.10008.5.1.4.1.1.12.2": "XRF",
    "1.2.840.10008.5.1.4.1.1.12.2.1": "Enhanced XRF",
    "1.2.840.10008.5.1.4.1.1.7": SECONDARY_CAPTURE,
    "1.2.840.10008.5.1.4.1.1.7.2": SECONDARY_CAPTURE,
    "1.2.840.10008.5.1.4.1.1.7.3": SECONDARY_CAPTURE,
}
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
_DIRECTORY = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"

#: Attributes of the pixel modules, which a functional group cannot restate: what is checked must be
#: what the decoders go by.
_PIXEL_ATTRIBUTES = frozenset(
    {
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    }
)
#: Reads of a file before it is given up. An element takes two or three and a kilobyte of memory, so
#: a large file of nothing but tiny elements would fill the memory.
MAXIMUM_READS = 500_000
#: Longest value that is looked at, bytes; parsed values take a hundred times more.
MAXIMUM_VALUE = 1 << 18
#: The same of a sequence; enhanced images hold some kilobytes for each frame.
MAXIMUM_SEQUENCE = 1 << 22


@dataclass(frozen=True, repr=False)
class Identifiers:
    """What is needed to pair radiographs and must not be shown, so its repr hides all of it.

    Attributes:
        study: StudyInstanceUID.
        instance: SOPInstanceUID.
        patient: PatientID.
        accession: AccessionNumber.
        acquired: When the radiograph was taken, if stated.
        frame_of_reference: FrameOfReferenceUID.
    """

    study: str
    instance: str
    patient: str
    accession: str
    acquired: datetime | None
    frame_of_reference: str

    def __repr__(self) -> str:
        return "Identifiers(hidden)"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings and log records, which quote attribute values, out of logs."""
    logger = logging.getLogger("pydicom")

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(drop)


def transfer_syntax(meta: pydicom.Dataset) -> str:
    """TransferSyntaxUID of a file's meta information, empty if it is not text."""
    value = meta.get("TransferSyntaxUID", "")
    return str(value) if isinstance(value, str) else ""


class _BoundedReader(io.BufferedReader):
    """A file that can be read so many times."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._left = MAXIMUM_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as usual.

        Raises:
            ValueError: It was read too often.
        """
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many elements")
        return super().read(size)


def open_dataset(path: Path, role: str, *, pixels: bool) -> pydicom.Dataset:
    """Read a DICOM file.

    Args:
        path: The file.
        role: Role for findings.
        pixels: Whether to read the pixel data too.

    Raises:
        RadiographError: E01 if it is not a DICOM image file, E02 if it is deflated.
    """
    try:
        with quiet(), _BoundedReader(path) as stream:
            syntax = transfer_syntax(read_file_meta_info(path))
            # A deflated data set of a few megabytes can inflate to more than the memory.
            if syntax != _DEFLATED:
                return pydicom.dcmread(stream, stop_before_pixels=not pixels)
    except Exception as error:
        # pydicom raises nearly every kind of exception on damaged files.
        found = finding(Code.E01, role, f"not a readable DICOM file ({type(error).__name__})")
        raise RadiographError([found]) from None
    found = finding(Code.E02, role, "deflated files are not accepted")
    raise RadiographError([found])


def _is_too_long(place: pydicom.Dataset, keyword: str) -> bool:
    """Whether a value is so long that parsing it could fill the memory."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in place:
        return False
    element = place.get_item(tag)  # not parsed yet
    held = getattr(element, "value", None)
    if not isinstance(held, bytes):
        return False
    return len(held) > (MAXIMUM_SEQUENCE if dictionary_VR(tag) == "SQ" else MAXIMUM_VALUE)


class Header:
    """Attribute look-up in the frame's functional groups, the shared ones and the data set.

    Attributes:
        dataset: The data set.
        frame: Index of the frame of interest.
        kind: Value of :data:`SOP_CLASSES`, or an empty string for any other object.
    """

    def __init__(self, dataset: pydicom.Dataset, frame: int = 0) -> None:
        self.dataset = dataset
        self.frame = frame
        self._places = [dataset]
        self.sop_class = self.text("SOPClassUID")
        self.kind = SOP_CLASSES.get(self.sop_class, "")
        groups: list[pydicom.Dataset] = []
        for keyword, index in (
            ("PerFrameFunctionalGroupsSequence", frame),
            ("SharedFunctionalGroupsSequence", 0),
        ):
            items = self.items(keyword)
            if 0 <= index < len(items):
                tags = items[index].keys()  # iterating the item itself would parse its elements
                macros = [self._macro(items[index], tag) for tag in tags]
                groups += [macro for macro in macros if macro is not None]
        self._places = [*groups, dataset]

    @staticmethod
    def _macro(group: pydicom.Dataset, tag: pydicom.tag.BaseTag) -> pydicom.Dataset | None:
        """The item of one functional group macro; None if malformed or no sequence."""
        try:
            with quiet():
                element = group[tag]
                return element.value[0] if element.VR == "SQ" and element.value else None
        except Exception:  # as for any malformed value
            return None

    @property
    def is_directory(self) -> bool:
        """Whether this is a DICOMDIR."""
        return self.sop_class == _DIRECTORY or "DirectoryRecordSequence" in self.dataset

    @property
    def for_processing(self) -> bool:
        """Whether this is a DX FOR PROCESSING image (DICOM C.8.11.1.1.1)."""
        return self.sop_class == DX_FOR_PROCESSING

    @property
    def laterality(self) -> str:
        """L or R if stated, else empty."""
        side = self.text("ImageLaterality") or self.text("Laterality")
        return side if side in ("L", "R") else ""

    @property
    def frames(self) -> int:
        """Number of frames, 1 if not stated."""
        return max(1, int(self.number("NumberOfFrames") or 1))

    def value(self, keyword: str) -> Any:
        """The first value of an attribute that is present and not empty, else None."""
        for place in [self.dataset] if keyword in _PIXEL_ATTRIBUTES else self._places:
            try:
                with quiet():
                    value = None if _is_too_long(place, keyword) else place.get(keyword)
            except Exception:  # a malformed value counts as absent
                continue
            if value is not None and value != "":
                return value
        return None

    def texts(self, keyword: str) -> list[str]:
        """All values of an attribute as upper-case text; none if any is neither text nor number."""
        value = self.value(keyword)
        many = isinstance(value, (list, tuple, pydicom.multival.MultiValue))
        values = list(value) if many else [value]
        # The text of a sequence is all that it holds, which can take for ever.
        if not all(isinstance(v, (str, int, float)) for v in values):
            return []
        return [str(v).strip().upper() for v in values]

    def text(self, keyword: str) -> str:
        """The first value of an attribute as upper-case text, empty if absent."""
        return next(iter(self.texts(keyword)), "")

    @property
    def modality(self) -> str:
        """Modality (0008,0060) where it is one of the standard's codes, else ``unknown``."""
        text = self.text("Modality")
        return text if re.fullmatch("[A-Z]{2,16}", text) else "unknown"

    def numbers(self, keyword: str) -> list[float]:
        """All values of an attribute as finite numbers; empty if any of them is not one."""
        try:
            values = [float(text) for text in self.texts(keyword)]
        except ValueError:
            return []
        return values if all(map(math.isfinite, values)) else []

    def number(self, keyword: str) -> float | None:
        """The first value of an attribute as a finite number, if it is one."""
        return next(iter(self.numbers(keyword)), None)

    def items(self, keyword: str) -> list[pydicom.Dataset]:
        """Items of a sequence, empty if absent."""
        value = self.value(keyword)
        return list(value) if isinstance(value, pydicom.sequence.Sequence) else []

    def codes(self, keyword: str) -> list[tuple[str, str, str]]:
        """(value, scheme, meaning) of each item of a code sequence, upper case."""
        return [
            (item.text("CodeValue"), item.text("CodingSchemeDesignator"), item.text("CodeMeaning"))
            for item in map(Header, self.items(keyword))
        ]

    def check_size(self, role: str) -> None:
        """Refuse absurd declared sizes before anything is decoded.

        Raises:
            RadiographError: E16.
        """
        limits = CODES[Code.E16].limits
        rows, columns = (int(self.number(k) or 0) for k in ("Rows", "Columns"))
        pixels = float(rows) * columns
        message = ""
        if min(rows, columns) <= 0:
            message = "the image has no pixels"
        elif max(rows, columns) > limits["maximum_edge"]:
            message = f"an edge of {max(rows, columns):.3g} pixels"
        elif pixels > limits["maximum_frame_pixels"]:
            message = f"a frame of {pixels:.3g} pixels is beyond {limits['maximum_frame_pixels']:g}"
        elif pixels * self.frames > limits["maximum_pixels"]:
            total, limit = pixels * self.frames, limits["maximum_pixels"]
            message = f"{total:.3g} pixels in all are beyond {limit:g}"
        if message:
            raise RadiographError([finding(Code.E16, role, message, attribute="Rows")])

    def identifiers(self) -> Identifiers:
        """Identifiers of the file; absent ones are empty."""
        return Identifiers(
            study=self.text("StudyInstanceUID"),
            instance=self.text("SOPInstanceUID"),
            patient=self.text("PatientID"),
            accession=self.text("AccessionNumber"),
            acquired=self._acquired(),
            frame_of_reference=self.text("FrameOfReferenceUID"),
        )

    def _acquired(self) -> datetime | None:
        for text in (
            self.text("FrameAcquisitionDateTime"),
            self.text("AcquisitionDateTime"),
            self.text("AcquisitionDate") + self.text("AcquisitionTime"),
            self.text("ContentDate") + self.text("ContentTime"),
        ):
            # Old files write 2001.12.31 and 17:58:00. A time zone is dropped: the two radiographs
            # of one study share it.
            plain = re.sub(r"[+-]\d{4}$", "", text).replace(":", "")
            match = re.match(r"(\d{4})\.?(\d\d)\.?(\d\d)(\d\d)(\d\d)(\d\d)?", plain)
            if match:
                year, month, day, hour, minute, second = (int(g or 0) for g in match.groups())
                try:
                    # A leap second is written as 60.
                    return datetime(year, month, day, hour, minute) + timedelta(seconds=second)
                except (ValueError, OverflowError):  # the second at the end of the year 9999
                    continue
        return None
