"""Files that harm whoever reads them: they are refused with a code, and the batch goes on."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pydicom
import pytest

from spider_bundle.batch import finder
from spider_bundle.batch.finder import Found, StudyFinder
from spider_bundle.batch.sandbox import CallError, CallStopped, Sandbox
from spider_bundle.dicom.studies import study_key
from spider_bundle.dicom.write import SyntheticIdentity
from spider_bundle.errors import SpiderError
from tests.batch import readers

Spool = Callable[..., Path]
KEY = "a key of the site"
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"
MIB = 1 << 20


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    process = Sandbox([readers.__name__])
    yield process
    process.close()


def codes(found: Found) -> list[str]:
    return sorted(code for refusal in found.refusals for code in refusal.codes)


def mark(path: Path, word: bytes) -> None:
    dataset = pydicom.dcmread(path)
    dataset.ManufacturerModelName = word.decode()
    dataset.save_as(path)


@pytest.mark.parametrize("stage", ["examine", "hash_files"])
def test_file_that_harms_its_reader_is_refused_alone(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, stage: str
) -> None:
    source = spool(len(readers.WORDS) + 1)
    monkeypatch.setattr(finder, stage, getattr(readers, stage))
    for number, word in enumerate(readers.WORDS.values(), 1):
        mark(source / f"s{number}" / "frontal.dcm", word)
    search = StudyFinder(source, tmp_path, KEY, seconds=5.0, sandbox=sandbox)
    found = search.find()
    assert [job.paths[0].parent.name for job in found.jobs] == ["s0"]
    harmful = [refusal for refusal in found.refusals if refusal.codes == ["A04"]]
    assert len(harmful) == len(readers.WORDS)
    told = [refusal.findings[0]["message"] for refusal in harmful]
    for words in ("longer than", "died", "MemoryError", "ValueError"):
        assert sum(words in message for message in told) == 1
    assert not any("Doe" in message or str(tmp_path) in message for message in told)
    if stage == "examine":  # the file is refused, and the other one of its study lacks it
        assert codes(found).count("E06") == len(readers.WORDS)
    else:
        uids = [SyntheticIdentity(f"s{n}").uid("study") for n in range(1, len(readers.WORDS) + 1)]
        assert {refusal.study_key for refusal in harmful} == {study_key(u, KEY) for u in uids}
    # what was examined is not examined again, so a watched spool waits for no hang twice
    monkeypatch.setattr(sandbox, "call", lambda *_, **__: pytest.fail("examined again"))
    assert search.find() == found


def test_sandbox_that_died_or_hung_is_replaced(sandbox: Sandbox) -> None:
    with pytest.raises(CallError, match="died"):
        sandbox.call(os._exit, 1, seconds=60.0)
    with pytest.raises(CallError, match="longer than"):
        sandbox.call(time.sleep, 600.0, seconds=0.5)
    with pytest.raises(CallError, match="ZeroDivisionError"):
        sandbox.call(divmod, 1, 0, seconds=60.0)
    with pytest.raises(FileNotFoundError):
        sandbox.call(os.stat, "/absent", seconds=60.0)
    assert sandbox.call(divmod, 7, 2, seconds=60.0) == (3, 1)


def test_call_is_stopped_on_request(sandbox: Sandbox) -> None:
    """Also between calls that answer at once, of which a search has thousands."""
    with pytest.raises(CallStopped):
        sandbox.call(divmod, 7, 2, seconds=60.0, stop=lambda: True)
    answers = iter([False, False, True])
    with pytest.raises(CallStopped):
        sandbox.call(time.sleep, 600.0, seconds=600.0, stop=lambda: next(answers))
    assert sandbox.call(divmod, 7, 2, seconds=60.0, stop=lambda: False) == (3, 1)


def test_signal_that_ends_the_sandbox_while_it_starts_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service manager, or a terminal, signals all processes of a batch at once."""
    dying = Sandbox(["tests.batch.absent"])
    with pytest.raises(SpiderError, match="R02"):
        dying.call(divmod, 7, 2, seconds=60.0, stop=lambda: False)
    monkeypatch.setattr("spider_bundle.batch.sandbox._POLL_SECONDS", 60.0)  # seen dead, then asked
    answers = iter([False, True])
    with pytest.raises(CallStopped):
        dying.call(divmod, 7, 2, seconds=60.0, stop=lambda: next(answers))


