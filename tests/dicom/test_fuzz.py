"""Damaged and hostile files end as an image or as a refusal with a code, and as nothing else."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from spider_bundle.dicom import field, header
from spider_bundle.dicom.film import describe
from spider_bundle.dicom.load import Radiograph
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.studies import find_studies, study_key
from spider_bundle.errors import Code, SpiderError
from tests.films import read_radiograph

from .conftest import Writer

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "fuzz.py"
J2K, JPEG_LS, JPEG = (f"1.2.840.10008.1.2.4.{n}" for n in (90, 80, 70))


def refusal(path: Path, overrides: Overrides | None = None) -> dict[str, str]:
    """Message by code of the errors of a file."""
    with pytest.raises(SpiderError) as caught:
        read_radiograph(path, overrides)
    return {found.code.value: found.message for found in caught.value.errors}


def outcome(path: Path, overrides: Overrides | None = None) -> set[str]:
    """Codes of the refusal of a file; empty if it was read to finite values."""
    try:
        read = read_radiograph(path, overrides)
    except SpiderError as error:
        return {found.code.value for found in error.errors}
    return set() if np.isfinite(read.pixels).all() else {"not finite"}


def warned(radiograph: Radiograph, code: Code) -> bool:
    return any(found.code is code for found in radiograph.findings)


def test_thousands_of_spoilt_files_do_no_harm() -> None:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--count", "3000", "--seed", "7"]
    done = subprocess.run(
        [*command, "--limit", "80"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["defects"] == {}
    assert done.returncode == 0
    # The limit of time decides how many there are; both outcomes must be among them.
    assert result["read"] > 5
    assert result["refused"] > 20


VALUES = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.integers().map(lambda number: str(number).encode()),
    st.floats().map(lambda number: str(number).encode()),
    st.lists(st.floats(), max_size=4).map(lambda many: b"\\".join(str(x).encode() for x in many)),
)
"""Bytes that an element may hold."""


@pytest.fixture(scope="module")
def sound(fuzz: ModuleType) -> list[tuple[bytes, bytes]]:
    return [files for _, files in fuzz.sound_pairs()[:2]]


@settings(max_examples=500, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_elements_hold_the_pair_is_read_or_refused(
    fuzz: ModuleType, sound: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    """Hypothesis looks for values, and names the simplest that does harm."""
    files = data.draw(st.sampled_from(sound))
    keywords = st.sampled_from([*fuzz.NUMERIC_KEYWORDS, *fuzz.TEXT_KEYWORDS])
    edits = st.lists(st.tuples(keywords, st.sampled_from(fuzz.VRS), VALUES), max_size=3)
    with tempfile.TemporaryDirectory() as folder:
        for role, content in zip(("frontal", "lateral"), files, strict=True):
            for keyword, vr, value in data.draw(edits, label=role):
                content = fuzz.put(content, fuzz.raw(fuzz.tag_of(keyword), vr, value))
            Path(folder, role).write_bytes(content)
        assert fuzz.read_case(Path(folder), {}).startswith(("read", "refused E", "refused P"))


@pytest.mark.parametrize(
    ("number", "seed", "name", "decoder"),
    [(1636, 3, "jpeg 2000", "openjpeg"), (14197, 0, "jpeg-ls", "jpeg_ls")],
)
def test_a_codestream_on_which_gdcm_aborts_is_refused(
    number: int, seed: int, name: str, decoder: str, tmp_path: Path
) -> None:
    pytest.importorskip(decoder)
    case = ["--only", str(number), "--seed", str(seed)]
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *case]
    nothing_real = {**os.environ, "SPIDER_DATA": str(tmp_path)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=nothing_real
    )
    assert f"what='{name}: flip_pixels'" in done.stdout
    assert "refused E02" in done.stdout, done.stderr
    assert done.returncode == 0


# ---- what is deep, wide or long


def test_a_deep_sequence_in_place_of_text_is_no_text(write: Writer, fuzz: ModuleType) -> None:
    path = write("PA")
    value = fuzz.nest(fuzz.random.Random(1), 1000)
    path.write_bytes(fuzz.put(path.read_bytes(), fuzz.raw(0x00185101, b"SQ", value)))
    start = time.process_time()
    assert describe(path).view_position == ""
    read_radiograph(path)  # the view code still tells the view
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "keyword", ["PlanarConfiguration", "PixelRepresentation", "BitsStored", "ExtendedOffsetTable"]
)
def test_a_deep_sequence_where_a_decoder_looks_is_refused(
    write: Writer, fuzz: ModuleType, keyword: str
) -> None:
    path = write("PA")
    value = fuzz.nest(fuzz.random.Random(1), 1000)
    path.write_bytes(fuzz.put(path.read_bytes(), fuzz.raw(fuzz.tag_of(keyword), b"SQ", value)))
    start = time.process_time()
    described = keyword in ("PixelRepresentation", "BitsStored")
    assert set(refusal(path)) == {"E31" if described else "E02"}
    assert time.process_time() - start < 5


@pytest.mark.parametrize("keyword", ["StudyID", "PatientName", "PatientID", "StudyInstanceUID"])
def test_identity_in_a_sequence_is_none(write: Writer, fuzz: ModuleType, keyword: str) -> None:
    path = write("PA")
    new = fuzz.raw(fuzz.tag_of(keyword), b"SQ", fuzz.nest(fuzz.random.Random(2), 1000))
    path.write_bytes(fuzz.put(path.read_bytes(), new))
    assert keyword not in describe(path, keep_identity=True).identity.attributes


def test_a_file_of_tiny_items_is_given_up(
    write: Writer, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "MAXIMUM_READS", 20_000)
    path = write("PA")
    sound = path.read_bytes()
    for count, accepted in ((100, True), (30_000, False)):
        items = (fuzz.ITEM + bytes(4)) * count + fuzz.SEQUENCE_END + bytes(4)
        new = fuzz.raw(0x00540220, b"SQ", items, 0xFFFFFFFF)
        path.write_bytes(fuzz.put(sound, new))
        if accepted:
            with header.FilmStream(path) as stream:
                stream.parse("frontal", pixels=True)
        else:
            assert set(refusal(path)) == {"E01"}


@pytest.mark.parametrize("vr", [b"UT", b"UN"])
def test_a_million_numbers_are_not_parsed(write: Writer, fuzz: ModuleType, vr: bytes) -> None:
    path = write("PA")
    new = fuzz.raw(fuzz.tag_of("ImagerPixelSpacing"), vr, b"1.8\\" * 1_000_000)
    path.write_bytes(fuzz.put(path.read_bytes(), new))
    start = time.process_time()
    assert "malformed" in refusal(path)["E12"]
    assert time.process_time() - start < 2


def test_a_long_orientation_is_not_repeated(write: Writer, fuzz: ModuleType) -> None:
    path = write("PA")
    new = fuzz.raw(fuzz.tag_of("PatientOrientation"), b"UT", b"L" * 20_000 + b"\\F")
    path.write_bytes(fuzz.put(path.read_bytes(), new))
    assert len(refusal(path)["E10"]) < 200


# ---- bombs and lies about the size


@pytest.mark.parametrize("edge", [4000, 65535])
@pytest.mark.parametrize(
    ("syntax", "maker", "arguments"),
    [
        (J2K, "j2k_codestream", ()),
        (J2K, "j2k_codestream", (1,)),
        (JPEG_LS, "jpeg_codestream", (0xF7,)),
        (JPEG, "jpeg_codestream", ()),
    ],
)
def test_a_codestream_larger_than_declared_is_not_decoded(
    write: Writer,
    fuzz: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    syntax: str,
    maker: str,
    arguments: tuple[int, ...],
    edge: int,
) -> None:
    def decoded(*_: object, **__: object) -> None:
        pytest.fail("a decoder was started")

    monkeypatch.setattr("pydicom.pixels.pixel_array", decoded)
    path = write("PA")
    frame = getattr(fuzz, maker)(edge, edge, *arguments)
    path.write_bytes(fuzz.encapsulated(path.read_bytes(), syntax, frame))
    assert set(refusal(path)) == {"E02"}


def test_odd_tiles_and_a_second_frame_header_are_refused(
    write: Writer, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *_, **__: pytest.fail("decoded"))
    path = write("PA")
    sound = path.read_bytes()
    rows, columns = pydicom.dcmread(path).pixel_array.shape
    jpeg = fuzz.jpeg_codestream(rows, columns)
    twice = jpeg[:15] + fuzz.jpeg_codestream(65535, 65535)[2:]
    # tiles that begin beside the image, on which GDCM aborts; XTOsiz is 24 bytes after Xsiz
    beside = bytearray(fuzz.j2k_codestream(rows, columns))
    at = beside.find(b"\xff\x51") + 6 + 24
    beside[at : at + 4] = struct.pack(">I", columns)
    tiny = fuzz.j2k_codestream(rows, columns, 1)
    for syntax, frame in ((J2K, tiny), (J2K, bytes(beside)), (JPEG, twice)):
        path.write_bytes(fuzz.encapsulated(sound, syntax, frame))
        assert set(refusal(path)) == {"E02"}


def test_a_run_length_bomb_is_not_unpacked(
    write: Writer, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydicom.pixels.pixel_array", lambda *_, **__: pytest.fail("decoded"))
    path = write("PA")
    body = b"\x81\0" * 500_000
    frame = struct.pack("<16I", 2, 64, 64 + len(body), *([0] * 13)) + body * 2
    path.write_bytes(fuzz.encapsulated(path.read_bytes(), str(RLELossless), frame))
    assert set(refusal(path)) == {"E02"}


def test_the_panic_of_a_decoder_is_a_refusal(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicError(BaseException):
        """What pyo3 raises for a panic is no Exception either."""

    def panic(*_: object, **__: object) -> None:
        raise PanicError("index out of bounds")

    path = write("PA", edit=lambda dataset: dataset.compress(RLELossless))
    read_radiograph(path)
    monkeypatch.setattr("pydicom.pixels.pixel_array", panic)
    assert set(refusal(path)) == {"E02"}


def test_a_damaged_run_length_frame_is_refused(write: Writer) -> None:
    def spoil(dataset: Dataset) -> None:
        dataset.compress(RLELossless)
        # The first control byte promises 128 bytes of one value, so the segment grows too long.
        start = dataset.PixelData.index(struct.pack("<I", 2) + struct.pack("<I", 64)) + 64
        damaged = bytearray(dataset.PixelData)
        damaged[start : start + 40] = b"\x81\0" * 20
        dataset.PixelData = bytes(damaged)

    assert outcome(write("PA", edit=spoil)) <= {"E02", "E16"}


@pytest.mark.parametrize("length", [5, 16])
def test_a_deflated_bomb_is_not_inflated(write: Writer, fuzz: ModuleType, length: int) -> None:
    path = write("PA")
    data = fuzz.put(path.read_bytes(), fuzz.raw(0x00020010, b"UI", fuzz.DEFLATED.encode()))
    path.write_bytes(data[:400] + fuzz._DEFLATED_ZEROS[: 1 << length])
    assert set(refusal(path)) <= {"E01", "E02"}


@pytest.mark.parametrize(
    ("rows", "columns"), [(65535, 65535), (70_000, 10), (10, 100_000_000), (-10, -10), (0, 5)]
)
def test_absurd_sizes_are_refused(write: Writer, fuzz: ModuleType, rows: int, columns: int) -> None:
    path = write("PA")
    data = path.read_bytes()
    for keyword, value in (("Rows", rows), ("Columns", columns)):
        data = fuzz.put(data, fuzz.raw(fuzz.tag_of(keyword), b"SL", struct.pack("<i", value)))
    path.write_bytes(data)
    assert set(refusal(path)) == {"E16"}


def test_functional_groups_cannot_belie_the_pixels(write: Writer) -> None:
    def belie(dataset: Dataset) -> None:
        macro, group = Dataset(), Dataset()
        macro.Rows, macro.Columns, macro.BitsStored = 10, 10, 1
        group.XAXRFFrameCharacteristicsSequence = [macro]
        dataset.SharedFunctionalGroupsSequence = [group]

    plain, belied = read_radiograph(write("PA")), read_radiograph(write("PA", edit=belie))
    assert np.array_equal(plain.pixels, belied.pixels)


# ---- wild values


@pytest.mark.parametrize(
    "data", [(b"LO", b"1\\2\\x"), (b"OW", b"odd"), (b"LO", b""), (b"SQ", b""), (b"DS", b"1e39\\2")]
)
@pytest.mark.parametrize(
    "descriptor", [b"3\\0\\16", b"3\\1e300\\16", b"-5\\0\\16", b"1e300\\0\\16"]
)
def test_a_meaningless_look_up_table_never_stops_a_run(
    write: Writer, fuzz: ModuleType, data: tuple[bytes, bytes], descriptor: bytes
) -> None:
    path = write("PA", cr=True)
    body = fuzz.raw(0x00283002, b"DS", descriptor) + fuzz.raw(0x00283006, *data)
    item = fuzz.ITEM + struct.pack("<I", len(body)) + body
    path.write_bytes(fuzz.put(path.read_bytes(), fuzz.raw(0x00283000, b"SQ", item)))
    assert outcome(path, Overrides(sod=1000.0)) == {"E31"}


@pytest.mark.parametrize(
    ("slope", "intercept"), [("1e308", "0"), ("1e-46", "0"), ("1", "1e20"), ("1", "-1e38")]
)
def test_rescaling_out_of_the_range_is_refused(write: Writer, slope: str, intercept: str) -> None:
    path = write("PA", cr=True, RescaleSlope=slope, RescaleIntercept=intercept)
    assert set(refusal(path, Overrides(sod=1000.0))) == {"E16"}


@pytest.mark.parametrize("high_bit", [0, 65535])
def test_a_wild_high_bit_is_refused(write: Writer, high_bit: int) -> None:
    assert set(refusal(write("PA", options={"bits": 12}, HighBit=high_bit))) == {"E31"}


@pytest.mark.parametrize("distance", ["5e-324", "1e-300", "0.001", "1e308", "-5"])
def test_a_wild_distance_is_refused(write: Writer, distance: str) -> None:
    path = write("PA", cr=True, DistanceSourceToPatient=distance)
    assert set(refusal(path)) == {"E14"}


@pytest.mark.parametrize("radius", ["1e200", "1e308", "-1e200"])
def test_a_wild_collimator_is_survived(write: Writer, radius: str) -> None:
    path = write(
        "PA",
        CollimatorShape="CIRCULAR",
        CenterOfCircularCollimator=["100", "90"],
        RadiusOfCircularCollimator=radius,
    )
    assert read_radiograph(path).mask.mean() > 0.5


def test_a_polygon_of_too_many_vertices_costs_nothing(write: Writer) -> None:
    wide = np.tile([[1, 1], [200, 1], [200, 180], [1, 180]], (300, 1))
    path = write(
        "PA", CollimatorShape="POLYGONAL", VerticesOfThePolygonalCollimator=wide.ravel().tolist()
    )
    start = time.process_time()
    assert warned(read_radiograph(path), Code.FIELD_CUTS_HEAD)
    assert time.process_time() - start < 5


def test_polygons_follow_the_even_odd_rule() -> None:
    rng = np.random.default_rng(0)
    row, column = np.arange(1, 31)[:, None], np.arange(1, 41)[None, :]
    for _ in range(50):
        vertices = rng.uniform(-5, 45, (rng.integers(3, 9), 2)).round(rng.integers(0, 2))
        expected = np.zeros((30, 40), bool)
        for (r0, c0), (r1, c1) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
            if r0 != r1:
                crossing = c0 + (row - r0) * (c1 - c0) / (r1 - r0)
                expected ^= ((row >= r0) != (row >= r1)) & (column < crossing)
        assert np.array_equal(field._inside_polygon((30, 40), vertices), expected)


# ---- texts that must go nowhere


def test_texts_of_the_file_are_not_shown(write: Writer) -> None:
    shown = read_radiograph(
        write("PA", PixelSpacing=["1", "1"], PixelSpacingCalibrationType="CANARY")
    )
    assert warned(shown, Code.PIXEL_SPACING_MISMATCH)
    assert "canary" not in repr((shown.findings, shown.provenance)).lower()


def test_identifiers_never_become_names(write: Writer, tmp_path: Path) -> None:
    path = write("PA", name="a")
    dataset = pydicom.dcmread(path)
    dataset.StudyInstanceUID = dataset.SOPInstanceUID = "../../etc/x\0"
    dataset.save_as(path)
    (study,) = find_studies(path).studies
    assert re.fullmatch("[0-9a-f]{16}", study.key)
    assert len({study_key(text) for text in ("\ud800", "\udfff", "", "é")}) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_nothing_of_a_file_is_ever_run() -> None:
    forbidden = re.compile(
        r"(?<![\w.])(?<!def )(eval|exec|__import__)\(|\bpickle\b"
        r"|yaml\.(load|unsafe_load|full_load)\(|allow_pickle=True|shell=True|os\.system|weights_only=False|extractall\("
    )
    loads = 0
    for path in sorted((ROOT / "spider_bundle").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert not forbidden.search(source), path.name
        for call in re.finditer(r"torch\.load\(([^\n]*(?:\n[^\n]*){0,3})", source):
            loads += 1
            assert "weights_only=True" in call.group(1).split(")\n")[0], path.name
    assert loads >= 2
