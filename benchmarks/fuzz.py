"""Feed damaged and hostile files to the reading path of a run, and count what becomes of them.

    python -m benchmarks.fuzz --count 20000 --seed 0

Every case spoils a small synthetic study (or a real file below SPIDER_DATA, where there is one)
in a way drawn from seed and number, and takes it through finding, header checks, decoding, pairing
and the network's input; archives and media go through the finder of a batch. Workers
run under an address-space bound; one that takes too long counts as a hang, one that dies as a
crash. Anything but an image or a refusal with a code is a defect: the exit code is 1, and ``--only
NUMBER`` repeats a case with its traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import threading
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from spider_bundle.batch.finder import SANDBOX_MODULES, StudyFinder
from spider_bundle.batch.sandbox import CallError, Child, Sandbox, SlowError, limit_memory
from spider_bundle.dicom.pair import describe_pair
from spider_bundle.dicom.studies import find_studies
from spider_bundle.dicom.transforms import BiplanarRadiographsd
from spider_bundle.dicom.write import SyntheticIdentity, write_cr, write_dx
from spider_bundle.errors import Code, SpiderError
from spider_bundle.geometry import View, ViewPosition, isocentric_view

CANARY = "CANARY^NAME"
"""Text planted in attributes; it may appear in nothing that a run shows."""
KEY = "fuzz"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
XA, ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.1.1"
SHAPE = (96, 88)
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT"}
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010

Pair = tuple[bytes, bytes]
"""A frontal and a lateral file."""


# ---- sound studies


def head_shadow(view: View) -> np.ndarray:
    """Line integrals of an ellipsoid with an eccentric dense ball, shape ``view.shape``."""
    rows, columns = view.shape
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    ray = view.pixel_position(grid) - view.source
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    total = np.zeros(view.shape)
    for centre, axes, mu in (((0, 0, 0), (45, 50, 60), 0.03), ((20, -20, 30), (9, 9, 9), 0.1)):
        p, d = (view.source - np.array(centre)) / np.array(axes), ray / np.array(axes)
        a, b, c = (d * d).sum(-1), (d * p).sum(-1), (p * p).sum() - 1
        total += mu * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a
    return total


def encode(dataset: Dataset) -> bytes:
    """Return the file of a data set as bytes."""
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def sound_pairs() -> list[tuple[str, Pair]]:
    """Synthetic studies of all kinds and encodings, by name."""
    writers: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
        "dx linear": (write_dx, {}),
        "dx log": (write_dx, {"relationship": "LOG", "sign": -1}),
        "dx presentation": (write_dx, {"for_processing": False, "bits": 12}),
        "cr": (write_cr, {}),
    }
    pairs: dict[str, Pair] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (writer, options) in writers.items():
            files = []
            for position in (ViewPosition.PA, ViewPosition.LL):
                view = isocentric_view(
                    position, sod=1000.0, sdd=1200.0, spacing=(2.0, 2.0), shape=SHAPE
                )
                path = Path(folder, "film")
                writer(path, head_shadow(view), view, position, SyntheticIdentity(name), **options)
                files.append(path.read_bytes())
            pairs[name] = (files[0], files[1])
    changes: dict[str, Callable[[Dataset], None]] = {
        "rle": lambda d: d.compress(RLELossless),
        "jpeg 2000": lambda d: d.compress(JPEG2000Lossless),
        "jpeg-ls": lambda d: d.compress(JPEGLSLossless),
        "implicit": lambda d: setattr(d.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian),
        "xa run": _as_run,
        "enhanced xa": _as_enhanced,
    }
    for name, change in changes.items():
        changed = []
        for file in pairs["dx linear"]:
            dataset = pydicom.dcmread(BytesIO(file))
            change(dataset)
            if name == "implicit":
                dataset = _reencoded(dataset)
            changed.append(encode(dataset))
        pairs[name] = (changed[0], changed[1])
    return list(pairs.items())


def _reencoded(dataset: Dataset) -> Dataset:
    stream = BytesIO()
    dataset.save_as(stream, implicit_vr=True, little_endian=True, enforce_file_format=True)
    return pydicom.dcmread(BytesIO(stream.getvalue()))


def _as_run(dataset: Dataset, sop_class: str = XA) -> None:
    """Turn a DX image into a run of three frames."""
    angle = {"PA": "0", "LL": "90"}[dataset.ViewPosition]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.Modality, dataset.NumberOfFrames = "XA", "3"
    dataset.PixelData = dataset.PixelData * 3
    dataset.PositionerPrimaryAngle, dataset.PositionerSecondaryAngle = angle, "0"
    dataset.DistanceSourceToPatient = "1000"
    del dataset.ViewPosition


def _as_enhanced(dataset: Dataset) -> None:
    """Turn a DX image into an enhanced run with functional groups."""
    _as_run(dataset, ENHANCED_XA)
    shared, macro = Dataset(), Dataset()
    macro.ImagerPixelSpacing = dataset.ImagerPixelSpacing
    shared.XAXRFFrameCharacteristicsSequence = [macro]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for _ in range(3):
        frame, positioner, content = Dataset(), Dataset(), Dataset()
        positioner.PositionerPrimaryAngle = float(dataset.PositionerPrimaryAngle)
        content.FrameAcquisitionDateTime = "20000101120000"
        frame.PositionerPositionSequence, frame.FrameContentSequence = [positioner], [content]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames


def real_files() -> list[bytes]:
    """Radiographs below SPIDER_DATA, if there are any."""
    root = Path(__file__).resolve().parents[1]
    data = Path(os.environ.get("SPIDER_DATA", root.parent / "shared" / "data")) / "radiographs"
    files = sorted(p for p in data.rglob("*") if p.is_file() and p.stat().st_size < 3_000_000)
    return [p.read_bytes() for p in files]


# ---- spoiling


@dataclass(frozen=True)
class Element:
    """A top-level element of an Explicit VR Little Endian file, as it lies in the bytes."""

    start: int
    tag: int
    vr: bytes
    value: int
    end: int


def elements(data: bytes) -> list[Element]:
    """Top-level elements after the preamble, as far as they can be found."""
    found, at = [], 132
    while at + 8 <= len(data):
        group, element, vr, length = struct.unpack_from("<HH2sH", data, at)
        value = at + 8
        if vr in LONG_VRS and at + 12 <= len(data):
            (length,), value = struct.unpack_from("<I", data, at + 8), at + 12
        end = len(data) if length == UNDEFINED else min(value + length, len(data))
        found.append(Element(at, group << 16 | element, vr, value, end))
        at = end
    return found


def raw(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Return an element in Explicit VR Little Endian, with a length that may be a lie."""
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    long_form = vr in LONG_VRS
    return (
        head
        + struct.pack(
            "<HI" if long_form else "<H", *((0, size) if long_form else (min(size, 0xFFFF),))
        )
        + value
    )


