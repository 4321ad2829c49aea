"""Parse DICOM files safely and look their attributes up, whatever the kind of radiograph.

Real files hold malformed values everywhere, so a value that does not parse counts as absent.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filereader import _read_file_meta_info  # its public form opens a file of its own
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from spider_bundle.errors import Code, SpiderError
from spider_bundle.logs import silent_pydicom

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
_DEFLATED = "1.2.840.10008.1.2.1.99"
_PREAMBLE, _MAGIC = 128, b"DICM"
_STANDARD = "1.2.840.10008."
"""Beginning of the UIDs of DICOM itself."""
_FIRST_ELEMENT = re.compile(
    rb"[\x02\x08]\x00[\x00-\x20]\x00"
    rb"(?:AE|AS|CS|DA|DT|LO|LT|OB|PN|SH|SQ|ST|TM|UI|UL|UN|US|[^\xff][^\xff]\x00\x00)",
    re.DOTALL,
)
"""Beginning of a file without preamble: an element of group 2 or 8, its VR stated or implied."""

#: Attributes of the pixel modules, which a functional group cannot restate: what is checked must be
#: what the decoders go by.
_PIXEL_ATTRIBUTES = frozenset(
    {
        *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    }
)
#: Attributes of VR US or SS that files also hold as mere bytes.
_BINARY_NUMBERS = frozenset({"PixelPaddingValue", "PixelPaddingRangeLimit", "LUTDescriptor"})
#: What :meth:`Header.fault` says of an attribute without a value.
EMPTY = "is empty"
#: Malformed numbers that messages quote, and their greatest length: no text, date or identifier.
_NUMBER = r"[-+]?\d{0,6}([.,]\d{0,8})?(e[-+]?\d{1,3})?( ?(mm|cm|m|deg))?"
_NUMBER_LIKE = re.compile(rf"{_NUMBER}(\\{_NUMBER}){{0,2}}|[-+]?(nan|inf|infinity)", re.IGNORECASE)
_LONGEST_SHOWN = 32
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


def transfer_syntax(meta: pydicom.Dataset) -> str:
    """Return TransferSyntaxUID of a file's meta information, empty if it is not text."""
    value = meta.get("TransferSyntaxUID", "")
    return str(value) if isinstance(value, str) else ""


class NotDicomError(SpiderError):
    """A file that does not claim to be a DICOM file: E01."""


class BlankFileError(NotDicomError):
    """A file that is empty, or holds zeros in place of a DICOM file's beginning, as if cut: E01."""


