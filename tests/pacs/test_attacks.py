"""What anybody who reaches the port can do to a listener: nothing that others notice."""

from __future__ import annotations

import copy
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pynetdicom import AE
from pynetdicom.dsutils import encode

from spider_bundle.batch.finder import StudyFinder
from spider_bundle.batch.records import read_lines
from spider_bundle.dicom.film import describe
from spider_bundle.dicom.studies import study_key
from spider_bundle.errors import SpiderError
from spider_bundle.pacs import audit
from spider_bundle.pacs.audit import ListenLog
from spider_bundle.pacs.listen import Listener
from tests.pacs.conftest import KEY, associated, audit_of, stored
from tests.pacs.test_listen import command, send, send_raw

Pair = Callable[..., list[Path]]
Listening = Callable[..., Listener]

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"


def association_request(length: int, calling: bytes = b"STRANGER") -> Iterator[bytes]:
    """An A-ASSOCIATE-RQ of presentation contexts, each as short as can be (PS3.8 9.3.2)."""
    body = b"\x00\x01\x00\x00" + b"SPIDER".ljust(16) + calling.ljust(16) + bytes(32)
    yield b"\x01\x00" + struct.pack(">I", length) + body
    item = b"\x20\x00\x00\x04\x01\x00\x00\x00"
    left = (length - len(body)) // len(item)
    while left:
        number = min(left, 1 << 16)
        yield item * number
        left -= number


@contextmanager
def calling_again(number: int, call: Callable[[], None]) -> Iterator[Counter[str]]:
    """Threads that call again and again, a thousand times at most; counts what became of it."""
    ended, counts = threading.Event(), Counter[str]()

    def run() -> None:
        for _ in range(1000):
            if ended.is_set():
                return
            try:
                call()
                counts["done"] += 1
            except OSError:
                counts["cut"] += 1

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def echo_seconds(port: int, times: int = 7) -> list[float]:
    """How long an allowed caller waits for the answer to a C-ECHO, each by a new association."""
    seconds = []
    for _ in range(times):
        start = time.monotonic()
        with associated(port) as association:
            assert association.is_established
            assert association.send_c_echo().Status == 0
            seconds.append(time.monotonic() - start)
    return seconds