def put(data: bytes, new: bytes) -> bytes:
    """Replace an element, or insert it where it belongs."""
    group, element = struct.unpack_from("<HH", new)
    tag = group << 16 | element
    for old in elements(data):
        if old.tag >= tag:
            return data[: old.start] + new + data[old.end if old.tag == tag else old.start :]
    return data + new


NUMBERS = [
    *(
        b"0",
        b"-1",
        b"1",
        b"inf",
        b"-inf",
        b"nan",
        b"1e308",
        b"-1e308",
        b"1e-308",
        b"5e-324",
        b"1e16",
    ),
    *(
        b"0\\0",
        b"nan\\nan",
        b"1e200\\1e200",
        b"-3\\4",
        b"",
        b" ",
        b"\\\\\\",
        b"1\\2\\3\\4\\5\\6",
        b"90",
    ),
    *(b"1_0", b"0x10", b"1,5", b"\xff\xfe", b"9" * 400, b"1" * 5000, b"0." + b"3" * 60000),
    *(b"1" + b"\\1" * 30000, b"4294967296", b"2147483648\\-1", b"1e5", b"1000000", b"16", b"0.011"),
]
TEXTS = [
    *(CANARY.encode(), b"", b" ", b"\\", b"\\".join([CANARY.encode()] * 3), b"A" * 60000),
    *(
        b"../../../etc/passwd",
        b"/nowhere/x",
        b"..\\..\\x",
        b"__import__('os').system('x')",
        b"%s%n{0}",
    ),
    *(
        b"\xff\xfe\xfd",
        b"\x1b$B\x1b(J",
        b"\x00\x00",
        b"PA",
        b"LL",
        b"AP\\LL",
        b"L\\F",
        b"R\\R",
        b"H\\F",
    ),
    *(
        b"LRPAHF" * 5000 + b"\\F",
        b"L\\F\\P",
        b"YES",
        b"RECTANGULAR\\CIRCULAR\\POLYGONAL",
        b"LIN",
        b"LOG",
    ),
]
DATES = [b"99991231", b"00000000", b"20000230", b"99991231235960.999999+1400", b"2000", b"a" * 300]
CHARSETS = [b"ISO_IR 192", b"ISO 2022 IR 87\\ISO 2022 IR 159", b"utf_7", b"unicode_escape", b"idna"]
CHARSETS += [b"ISO_IR 999", b"\\ISO 2022 IR 149", b"zlib_codec", b"punycode", b"undefined", b"\xff"]
NUMERIC_KEYWORDS = [
    *("DistanceSourceToDetector", "DistanceSourceToPatient", "DistanceSourceToIsocenter"),
    *("ImagerPixelSpacing", "PixelSpacing", "EstimatedRadiographicMagnificationFactor"),
    *("PositionerPrimaryAngle", "PositionerSecondaryAngle", "PositionerPrimaryAngleIncrement"),
    *("FieldOfViewRotation", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge"),
    *("CollimatorLeftVerticalEdge", "CollimatorRightVerticalEdge", "CenterOfCircularCollimator"),
    *("RadiusOfCircularCollimator", "RadiusOfCircularShutter", "VerticesOfThePolygonalCollimator"),
    *("VerticesOfThePolygonalShutter", "CenterOfCircularShutter", "InstanceNumber"),
    *(
        "PixelIntensityRelationshipSign",
        "BitsStored",
        "BitsAllocated",
        "HighBit",
        "Rows",
        "Columns",
    ),
    *("PixelRepresentation", "SamplesPerPixel", "NumberOfFrames", "LossyImageCompressionRatio"),
]
TEXT_KEYWORDS = [
    *("PatientOrientation", "ViewPosition", "PhotometricInterpretation", "ImageLaterality"),
    *("PixelIntensityRelationship", "ImageType", "BodyPartExamined", "PixelSpacingCalibrationType"),
    *("CollimatorShape", "ShutterShape", "DetectorType", "BurnedInAnnotation", "Modality"),
    *("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID", "AccessionNumber"),
    *("SOPClassUID", "FrameOfReferenceUID", "PositionerType", "StudyID", "StudyDescription"),
    *("ConversionType", "LossyImageCompression", "PresentationIntentType", "StudyDate"),
]
SEQUENCE_KEYWORDS = [
    *(
        "ViewCodeSequence",
        "AnatomicRegionSequence",
        "ModalityLUTSequence",
        "DerivationCodeSequence",
    ),
    *("PixelIntensityRelationshipLUTSequence", "MaskSubtractionSequence"),
    *("ViewModifierCodeSequence", "ProjectionEponymousNameCodeSequence"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
]
VRS = [b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OW PN SH SL SQ SS ST SV TM UC UI UL UN UR"]
VRS = [*VRS[0].split(), b"US", b"UT", b"UV", b"OV", b"ZZ", b"\0\0", b"  ", b"xx"]
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"


def tag_of(keyword: str) -> int:
    """Tag of a keyword as an integer."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    return int(tag)


def flip(rng: random.Random, data: bytes) -> bytes:
    """Change some bytes, more often in the header."""
    out = bytearray(data)
    reach = len(out) if rng.random() < 0.3 else min(len(out), 2500)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64))):
        out[rng.randrange(reach)] = rng.choice((0, 255, rng.randrange(256), rng.randrange(256)))
    return bytes(out)


def flip_pixels(rng: random.Random, data: bytes) -> bytes:
    """Change some bytes of the pixel data, mostly at its start."""
    at = data.rfind(b"\xe0\x7f\x10\x00")
    if at < 0:
        return flip(rng, data)
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16, 64))):
        reach = min(len(out), at + rng.choice((12, 200, 200, len(out))))
        out[rng.randrange(at, reach)] = rng.randrange(256)
    return bytes(out)


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Cut the file."""
    return data[: rng.randrange(len(data))]


def splice(rng: random.Random, data: bytes) -> bytes:
    """Leave a piece out, repeat one, or put noise in."""
    first, size = rng.randrange(len(data)), rng.choice((1, 2, 8, 64, 512))
    piece = rng.choice((b"", data[first : first + size] * 2, rng.randbytes(size)))
    return data[:first] + piece + data[first + size :]


def edit_element(rng: random.Random, data: bytes) -> bytes:
    """Change tag, VR or length of an element, leave it out, or repeat it."""
    chosen = rng.choice(elements(data) or [Element(0, 0, b"", 8, len(data))])
    whole, value = data[chosen.start : chosen.end], data[chosen.value : chosen.end]
    length = rng.choice((0, 1, 3, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, UNDEFINED, len(value) + 1))
    new = rng.choice(
        (
            lambda: b"",
            lambda: whole * rng.choice((2, 3, 100)),
            lambda: raw(rng.getrandbits(32), chosen.vr, value),
            lambda: raw(chosen.tag, rng.choice(VRS), value),
            lambda: raw(chosen.tag, chosen.vr, value, length),
            lambda: raw(chosen.tag, rng.choice((b"UN", b"OB", b"SQ", b"UT")), value, length),
            lambda: raw(chosen.tag, rng.choice(VRS), rng.randbytes(rng.choice((1, 2, 4, 8, 33)))),
        )
    )()
    return data[: chosen.start] + new + data[chosen.end :]


def wild_number(rng: random.Random, data: bytes) -> bytes:
    """Give a numeric attribute a value that is none."""
    tag, value = tag_of(rng.choice(NUMERIC_KEYWORDS)), rng.choice(NUMBERS)
    packed = struct.pack(
        *rng.choice(
            (
                ("<H", rng.choice((0, 1, 2, 15, 17, 64, 65535))),
                ("<d", rng.choice((0.0, -1.0, float("inf"), float("nan"), 1e308, 1e-308, 3.7))),
                ("<f", rng.choice((0.0, float("inf"), float("nan"), 1e-38))),
                ("<ddd", 1e200, float("nan"), -1e200),
            )
        )
    )
    kinds = {2: b"US", 8: b"FD", 4: b"FL", 24: b"FD"}
    return put(
        data,
        raw(tag, kinds[len(packed)], packed)
        if rng.random() < 0.4
        else raw(tag, rng.choice((b"DS", b"DS", b"IS", b"UT", b"UN", b"LO")), value),
    )


def wild_text(rng: random.Random, data: bytes) -> bytes:
    """Give a text attribute a value of any kind."""
    keyword, value = rng.choice(TEXT_KEYWORDS), rng.choice(TEXTS)
    vr = rng.choice((b"CS", b"LO", b"UI", b"PN", b"UT", b"UN", b"DS", b"AT", b"SQ"))
    return put(data, raw(tag_of(keyword), vr, value))


def wild_time(rng: random.Random, data: bytes) -> bytes:
    """Give times and character sets values of any kind."""
    keyword = rng.choice(
        ("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "ContentDate")
    )
    data = put(data, raw(tag_of(keyword), rng.choice((b"DA", b"TM", b"DT")), rng.choice(DATES)))
    if rng.random() < 0.6:
        data = put(data, raw(0x00080005, b"CS", rng.choice(CHARSETS)))
        name = rng.choice(
            (b"\x1b$)C\xfb\xf3^\x1b", b"+AGEA-", b"\\ud800", b"\xc3\x28", b"\xed\xa0\x80")
        )
        for keyword in ("PatientID", "StudyInstanceUID", "ViewPosition", "AccessionNumber"):
            data = put(data, raw(tag_of(keyword), rng.choice((b"LO", b"UI", b"PN", b"UT")), name))
    return data


def nest(rng: random.Random, depth: int, *, lying: bool = False) -> bytes:
    """Value of a sequence that holds itself, with or without stated lengths."""
    tag = tag_of(rng.choice(SEQUENCE_KEYWORDS))
    head = raw(tag, b"SQ", b"", UNDEFINED) + ITEM + struct.pack("<I", UNDEFINED)
    tail = ITEM_END + bytes(4) + SEQUENCE_END + bytes(4)
    if rng.random() < 0.5 or lying:
        return (head * depth)[12:] + (b"" if lying else (tail * depth))
    inner = b""
    for _ in range(min(depth, 3000)):
        inner = raw(tag, b"SQ", ITEM + struct.pack("<I", len(inner)) + inner)
    return inner[12:]


def sequences(rng: random.Random, data: bytes) -> bytes:
    """Empty, wide, deep, lying and meaningless sequences."""
    tag = tag_of(rng.choice((*SEQUENCE_KEYWORDS, *TEXT_KEYWORDS, *NUMERIC_KEYWORDS)))
    kind = rng.randrange(6)
    if kind == 0:
        return put(data, raw(tag, b"SQ", b""))
    if kind == 1:
        value = (ITEM + bytes(4)) * rng.choice((1, 50, 20_000))
        return put(data, raw(tag, b"SQ", value, rng.choice((None, UNDEFINED))))
    if kind == 2:
        return put(data, raw(tag, b"SQ", nest(rng, rng.choice((10, 1000, 1000, 20_000)))))
    if kind == 3:
        lying = rng.random() < 0.5
        return put(data, raw(tag, b"SQ", nest(rng, 1000, lying=lying), UNDEFINED))
    if kind == 4:  # pixel attributes in a functional group belie the real ones
        name, value = rng.choice(
            (("Rows", 10), ("Columns", 9), ("BitsStored", 1), ("BitsStored", 999))
        )
        inner = raw(tag_of(name), b"US", struct.pack("<H", value))
        if rng.random() < 0.5:
            inner = raw(tag_of(name), b"DS", rng.choice(NUMBERS)[:60])
        macro = raw(0x00289145, b"SQ", ITEM + struct.pack("<I", len(inner)) + inner)
        group = ITEM + struct.pack("<I", len(macro)) + macro
        return put(data, raw(tag_of("SharedFunctionalGroupsSequence"), b"SQ", group))
    item = rng.randbytes(rng.choice((4, 40)))
    return put(data, raw(tag, b"SQ", ITEM + struct.pack("<I", len(item)) + item))


def look_up_table(rng: random.Random, data: bytes) -> bytes:
    """Return a modality look-up table that is none."""
    descriptor = rng.choice(
        (b"4096\\0\\16", *NUMBERS[:20], b"4\\1e300\\16", b"-5\\0\\16", b"0\\0\\8")
    )
    kind = rng.choice((b"DS", b"IS", b"UT"))
    if rng.random() < 0.3:
        descriptor, kind = struct.pack("<HHH", 4096, 0, 16), b"US"
    table = rng.choice(
        (rng.randbytes(8192), b"", b"\0", rng.randbytes(4095), b"1\\2\\x", bytes(64))
    )
    vr = rng.choice((b"OW", b"OB", b"US", b"LO", b"DS", b"FD", b"UN", b"SQ"))
    body = raw(tag_of("LUTDescriptor"), kind, descriptor) + raw(tag_of("LUTData"), vr, table)
    body += raw(tag_of("LUTFunction"), b"CS", rng.choice((b"TO_LINEAR", b"TO_LOG")))
    item = ITEM + struct.pack("<I", len(body)) + body
    keyword = rng.choice(("ModalityLUTSequence", "PixelIntensityRelationshipLUTSequence"))
    data = put(data, raw(tag_of("PixelIntensityRelationship"), b"CS", rng.choice((b"LIN", b"LOG"))))
    return put(data, raw(tag_of(keyword), b"SQ", item))


_DEFLATED_ZEROS = zlib.compress(bytes(64 << 20), 9)[2:-4]


def sized(data: bytes, rows: int, columns: int) -> bytes:
    """Return the file with another declared size."""
    for keyword, value in (("Rows", rows), ("Columns", columns)):
        data = put(data, raw(tag_of(keyword), b"US", struct.pack("<H", value)))
    return data


def encapsulated(data: bytes, syntax: str, frame: bytes) -> bytes:
    """Return the file with another transfer syntax and one encapsulated frame."""
    pixels = ITEM + bytes(4) + ITEM + struct.pack("<I", len(frame)) + frame
    data = put(data, raw(0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2)))
    value = pixels + SEQUENCE_END + bytes(4)
    return put(data, raw(PIXEL_DATA, b"OB", value, UNDEFINED))


def j2k_codestream(rows: int, columns: int, tile: int | None = None) -> bytes:
    """Head of a JPEG 2000 codestream that declares one component of that size."""
    edge = (tile, tile) if tile else (columns, rows)
    size = struct.pack(">HHIIIIIIIIH", 41, 0, columns, rows, 0, 0, *edge, 0, 0, 1) + b"\x0f\1\1"
    cod = b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01"
    qcd = b"\xff\x5c\x00\x13\x40" + bytes(range(0x40, 0x50))
    sot = b"\xff\x90\x00\x0a" + struct.pack(">HIBB", 0, 0, 0, 1)
    return b"\xff\x4f\xff\x51" + size + cod + qcd + sot + b"\xff\x93" + bytes(200) + b"\xff\xd9"


def jpeg_codestream(rows: int, columns: int, marker: int = 0xC3) -> bytes:
    """Head of a lossless JPEG or JPEG-LS codestream that declares one component of that size."""
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 11, 16, rows, columns, 1) + b"\x01\x11\x00"
    table = b"\xff\xc4\x00\x14\x00" + b"\0\1\5\1\1\1\1\1\1\0\0\0\0\0\0\0"[:16] + b"\0"
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"
    tables = b"" if marker == 0xF7 else table
    return b"\xff\xd8" + frame + tables + scan + bytes(400) + b"\xff\xd9"


def bomb(rng: random.Random, data: bytes) -> bytes:
    """Declare or pack far more than is there."""
    rows, columns = rng.choice(((65535, 65535), (65535, 1), (30_000, 30_000), (9999, 9999), SHAPE))
    large = rng.choice((65535, 40_000, 20_000))
    j2k, jls, jpeg, rle = (f"1.2.840.10008.1.2.{n}" for n in ("4.90", "4.80", "4.70", "5"))
    kind = rng.randrange(10)
    if kind == 0:
        data = sized(data, rows, columns)
    elif kind == 1:
        frames = rng.choice((b"0", b"-5", b"2", b"1000000", b"2147483647", b"99999999999999", b"x"))
        data = put(data, raw(tag_of("NumberOfFrames"), b"IS", frames))
    elif kind == 2:
        data = encapsulated(data, j2k, j2k_codestream(large, large))
    elif kind == 3:
        data = encapsulated(data, j2k, j2k_codestream(large, large, rng.choice((1, 300))))
    elif kind == 4:
        data = encapsulated(data, jls, jpeg_codestream(large, large, 0xF7))
    elif kind == 5:
        data = encapsulated(data, jpeg, jpeg_codestream(large, large))
    elif kind == 6:  # runs of 128 equal bytes
        body = b"\x81\0" * rng.choice((100, 1_000_000))
        frame = struct.pack("<16I", 2, 64, 64 + len(body), *([0] * 13)) + body * 2
        data = encapsulated(sized(data, rows, columns) if rng.random() < 0.5 else data, rle, frame)
    elif kind == 7:
        head = elements(data)
        at = next((e.start for e in head if e.tag >> 16 != 2), len(data))
        syntax = raw(0x00020010, b"UI", DEFLATED.encode())
        data = put(data[:at], syntax) + _DEFLATED_ZEROS
    elif kind == 8:
        maker = rng.choice((j2k_codestream, jpeg_codestream))
        data = encapsulated(data, rng.choice((j2k, jls, jpeg, rle)), maker(*SHAPE))
    else:
        long = rng.choice((b"1\\", CANARY.encode() + b"\\")) * 400_000
        keyword = rng.choice((*NUMERIC_KEYWORDS, *TEXT_KEYWORDS))
        data = put(data, raw(tag_of(keyword), rng.choice((b"UT", b"UC", b"UN")), long))
    return data


SPOILERS = [flip, flip, flip_pixels, flip_pixels, truncate, splice, edit_element, edit_element]
SPOILERS += [wild_number, wild_number, wild_number, wild_text, wild_text, wild_time, sequences]
SPOILERS += [sequences, look_up_table, bomb, bomb]


# ---- cases


class DefectError(Exception):
    """An outcome that no file may have, though nothing was raised."""


@dataclass(frozen=True)
class Case:
    """Files to read.

    Attributes:
        what: What it is.
        overrides: Those to read the pair with.
        source: What the search of a batch is given, in place of reading a pair.
    """

    what: str
    overrides: dict[str, Any] = field(default_factory=dict)
    source: Path | None = None


def make_case(
    number: int, seed: int, pairs: list[tuple[str, Pair]], reals: list[bytes], folder: Path
) -> Case:
    """Write the files of a case."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.random()
    if kind < 0.05:
        return Case(make_archive(rng, pairs, folder), source=folder)
    if kind < 0.1:
        return Case(make_medium(rng, pairs, folder), source=folder)
    name, (frontal, lateral) = rng.choice(pairs)
    if reals and rng.random() < 0.02:
        name, frontal = "real", rng.choice(reals)
    files = [frontal, lateral]
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spoil = rng.choice(SPOILERS)
        done.append(spoil.__name__)
        state = rng.getstate()
        for index in rng.choice(((0,), (1,), (0, 1))):
            rng.setstate(state)  # so that both files can be spoilt alike
            files[index] = spoil(rng, files[index] or b"\0")
    for role, file in zip(("frontal", "lateral"), files, strict=True):
        (folder / role).write_bytes(file)
    overrides: dict[str, Any] = {}
    if "xa" in name or rng.random() < 0.1:
        overrides["frame"] = rng.choice((0, 0, 1, 2, 3))
    if rng.random() < 0.25:
        overrides |= {"sod": 1000, "sdd": 1200, "pitch": 2.0, "log_scale": 6553.5}
        overrides |= {"frontal": {"view": "PA"}, "lateral": {"view": "LL"}}
    return Case(f"{name}: {', '.join(done)}", overrides)


FILE_IDS: list[list[str]] = [
    *(["IMAGES", "IM1"], ["IMAGES", "IM2"], ["images", "im1"], ["IMAGES"], ["IMAGES", "IM9"]),
    *(["..", "OUTSIDE", "IM1"], ["IMAGES", "..", "..", "OUTSIDE", "IM1"], ["../OUTSIDE/IM1"]),
    *(
        ["/etc/passwd"],
        ["", "etc", "passwd"],
        ["C:\\x"],
        ["."],
        ["LINK", "IM1"],
        ["FILE"],
        ["LOOP"],
    ),
    *(["A" * 5000], ["A"] * 300, ["\0"], ["DICOMDIR"], [CANARY], ["~", "x"], [" "]),
]
_SPOIL_DIRECTORY = [flip, flip, truncate, splice, edit_element, edit_element, sequences, wild_text]


def make_medium(rng: random.Random, pairs: list[tuple[str, Pair]], folder: Path) -> str:
    """Write a file-set whose directory names what it likes: absent files, others, circles."""
    (name, files), (_, others) = rng.choice(pairs), rng.choice(pairs)
    outside = folder.parent / "OUTSIDE"
    for place, pair in ((folder / "IMAGES", files), (outside, others)):
        place.mkdir()
        for number, file in enumerate(pair, 1):
            (place / f"IM{number}").write_bytes(file)
    (folder / "LINK").symlink_to(outside, target_is_directory=True)
    (folder / "LOOP").symlink_to(folder / "LOOP")
    (folder / "FILE").symlink_to(outside / "IM1")
    records = []
    for file_id in [*FILE_IDS[:2], *rng.choices(FILE_IDS, k=rng.choice((0, 1, 3)))]:
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = rng.choice((0, 0, 1, 380, 0xFFFFFFFF))
        record.RecordInUseFlag = rng.choice((0, 0xFFFF))
        record.OffsetOfReferencedLowerLevelDirectoryEntity = rng.choice((0, 380, 2**31))
        record.DirectoryRecordType = rng.choice(("IMAGE", "PATIENT", "x"))
        record.ReferencedFileID = file_id
        if rng.random() < 0.1:
            record.DirectoryRecordSequence = [Dataset()]
        records.append(record)
    directory = folder / "DICOMDIR"
    write_directory(directory, records * rng.choice((1, 1, 1, 200)))
    if rng.random() < 0.2:
        return f"medium of {name}"
    spoil = rng.choice(_SPOIL_DIRECTORY)
    data = directory.read_bytes()
    if rng.random() < 0.1:  # deflated, with or without what that asks for
        data = put(data, raw(0x00020010, b"UI", DEFLATED.encode()))
    directory.write_bytes(spoil(rng, data))
    return f"medium of {name}: {spoil.__name__}"


def write_directory(path: Path, records: list[Dataset]) -> None:
    """Write a DICOMDIR of such records, whatever they hold."""
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.FileSetID = "FUZZ"
    directory.DirectoryRecordSequence = records
    directory.save_as(path, enforce_file_format=True)


def make_archive(rng: random.Random, pairs: list[tuple[str, Pair]], folder: Path) -> str:
    """Write a zip archive with a study and hostile names, sizes and bytes."""
    name, files = rng.choice(pairs)
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as z:
        for index, file in enumerate(files):
            prefix = rng.choice(
                ("", "../../", "/nowhere/", "C:\\", "a/" * 500, "..\\", "\u202e", "~/")
            )
            z.writestr(f"{prefix}{index}.dcm", file)
        if rng.random() < 0.1:
            z.writestr("bomb", bytes(8 << 20), zipfile.ZIP_DEFLATED)
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        z.writestr(link, "/etc/passwd")
    data = stream.getvalue()
    spoil = rng.choice((flip, flip_tail, truncate, splice, lambda rng, data: data))
    (folder / "study.zip").write_bytes(b"PK\3\4" + spoil(rng, data)[4:])
    return f"archive of {name}: {spoil.__name__}"


def flip_tail(rng: random.Random, data: bytes) -> bytes:
    """Change some bytes of the archive's table of contents."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        out[-rng.randrange(1, min(len(out), 400))] = rng.choice((0, 255, rng.randrange(256)))
    return bytes(out)


def read_case(folder: Path, overrides: dict[str, Any]) -> str:
    """Take the files of a case through the reading path: ``read``, or codes of the refusal.

    Raises:
        DefectError: What came out is not sound.
    """
    paths = (folder / "frontal", folder / "lateral")
    studies = find_studies(folder, key=KEY).studies
    transform = BiplanarRadiographsd(8.0, 8, 64, 3.2, overrides=overrides, key=KEY)
    messages = [f.message for study in studies for f in study.findings]
    films = describe_pair(paths, transform.overrides, key=KEY, keep_identity=True)
    messages += [f.message for f in films.findings]
    _check_messages(messages)
    try:
        item = transform({"image": {"frontal": paths[0], "lateral": paths[1]}})
    except SpiderError as error:
        _check_messages([f.message for f in error.findings])
        return "refused " + "+".join(sorted({f.code.value for f in error.errors}))
    image, provenance = item["image"], item["image"].meta["provenance"]
    report = json.dumps(asdict(replace(provenance, read_seconds=0.0)))
    _check_messages([report])
    json.loads(report, parse_constant=_no_constant)
    sound = bool(image.isfinite().all() and image.min() >= 0 and image.max() <= 1)
    if not sound or not image.meta["projection"].isfinite().all():
        raise DefectError("image or projection not finite")
    return "read"


def _no_constant(name: str) -> None:
    raise DefectError(f"{name} in the report")


def _check_messages(messages: list[str]) -> None:
    for message in messages:
        if "CANARY" in message.upper():
            raise DefectError("text of an attribute is shown")
        if len(message) > 20_000:
            raise DefectError("a message without bounds")


def read_input(source: Path, sandbox: Sandbox) -> str:
    """Find the studies of an archive or a medium: ``read``, or codes of the refusals.

    Raises:
        DefectError: What was done or came out is not sound.
    """
    parent = source.parent
    with tempfile.TemporaryDirectory(dir=parent) as workspace:
        before = sorted(p.name for p in parent.iterdir())
        found = StudyFinder(source, Path(workspace), KEY, sandbox=sandbox).find()
        names = [p.name for p in Path(workspace).rglob("*") if p.is_file()]
        if not all(name.isdigit() for name in names):
            raise DefectError("a name out of the archive was used")
        if sorted(p.name for p in parent.iterdir()) != before:
            raise DefectError("something was written outside of the workspace")
    _check_messages([fact["message"] for r in found.refusals for fact in r.findings])
    codes = sorted({code for refusal in found.refusals for code in refusal.codes})
    if Code.FILE_NOT_EXAMINED in codes:
        raise DefectError("the process that reads headers hung, died or failed")
    return "read" if found.jobs else f"refused {'+'.join(codes) or 'as no study'}"


def run_case(
    number: int, seed: int, pairs: list[tuple[str, Pair]], reals: list[bytes], sandbox: Sandbox
) -> tuple[str, str]:
    """Outcome of a case and what it is."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "in")
        folder.mkdir()
        case = make_case(number, seed, pairs, reals, folder)
        try:
            if case.source:
                return read_input(case.source, sandbox), case.what
            return read_case(folder, case.overrides), case.what
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a decoder's panic is no Exception
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "spider_bundle" in frame.filename]
            place = (ours or frames)[-1]
            at = f"{Path(place.filename).name}:{place.lineno} {place.name}"
            return f"uncoded {type(error).__name__} {at} {str(error)[:80]}", case.what


def prepare(seed: int, extra: int) -> Callable[[int], tuple[str, str, int, float]]:
    """Load what all cases need; return what runs a case by its number.

    It tells the outcome and the kind of the case, the peak memory of the process so far (KiB) and
    the CPU time (s).
    """
    pairs, reals, sandbox = sound_pairs(), real_files(), Sandbox(SANDBOX_MODULES, extra)
    run_case(-1, seed, pairs, reals, sandbox)  # loads what is loaded late
    limit_memory(extra)

    def run(number: int) -> tuple[str, str, int, float]:
        before = time.process_time()
        outcome = run_case(number, seed, pairs, reals, sandbox)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (*outcome, peak, time.process_time() - before)

    return run


def main() -> None:
    """Run all cases, print the counts; ends with exit code 1 if there is a defect."""
    options = parse_options()
    if options.only is not None:
        pairs, reals = sound_pairs(), real_files()
        folder = Path(tempfile.mkdtemp())
        (folder / "in").mkdir()
        case = make_case(options.only, options.seed, pairs, reals, folder / "in")
        print(case, folder)
        sandbox = Sandbox(SANDBOX_MODULES)
        done = (
            read_input(case.source, sandbox)
            if case.source
            else read_case(folder / "in", case.overrides)
        )
        sandbox.close()
        print(done)
        return
    start = time.monotonic()
    counts: Counter[str] = Counter()
    defects: dict[str, list[str]] = {}
    scratch = tempfile.mkdtemp(prefix="fuzz")
    os.environ["TMPDIR"] = scratch
    os.environ["RUST_BACKTRACE"] = "0"  # the finding of a decoder's panic says enough
    slowest, spent, peak = 0.0, 0.0, 0
    local = threading.local()

    def isolated(number: int) -> tuple[str, str, int, float] | None:
        """Run a case in the process of this thread; one that is lost is replaced."""
        if time.monotonic() - start > options.limit:
            return None
        child: Child | None = getattr(local, "child", None)
        if child is None:
            child = local.child = Child(prepare, options.seed, options.memory << 20)
            child.start(300)
        try:
            result: tuple[str, str, int, float] = child.call(number, seconds=options.seconds)
        except CallError as error:
            child.kill()
            local.child = None
            return "hang" if isinstance(error, SlowError) else f"crash ({error})", "", 0, 0.0
        return result

    with ThreadPoolExecutor(options.workers) as threads:
        for number, result in enumerate(threads.map(isolated, range(options.count))):
            if result is None:
                continue
            outcome, what, kibibytes, seconds = result
            counts[outcome] += 1
            slowest, spent, peak = max(slowest, seconds), spent + seconds, max(peak, kibibytes)
            if not outcome.startswith(("read", "refused")):
                defects.setdefault(outcome, []).append(f"{number} ({what})")
                print(number, what, outcome, file=sys.stderr, flush=True)
    shutil.rmtree(scratch, ignore_errors=True)
    groups: Counter[str] = Counter()
    for outcome, count in counts.items():
        groups[outcome.split(" ")[0]] += count
    result = {
        "seed": options.seed,
        "cases": sum(counts.values()),
        **{kind: groups[kind] for kind in ("read", "refused", "uncoded", "crash", "hang")},
        "codes": dict(counts.most_common()),
        "slowest_cpu_s": round(slowest, 2),
        "mean_cpu_s": round(spent / max(sum(counts.values()), 1), 4),
        "peak_mb": peak // 1024,
        "seconds": round(time.monotonic() - start),
        "defects": {k: [len(v), *v[:5]] for k, v in defects.items()},
    }
    print(json.dumps(result, indent=1))
    raise SystemExit(1 if defects else 0)


def parse_options() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=20_000, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--memory", type=int, default=2048, help="MB above those at the start")
    parser.add_argument("--seconds", type=float, default=120.0, help="time limit of a case")
    parser.add_argument("--limit", type=float, default=86_400.0, help="start no case after, s")
    parser.add_argument("--only", type=int, help="number of a case to repeat")
    return parser.parse_args()


if __name__ == "__main__":
    main()
