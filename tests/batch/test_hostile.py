"""Files that harm whoever reads them: they are refused with a code, and the batch goes on."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pydicom
import pytest

from spider_bundle.batch import intake
from spider_bundle.batch.intake import Found, Intake
from spider_bundle.batch.medium import file_ids, referenced_files
from spider_bundle.batch.sandbox import CallError, Sandbox
from spider_bundle.dicom.studies import study_key
from spider_bundle.dicom.write import SyntheticIdentity
from tests.batch import readers

Spool = Callable[..., Path]
KEY = "a key of the site"
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"
MIB = 1 << 20


@pytest.fixture(scope="module")
def child() -> Iterator[Sandbox]:
    process = Sandbox([readers.__name__])
    yield process
    process.close()


def codes(found: Found) -> list[str]:
    return sorted(code for refusal in found.refusals for code in refusal.codes)


def mark(path: Path, word: bytes) -> None:
    dataset = pydicom.dcmread(path)
    dataset.ManufacturerModelName = word.decode()
    dataset.save_as(path)


@pytest.mark.parametrize("stage", ["describe", "check"])
def test_file_that_harms_its_reader_is_refused_alone(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: Sandbox, stage: str
) -> None:
    source = spool(len(readers.WORDS) + 1)
    monkeypatch.setattr(intake, stage, getattr(readers, stage))
    for number, word in enumerate(readers.WORDS.values(), 1):
        mark(source / f"s{number}" / "frontal.dcm", word)
    search = Intake(source, tmp_path, KEY, seconds=5.0, child=child)
    found = search.find()
    assert [job.frontal.parent.name for job in found.jobs] == ["s0"]
    harmful = [refusal for refusal in found.refusals if refusal.codes == ["A04"]]
    assert len(harmful) == len(readers.WORDS)
    told = [refusal.findings[0]["message"] for refusal in harmful]
    for words in ("longer than", "died", "MemoryError", "ValueError"):
        assert sum(words in message for message in told) == 1
    assert not any("Doe" in message or str(tmp_path) in message for message in told)
    if stage == "describe":  # the file is refused, and the other one of its study lacks it
        assert codes(found).count("E06") == len(readers.WORDS)
    else:
        uids = [SyntheticIdentity(f"s{n}").uid("study") for n in range(1, len(readers.WORDS) + 1)]
        assert {refusal.study_key for refusal in harmful} == {study_key(u, KEY) for u in uids}
    # what was examined is not examined again, so a watched spool waits for no hang twice
    monkeypatch.setattr(child, "call", lambda *_, **__: pytest.fail("examined again"))
    assert search.find() == found


def test_child_that_died_or_hung_is_replaced(child: Sandbox) -> None:
    with pytest.raises(CallError, match="died"):
        child.call(os._exit, 1, seconds=60.0)
    with pytest.raises(CallError, match="longer than"):
        child.call(time.sleep, 600.0, seconds=0.5)
    with pytest.raises(CallError, match="ZeroDivisionError"):
        child.call(divmod, 1, 0, seconds=60.0)
    with pytest.raises(FileNotFoundError):
        child.call(os.stat, "/absent", seconds=60.0)
    assert child.call(divmod, 7, 2, seconds=60.0) == (3, 1)


def test_forgotten_child_does_not_keep_its_process(tmp_path: Path) -> None:
    script = tmp_path / "forget.py"
    script.write_text(
        "from spider_bundle.batch.sandbox import Sandbox\n"
        "if __name__ == '__main__':\n"
        "    child = Sandbox()\n"
        "    raise SystemExit(child.call(divmod, 9, 2, seconds=60)[0])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run([sys.executable, str(script)], env=environment, timeout=60, check=False)
    assert done.returncode == 4


def unreadable(fuzz: ModuleType, sound: bytes) -> dict[str, bytes]:
    """Files that claim far more than they hold, or hold far more than they show."""
    rle, j2k = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
    runs = b"\x81\0" * MIB
    segments = struct.pack("<16I", 2, 64, 64 + len(runs), *([0] * 13)) + runs * 2
    frames = fuzz.raw(fuzz.tag_of("NumberOfFrames"), b"IS", b"2147483647")
    syntax = fuzz.raw(0x00020010, b"UI", fuzz.DEFLATED.encode())
    start = next(e.start for e in fuzz.elements(sound) if e.tag >> 16 != 2)
    zeros = zlib.compress(bytes(512 * MIB), 1)[2:-4]
    private = fuzz.raw(0x00091001, b"UN", b"", 0xFFFFFFF0)
    return {
        "a frame of 4e9 pixels": fuzz.sized(sound, 65535, 65535),
        "a frame of 1e8 pixels": fuzz.sized(sound, 10_000, 10_000),
        "2e9 frames": fuzz.put(sound, frames),
        "a codestream of 4e9 pixels": fuzz.encapsulated(
            fuzz.sized(sound, 65535, 65535), j2k, fuzz.j2k_codestream(65535, 65535)
        ),
        "runs beyond the image": fuzz.encapsulated(sound, rle, segments),
        "a deflated bomb": fuzz.put(sound[:start], syntax) + zeros,
        "an element of 4 GB": fuzz.put(sound, private),
        "half a million items": fuzz.put(
            sound, fuzz.raw(0x00540220, b"SQ", (fuzz.ITEM + bytes(4)) * 500_000, 0xFFFFFFFF)
        ),
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is told in other units elsewhere")
def test_memory_stays_bounded(spool: Spool, tmp_path: Path, fuzz: ModuleType) -> None:
    """Headers, decoding and archives, in a process whose memory nothing but our checks bound."""
    source, workspace = spool(1), tmp_path / "workspace"
    workspace.mkdir()
    sound = (source / "s0" / "frontal.dcm").read_bytes()
    for number, content in enumerate(unreadable(fuzz, sound).values()):
        (source / f"hostile{number}").write_bytes(content)
    # 3 GB that take no space on the disk
    (source / "long").write_bytes(sound)
    os.truncate(source / "long", 3 << 30)
    with zipfile.ZipFile(source / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(256 * MIB))
    with zipfile.ZipFile(source / "many.zip", "w") as archive:
        for number in range(40_000):
            archive.writestr(str(number), b"")
    child = Sandbox([readers.__name__], memory=1 << 44)
    try:
        before = child.call(readers.peak_bytes, seconds=60.0)
        found = Intake(source, workspace, KEY, child=child).find()
        intake_peak = child.call(readers.peak_bytes, seconds=60.0) - before
        outcomes = {
            path.name: child.call(readers.outcome, path, seconds=120.0)
            for path in sorted(source.glob("hostile*"))
        }
        worker_peak = child.call(readers.peak_bytes, seconds=60.0) - before
    finally:
        child.close()
    assert codes(found).count("A02") == 2
    assert "A04" not in codes(found)
    assert all(outcome and set(outcome) <= {"E01", "E02", "E16"} for outcome in outcomes.values())
    assert intake_peak < 256 * MIB, intake_peak / MIB
    assert worker_peak < 256 * MIB, worker_peak / MIB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is told in other units elsewhere")
def test_largest_frame_takes_no_more_than_is_documented(
    spool: Spool, tmp_path: Path, fuzz: ModuleType
) -> None:
    """Just below 1e8 pixels, which are all there: three megabytes of runs of 128 equal bytes."""
    edge = 78 * 128
    path = spool(1) / "s0" / "frontal.dcm"
    runs = b"".join(bytes((0x81, n & 0xFF)) for n in range(edge * edge // 128))
    frame = struct.pack("<16I", 2, 64, 64 + len(runs), *([0] * 13)) + runs * 2
    large = fuzz.sized(path.read_bytes(), edge, edge)
    path.write_bytes(fuzz.encapsulated(large, "1.2.840.10008.1.2.5", frame))
    child = Sandbox([readers.__name__], memory=1 << 44)
    try:
        before = child.call(readers.peak_bytes, seconds=60.0)
        assert child.call(readers.outcome, path, seconds=600.0) == []
        peak = child.call(readers.peak_bytes, seconds=60.0) - before
    finally:
        child.close()
    assert peak < 3 << 30, peak / MIB


def test_file_beyond_the_limit_is_refused(spool: Spool, tmp_path: Path, child: Sandbox) -> None:
    source = spool(1)
    path = source / "s0" / "frontal.dcm"
    os.truncate(path, 3 << 30)  # no space on the disk
    found = Intake(source, tmp_path, KEY, child=child).find()
    assert codes(found) == ["E16"]
    assert "3.22e+09 bytes" in found.refusals[0].findings[0]["message"]


def test_damaged_dicom_file_is_told_and_other_files_are_not(
    spool: Spool, tmp_path: Path, child: Sandbox
) -> None:
    source = spool(1)
    sound = (source / "s0" / "frontal.dcm").read_bytes()
    (source / "cut").write_bytes(sound[:300])
    (source / "copy").write_bytes(sound[:300])
    (source / "letter.txt").write_text("Dear Ms Doe")
    found = Intake(source, tmp_path, KEY, child=child).find()
    assert (len(found.jobs), codes(found), found.foreign_files) == (1, ["E01"], 1)


# ---- media


def test_directory_leads_nowhere_else(spool: Spool, tmp_path: Path) -> None:
    folder = tmp_path / "medium"
    (folder / "IMAGES").mkdir(parents=True)
    outside = spool(1) / "s0" / "frontal.dcm"
    (folder / "IMAGES" / "IM1").write_bytes(outside.read_bytes())
    (folder / "images" / "im2").parent.mkdir(exist_ok=True)
    (folder / "images" / "im2").write_bytes(b"lower case")
    (folder / "LINK").symlink_to(outside)
    (folder / "AWAY").symlink_to(outside.parent, target_is_directory=True)
    (folder / "LOOP").symlink_to(folder / "LOOP")
    ids = [
        ("IMAGES", "IM1"),
        ("IMAGES", "IM2"),
        ("IMAGES", "IM1"),
        *[("..", "in", "s0", "frontal.dcm"), (str(outside),), ("IMAGES/IM1",), ("",)],
        *[("LINK",), ("AWAY", "frontal.dcm"), ("LOOP",), ("LOOP", "IM1"), ("IMAGES",)],
        *[("A" * 5000,), ("A\0B",), ("ABSENT",), ("IMAGES", "IM1", "IM1")],
    ]
    files, absent = referenced_files(folder / "DICOMDIR", ids)
    assert [path.relative_to(folder) for path in files] == [
        Path("IMAGES", "IM1"),
        Path("images", "im2"),
    ]
    assert absent == len(ids) - 3


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(["A", "B"], (("A", "B"),)), ("A", (("A",),)), (None, ()), (["A", ""], (("A", ""),))],
)
def test_file_ids_of_any_form(
    value: object, wanted: object, tmp_path: Path, fuzz: ModuleType
) -> None:
    record = pydicom.Dataset()
    record.OffsetOfTheNextDirectoryRecord = 0
    record.ReferencedFileID = value
    path = tmp_path / "DICOMDIR"
    fuzz.write_directory(path, [record, pydicom.Dataset()])
    assert file_ids(path, KEY) == wanted


def test_unreadable_directories_are_refused_once(
    spool: Spool, tmp_path: Path, child: Sandbox
) -> None:
    source = spool(1)
    (source / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\xff" * 100)
    found = Intake(source, tmp_path, KEY, child=child).find()
    assert (len(found.jobs), codes(found)) == (1, ["A03"])
    assert Intake(source / "DICOMDIR", tmp_path, KEY, child=child).find().refusals