def test_forgotten_sandbox_does_not_keep_its_process(tmp_path: Path) -> None:
    script = tmp_path / "forget.py"
    script.write_text(
        "from spider_bundle.batch.sandbox import Sandbox\n"
        "if __name__ == '__main__':\n"
        "    sandbox = Sandbox()\n"
        "    raise SystemExit(sandbox.call(divmod, 9, 2, seconds=60)[0])\n"
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
    sandbox = Sandbox([readers.__name__], memory=1 << 44)
    try:
        before = sandbox.call(readers.peak_bytes, seconds=60.0)
        found = StudyFinder(source, workspace, KEY, sandbox=sandbox).find()
        intake_peak = sandbox.call(readers.peak_bytes, seconds=60.0) - before
        outcomes = {
            path.name: sandbox.call(readers.outcome, path, seconds=120.0)
            for path in sorted(source.glob("hostile*"))
        }
        worker_peak = sandbox.call(readers.peak_bytes, seconds=60.0) - before
    finally:
        sandbox.close()
    assert codes(found).count("A02") == 2
    assert "A04" not in codes(found)
    expected = {"E01", "E02", "E12", "E16", "E31"}
    assert {n: codes for n, codes in outcomes.items() if not codes or set(codes) - expected} == {}
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
    sandbox = Sandbox([readers.__name__], memory=1 << 44)
    try:
        before = sandbox.call(readers.peak_bytes, seconds=60.0)
        # decoded, then found to be no radiograph, and larger than any detector
        assert sandbox.call(readers.outcome, path, seconds=600.0) == ["E12", "E31"]
        peak = sandbox.call(readers.peak_bytes, seconds=60.0) - before
    finally:
        sandbox.close()
    assert peak < 3 << 30, peak / MIB


def test_file_beyond_the_limit_is_refused(spool: Spool, tmp_path: Path, sandbox: Sandbox) -> None:
    source = spool(1)
    path = source / "s0" / "frontal.dcm"
    os.truncate(path, 3 << 30)  # no space on the disk
    found = StudyFinder(source, tmp_path, KEY, sandbox=sandbox).find()
    assert codes(found) == ["E16"]
    assert "3.22e+09 bytes" in found.refusals[0].findings[0]["message"]


def test_damaged_dicom_file_is_told_and_other_files_are_not(
    spool: Spool, tmp_path: Path, sandbox: Sandbox
) -> None:
    source = spool(1)
    sound = (source / "s0" / "frontal.dcm").read_bytes()
    (source / "cut").write_bytes(sound[:300])
    (source / "copy").write_bytes(sound[:300])
    (source / "letter.txt").write_text("Dear Ms Doe")
    found = StudyFinder(source, tmp_path, KEY, sandbox=sandbox).find()
    assert (len(found.jobs), codes(found), found.foreign_files) == (1, ["E01"], 1)


def test_archive_that_changes_while_it_is_read_mixes_no_studies(
    spool: Spool, tmp_path: Path, sandbox: Sandbox
) -> None:
    """Overwritten in place and exchanged, again and again; then it rests and is read."""
    source, target = spool(2), tmp_path / "watched" / "films.zip"
    target.parent.mkdir()
    archives = []
    for number in range(2):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as file:
            for film in sorted((source / f"s{number}").iterdir()):
                file.write(film, film.name)
        archives.append(path.read_bytes())
    shutil.copy(tmp_path / "0.zip", target)
    ended = threading.Event()

    def change() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            content = archives[number % 2]
            if number % 3:
                with target.open("r+b") as stream:
                    for start in range(0, len(content), 4096):
                        stream.write(content[start : start + 4096])
            else:
                shutil.copy(tmp_path / f"{number % 2}.zip", tmp_path / "new")
                os.replace(tmp_path / "new", target)

    workspace = tmp_path / "workspace"
    workspace.mkdir()
    search = StudyFinder(target.parent, workspace, KEY, sandbox=sandbox)
    wanted = {study_key(SyntheticIdentity(f"s{n}").uid("study"), KEY) for n in range(2)}
    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(25):
            found = search.find()
            assert {job.study_key for job in found.jobs} <= wanted
            assert len(found.jobs) <= 1
            for job in found.jobs:
                assert len({pydicom.dcmread(path).StudyInstanceUID for path in job.paths}) == 1
            assert set(codes(found)) <= {"A01", "A05", "E01", "E06"}
    finally:
        ended.set()
        changing.join()
    target.write_bytes(archives[1])
    found = search.find()
    assert [job.study_key for job in found.jobs] == [
        study_key(SyntheticIdentity("s1").uid("study"), KEY)
    ]
    assert not found.refusals