def resident(process: subprocess.Popen[str], name: str) -> float:
    """A figure of a process's memory, MiB."""
    (line,) = (
        line
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if name in line
    )
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("length", [100_000_000, 1 << 18, 250_000], ids=["100 MB", "limit", "fits"])
def test_association_requests_of_strangers_take_no_memory_and_keep_nobody_out(
    length: int, spool: Path
) -> None:
    with command(spool) as (process, port):

        def call() -> None:
            with socket.create_connection(("127.0.0.1", port), 10) as stranger:
                for part in association_request(length):
                    stranger.sendall(part)
                stranger.settimeout(10)
                while stranger.recv(1 << 16):
                    pass

        echo_seconds(port)
        rest = resident(process, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak from here on
        with calling_again(10, call) as counts:
            seconds = echo_seconds(port)
        assert counts.total() >= 10
        # a request that fits is decoded, which takes its time
        assert statistics.median(seconds) < (10.0 if length == 250_000 else 1.0)
        assert resident(process, "VmHWM") < rest + 100
    codes = {line.get("code") for line in audit_of(spool)}
    assert ("N11" in codes) == (length != 250_000)


def pdu(fragments: bytes) -> bytes:
    return b"\x04\x00" + struct.pack(">I", len(fragments)) + fragments


def test_what_allowed_callers_send_beside_objects_is_short(listening: Listening) -> None:
    """A PDU of many tiny fragments, and a command of many tiny elements, take much memory."""
    elements = b"".join(struct.pack("<HHI", 0, i, 0) for i in range(8000))
    part = struct.pack(">IBB", len(elements) + 2, 1, 1) + elements  # a command that goes on
    for sent in (pdu(b"\x00\x00\x00\x02\x01\x00" * (1 << 20)), pdu(part) * 100):
        with listening() as listener:
            with associated(listener.port) as association:
                with suppress(OSError):
                    association.dul.socket.socket.sendall(sent)
                deadline = time.monotonic() + 10
                while association.is_established and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert not association.is_established
            assert echo_seconds(listener.port, 1)


def test_connections_that_say_nothing_make_room(listening: Listening) -> None:
    with listening(max_associations=2) as listener:
        silent = [socket.create_connection(("127.0.0.1", listener.port), 10) for _ in range(40)]
        try:
            assert max(echo_seconds(listener.port, 3)) < 5.0
            deadline = time.monotonic() + 10
            most = 2 + 8 + 4  # those of a burst are counted when their threads have started
            while len(listener._server.active_associations) > most and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(listener._server.active_associations) <= most
        finally:
            for connection in silent:
                connection.close()
        for _ in range(20):  # and what is no DICOM leaves nothing behind
            with socket.create_connection(("127.0.0.1", listener.port), 10) as other:
                other.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + 10
        while listener._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not listener._server.active_associations


def test_a_request_that_trickles_is_ended(listening: Listening) -> None:
    with (
        listening(timeout=0.5) as listener,
        socket.create_connection(("127.0.0.1", listener.port), 10) as slow,
    ):

        def trickle() -> None:
            for byte in b"".join(association_request(400)):
                slow.sendall(bytes([byte]))
                time.sleep(0.1)

        start = time.monotonic()
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            trickle()
        assert time.monotonic() - start < 10


def bare_radiograph(uid: str = "1.2.3") -> pydicom.Dataset:
    """A radiograph without pixels."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID = CR, uid, "1.2.4"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    dataset.file_meta.MediaStorageSOPClassUID = CR
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    return dataset


def encoded(dataset: pydicom.Dataset, number: int = 0) -> bytes:
    """The data set in explicit VR, and that many elements of 8 bytes behind it."""
    elements = b"".join(
        struct.pack("<HH2sH", 0x0021 + 2 * (i >> 16), i & 0xFFFF, b"LO", 0) for i in range(number)
    )
    content: bytes = encode(dataset, False, True)
    return content + elements


@pytest.mark.slow
def test_an_object_of_tiny_elements_keeps_nobody_waiting(
    pair: Pair, spool: Path, tmp_path: Path
) -> None:
    dataset = bare_radiograph()
    hostile = encoded(dataset, 1_500_000)  # 12 MB
    normal = pydicom.dcmread(pair()[0])
    answers: list[int | None] = []
    seconds: list[float] = []
    with command(spool) as (_, port):

        def call() -> None:
            answers.append(send_raw(port, dataset, hostile))

        with calling_again(1, call):
            while not answers or len(seconds) < 5:
                start = time.monotonic()
                assert send(port, normal) == [0]
                seconds.append(time.monotonic() - start)
    assert statistics.median(seconds) < 1.0
    assert set(answers) <= {0xC000, None}  # none if it took ten seconds
    assert len(stored(spool)) == 1
    # the batch says the same of it
    path = tmp_path / "hostile.dcm"
    dataset.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes() + hostile)
    with pytest.raises(SpiderError, match="E01"):
        describe(path)


def test_a_long_header_that_a_batch_reads_is_stored(listening: Listening, spool: Path) -> None:
    dataset = bare_radiograph()
    with listening() as listener:
        assert send_raw(listener.port, dataset, encoded(dataset, 30_000)) == 0
    (path,) = stored(spool)
    assert describe(path).identifiers.study == "1.2.4"


def test_what_a_batch_cannot_read_is_refused(
    pair: Pair, listening: Listening, spool: Path, tmp_path: Path
) -> None:
    """Whatever is wrong with an object: what is stored, a batch can read."""
    dataset = pydicom.dcmread(pair()[0])
    dataset.PixelData = dataset.PixelData[:64]
    dataset.Rows, dataset.Columns = 8, 4
    whole = encoded(dataset)
    generator = random.Random(7)
    statuses: Counter[int | None] = Counter()
    with listening() as listener:
        for _ in range(60):
            body = bytearray(whole)
            for _ in range(generator.choice([1, 1, 2, 20])):
                body[generator.randrange(len(body) - 80)] = generator.randrange(256)
            if generator.random() < 0.3:
                del body[generator.randrange(len(body)) :]
            statuses[send_raw(listener.port, dataset, bytes(body))] += 1
    assert {0} < set(statuses) <= {0, 0xA900, 0xC000}
    for path in stored(spool):
        describe(path)


def test_wrong_sop_classes_are_never_stored(pair: Pair, listening: Listening, spool: Path) -> None:
    """MR, encapsulated PDF, worklist, garbage; and XA that was announced as something else."""
    dataset = pydicom.dcmread(pair()[0])
    others = ("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.3.4.5")
    with listening() as listener:
        for uid in (*others, "1.2.840.10008.5.1.4.31"):
            entity = AE("MODALITY")
            entity.add_requested_context(uid)
            association = entity.associate("127.0.0.1", listener.port, ae_title="SPIDER")
            assert not association.accepted_contexts
            association.abort()
        # announced as what the context is for, and something else
        content = copy.deepcopy(dataset)
        for uid in (*others, "1.2.840.10008.5.1.4.1.1.12.1"):
            content.SOPClassUID = uid
            assert send_raw(listener.port, dataset, encoded(content)) == 0xA900
    assert stored(spool) == []


@pytest.mark.slow
def test_hundreds_of_objects_are_stored_and_told_of(listening: Listening, spool: Path) -> None:
    number = 240
    dataset = bare_radiograph()
    with listening() as listener:
        before = threading.active_count()
        for part in range(3):
            with associated(listener.port, [dataset]) as association:
                for index in range(number // 3):
                    dataset.SOPInstanceUID = f"1.2.3.{part}.{index}"
                    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                    assert association.send_c_store(dataset).Status == 0
        deadline = time.monotonic() + 10
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() <= before
        assert listener.counts["stored"] == number
    assert len(stored(spool)) == number
    lines = [line for line in audit_of(spool) if line["event"] == "object"]
    assert len({line["object"] for line in lines}) == number


@pytest.mark.slow
def test_kills_while_objects_arrive_lose_none_that_was_acknowledged(
    pair: Pair, spool: Path, tmp_path: Path
) -> None:
    generator = random.Random(5)
    dataset = pydicom.dcmread(pair()[0])
    acknowledged: set[str] = set()
    for run in range(3):
        with command(spool) as (process, port):
            timer = threading.Timer(
                generator.uniform(0.2, 1.0), process.send_signal, [signal.SIGKILL]
            )
            with associated(port, [dataset]) as association:
                timer.start()
                for index in range(10_000):
                    dataset.SOPInstanceUID = f"1.2.3.{run}.{index}"
                    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                    try:
                        status = association.send_c_store(dataset).get("Status")
                    except RuntimeError:  # it is no longer established
                        break
                    if status is None:
                        break
                    acknowledged.add(dataset.SOPInstanceUID)
            timer.join()
            assert process.wait(20) == -signal.SIGKILL
        # a batch that comes now takes what is whole, and nothing else
        workspace = tmp_path / f"work{run}"
        workspace.mkdir()
        found = StudyFinder(spool, workspace, KEY).find()
        assert not [r for r in found.refusals if set(r.codes) - {"E06"}]
    assert len(acknowledged) > 10
    with command(spool):
        assert not list(spool.rglob(".*-partial-*"))
    there = {pydicom.dcmread(path).SOPInstanceUID for path in stored(spool)}
    assert acknowledged <= there
    assert len(there - acknowledged) <= 3  # on disk, and killed before the answer


def test_a_spool_that_cannot_be_written_refuses_and_recovers(
    pair: Pair, listening: Listening, spool: Path
) -> None:
    dataset = pydicom.dcmread(pair()[0])
    with listening() as listener:
        place = spool / study_key(dataset.StudyInstanceUID, KEY)
        place.write_bytes(b"")  # root, too, can make no folder here
        assert send(listener.port, dataset) == [0xA700]
        place.unlink()
        assert send(listener.port, dataset) == [0]


def test_a_clock_that_jumps_loses_no_object(
    pair: Pair, listening: Listening, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back by an hour and a day within an association, then on by a year."""
    dataset = pydicom.dcmread(pair()[0])
    clock = time.time
    with listening() as listener:
        with associated(listener.port, [dataset]) as association:
            for index, shift in enumerate((0, -3600, -86_400)):
                monkeypatch.setattr(time, "time", lambda shift=shift: clock() + shift)
                dataset.SOPInstanceUID = f"1.2.3.{index}"
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                assert association.send_c_store(dataset).Status == 0
        monkeypatch.setattr(time, "time", lambda: clock() + 366 * 86_400)
        assert send(listener.port, dataset) == [0]
    assert len(stored(spool)) == 3
    elapsed = [line["elapsed_s"] for line in audit_of(spool)]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] < 600