class FilmStream(io.BufferedReader):
    """A DICOM file that can be read so many times.

    Args:
        source: The file, or its content.
        reads: Number of times.

    Files without preamble, and those without file meta information, are read as well: some
    archives and portals store them so.

    Raises:
        OSError: It cannot be opened.
        NotDicomError: It does not begin as a DICOM file, or a :class:`BlankFileError`.
    """

    name: Any = ""  # which pydicom asks for, and content has none

    def __init__(self, source: Path | str | io.BytesIO, reads: int | None = None) -> None:
        try:
            super().__init__(source if isinstance(source, io.BytesIO) else io.FileIO(source))
        except ValueError:  # a path with a null character
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        self._left = MAXIMUM_READS if reads is None else reads
        self._size = self.seek(0, os.SEEK_END)
        self.seek(0)
        try:
            head = self.read(_PREAMBLE + len(_MAGIC))
            self._start = _PREAMBLE + len(_MAGIC) if head.endswith(_MAGIC) else 0
            if not begins_as_dicom(head):
                is_blank = not any(head[:_PREAMBLE])
                why = (
                    "it is empty, or was cut at its beginning" if is_blank else "InvalidDicomError"
                )
                kind = BlankFileError if is_blank else NotDicomError
                message = f"not a readable DICOM file ({why})"
                raise kind(Code.NOT_A_RADIOGRAPH, message, role="radiograph")
            self.seek(0)
        except BaseException:
            self.close()
            raise

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as usual.

        Raises:
            ValueError: It was read too often.
        """
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many elements")
        # of a length that is declared only, so much memory would be taken first
        return super().read(None if size is None or size < 0 else min(size, self._size))

    def parse(self, role: str, *, pixels: bool) -> pydicom.Dataset:
        """Parse the file from its beginning.

        Args:
            role: Role for findings.
            pixels: Whether to read the pixel data too; the position is before them if not.

        Raises:
            SpiderError: E01 if it is damaged, E02 if it is deflated.
        """
        try:
            with silent_pydicom():
                self.seek(self._start)
                syntax = transfer_syntax(_read_file_meta_info(self)) or self._likely_syntax()
                # A deflated data set of a few megabytes can inflate to more than the memory.
                if syntax != _DEFLATED:
                    self.seek(0)
                    dataset = pydicom.dcmread(self, stop_before_pixels=not pixels, force=True)
                    dataset.file_meta.TransferSyntaxUID = UID(syntax)
                    return dataset
        except Exception as error:
            # pydicom raises nearly every kind of exception on damaged files.
            message = f"not a readable DICOM file ({type(error).__name__})"
            raise SpiderError(Code.NOT_A_RADIOGRAPH, message, role=role) from None
        message = "deflated files are not accepted"
        raise SpiderError(Code.UNDECODABLE_PIXEL_DATA, message, role=role)

    def _likely_syntax(self) -> str:
        """Return the transfer syntax by which pydicom will read a data set that states none."""
        element = self.peek(6)[:6]
        if not element[4:6].isalpha():
            return ImplicitVRLittleEndian
        return ExplicitVRBigEndian if element[0] == 0 else ExplicitVRLittleEndian


def begins_as_dicom(head: bytes) -> bool:
    """Return whether the first 132 bytes of a file are those of a DICOM file or data set."""
    return head[_PREAMBLE:] == _MAGIC or _FIRST_ELEMENT.match(head) is not None


def is_sop_class(uid: str) -> bool:
    """Return whether a UID is whole: private, or known; a file may be cut in its SOPClassUID."""
    is_private = not uid.startswith(_STANDARD) and not _STANDARD.startswith(uid)
    return is_private or UID(uid).name != uid


def _is_too_long(place: pydicom.Dataset, tag: int) -> bool:
    """Return whether a value is so long that parsing it could fill the memory."""
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
    """

    def __init__(self, dataset: pydicom.Dataset, frame: int = 0) -> None:
        self.dataset = dataset
        self.frame = frame
        self._places = [dataset]
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
        """Return the item of one functional group macro; None if malformed or no sequence."""
        try:
            with silent_pydicom():
                element = group[tag]
                return element.value[0] if element.VR == "SQ" and element.value else None
        except Exception:  # as for any malformed value
            return None

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
        """Return the first value of an attribute that is present and not empty, else None."""
        tag = tag_for_keyword(keyword)
        for place in [self.dataset] if keyword in _PIXEL_ATTRIBUTES else self._places:
            if tag is None or tag not in place:
                continue
            try:
                with silent_pydicom():
                    value = None if _is_too_long(place, tag) else place[tag].value
            except Exception:  # a malformed value counts as absent
                continue
            if value is not None and value != "":
                return value
        return None

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return all values as upper-case text; none if any is neither text nor number."""
        value = self.value(keyword)
        many = isinstance(value, (list, tuple, pydicom.multival.MultiValue))
        values = list(value) if many else [value]
        # The text of a sequence is all that it holds, which can take for ever.
        if not all(isinstance(v, (str, int, float)) for v in values):
            return ()
        return tuple(str(v).strip().upper() for v in values)

    def text(self, keyword: str) -> str:
        """Return the first value as upper-case text, empty if absent."""
        return next(iter(self.texts(keyword)), "")

    @property
    def modality(self) -> str:
        """Modality (0008,0060) where it is one of the standard's codes, else ``unknown``."""
        text = self.text("Modality")
        return text if re.fullmatch("[A-Z]{2,16}", text) else "unknown"

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return all values as finite numbers; none if any of them is not one."""
        value = self.value(keyword)
        if isinstance(value, bytes) and keyword in _BINARY_NUMBERS and len(value) % 2 == 0:
            return tuple(map(float, struct.unpack(f"<{len(value) // 2}H", value)))
        try:
            values = tuple(float(text) for text in self.texts(keyword))
        except ValueError:
            return ()
        return values if all(map(math.isfinite, values)) else ()

    def number(self, keyword: str) -> float | None:
        """Return the first value as a finite number, None if it is not one."""
        return next(iter(self.numbers(keyword)), None)

    def fault(self, keyword: str, count: int = 1) -> str:
        """Return what is wrong with numbers that are present: how they read; empty if nothing is.

        Args:
            keyword: An attribute that has nothing to do with a person.
            count: How many numbers it must have.
        """
        tag = tag_for_keyword(keyword)
        place = next((place for place in self._places if tag is not None and tag in place), None)
        if place is None or tag is None or len(self.numbers(keyword)) == count:
            return ""
        try:
            value = getattr(place.get_item(tag), "value", None)
        except Exception:  # pydicom raises anything on an unknown VR
            return "is malformed"
        if value is None or isinstance(value, pydicom.Sequence):
            return EMPTY if value is None else "is malformed"
        if isinstance(value, pydicom.multival.MultiValue):
            value = "\\".join(map(str, value))
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        text = text.strip(" \0")
        if not text:
            return EMPTY
        shown = len(text) <= _LONGEST_SHOWN and _NUMBER_LIKE.fullmatch(text)
        return f"is malformed: {text}" if shown else "is malformed"

    def sound_numbers(self, keywords: Sequence[str], role: str) -> tuple[float | None, ...]:
        """Return single numbers, None where one is absent or empty.

        Raises:
            SpiderError: E31, one is malformed.
        """
        for keyword in keywords:
            fault = self.fault(keyword)
            if fault not in ("", EMPTY):
                code, message = Code.HEADER_CONTRADICTS_PIXELS, f"{keyword} {fault}"
                raise SpiderError(code, message, role=role, attribute=keyword)
        return tuple(map(self.number, keywords))

    def private_number(self, group: int, creator: str, element: int) -> float | None:
        """Return a private value as a finite number, None if it is not one.

        Args:
            group: Group, e.g. 0x0019.
            creator: Its private creator.
            element: Last two digits of the element, e.g. 0x26.
        """
        try:
            with silent_pydicom():
                value = self.dataset.private_block(group, creator)[element].value
            if isinstance(value, bytes):  # of unknown representation: SL, as of the integers
                value = int.from_bytes(value, "little", signed=True) if len(value) == 4 else None
            number = float(value)
        except Exception:  # as for any malformed value
            return None
        return number if math.isfinite(number) else None

    def items(self, keyword: str) -> list[pydicom.Dataset]:
        """Return the items of a sequence, none if absent."""
        value = self.value(keyword)
        return list(value) if isinstance(value, pydicom.sequence.Sequence) else []

    def codes(self, keyword: str) -> list[tuple[str, str, str]]:
        """Return (value, scheme, meaning) of each item of a code sequence, upper case."""
        return [
            (item.text("CodeValue"), item.text("CodingSchemeDesignator"), item.text("CodeMeaning"))
            for item in map(Header, self.items(keyword))
        ]

    def identifiers(self) -> Identifiers:
        """Return the identifiers of the file; absent ones are empty."""
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