def test_refused_callers_do_not_fill_the_disk(listening: Listening, spool: Path) -> None:
    with listening() as listener:
        for _ in range(60):
            with associated(listener.port, calling="STRANGER") as association:
                assert association.is_rejected
        assert listener.counts["rejected"] == 60
    lines = audit_of(spool)
    counted = sum(
        line["counts"].get("rejected N14", 0) for line in lines if "omitted" in line["event"]
    )
    told = [line for line in lines if line["event"] == "rejected"]
    assert len(told) <= 2 * audit.LINES_A_MINUTE
    assert len(told) + counted == 60


def test_the_audit_log_is_cut_into_parts_and_leaves_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PART_BYTES", 1000)
    log = ListenLog(tmp_path, {}, reserve=1 << 30)
    for number in range(100):
        assert log.record("object", is_always=True, number=number)
    parts = sorted((tmp_path / "audit").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(parts) > 5
    assert all(path.stat().st_size < 1200 for path in parts)
    records = [record for path in parts for record in read_lines(path)[0]]
    assert [r["number"] for r in records if r["event"] == "object"] == list(range(100))
    assert ListenLog(tmp_path, {}, 0).run == 2
    size = sum(path.stat().st_size for path in parts)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=audit.RESERVE_BYTES - 1)
        patch.setattr(audit.shutil, "disk_usage", lambda path: usage)
        assert not log.record("object", is_always=True, number=100)
    assert sum(path.stat().st_size for path in parts) == size
    assert log.record("end", is_always=True)
    lines = [r for path in (tmp_path / "audit").glob("run-000001*") for r in read_lines(path)[0]]
    assert {"counts": {"object": 1}}.items() <= next(
        line for line in lines if line["event"] == "omitted"
    ).items()
