"""What a modality sends is in the spool as it was sent, and nothing else is, whatever happens."""

from __future__ import annotations

import errno
import hmac
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from spider_bundle.batch.finder import StudyFinder
from spider_bundle.dicom.ct_image import CT_CLASSES
from spider_bundle.dicom.header import SOP_CLASSES
from spider_bundle.dicom.studies import study_key
from spider_bundle.errors import SpiderError
from spider_bundle.pacs import listen as listen_module
from spider_bundle.pacs.listen import (
    Listener,
    ListenOptions,
    accepted_sop_classes,
    accepted_transfer_syntaxes,
)
from tests.films import read_radiograph
from tests.pacs.conftest import (
    KEY,
    PLANTED,
    PLANTED_ROOT,
    associated,
    audit_of,
    stored,
)

Pair = Callable[..., list[Path]]
Listening = Callable[..., Listener]


def send(port: int, *datasets: pydicom.Dataset, **titles: str) -> list[int | None]:
    """Status of each data set, None if there was no answer."""
    with associated(port, datasets, **titles) as association:
        return [association.send_c_store(d).get("Status") for d in datasets]


def send_raw(port: int, announced: pydicom.Dataset, data: bytes) -> int | None:
    """Announce one object and send any bytes as it; the status."""
    with associated(port, [announced]) as association:
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID = announced.SOPClassUID
        request.AffectedSOPInstanceUID = announced.SOPInstanceUID
        request.DataSet = BytesIO(data)
        association._reactor_checkpoint.clear()
        context = next(c for c in association.accepted_contexts if "1.1.1" in c.abstract_syntax)
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        return None if answer is None else answer.Status


def body(path: Path) -> bytes:
    """The data set of a file, byte for byte, behind its meta information."""
    content = path.read_bytes()
    length = pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    # preamble, prefix, and the group length element itself take 144 bytes
    return content[144 + length :]


def test_a_pair_arrives_byte_for_byte_and_a_batch_can_take_it(
    pair: Pair, listening: Listening, spool: Path, tmp_path: Path
) -> None:
    datasets = [pydicom.dcmread(path) for path in pair()]
    sources = {dataset.SOPInstanceUID: dataset.filename for dataset in datasets}
    with listening() as listener:
        assert send(listener.port, *datasets) == [0, 0]
    key = study_key(f"{PLANTED_ROOT}.1.{sum(b'one')}", KEY)
    names = [hmac.digest(KEY.encode(), d.SOPInstanceUID.encode(), "sha256").hex() for d in datasets]
    paths = [spool / key / f"{name[:32]}.dcm" for name in names]
    assert stored(spool) == sorted(paths)
    for path, sent in zip(paths, datasets, strict=True):
        assert body(path) == encode(sent, False, True)
        # the meta information is that of the object, and the file is private
        assert pydicom.dcmread(path).file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID
        assert path.stat().st_mode & 0o077 == 0
        original = read_radiograph(sources[sent.SOPInstanceUID]).pixels
        np.testing.assert_array_equal(read_radiograph(path).pixels, original)
    (tmp_path / "workspace").mkdir()
    found = StudyFinder(spool, tmp_path / "workspace", KEY).find()
    assert [job.study_key for job in found.jobs] == [key]
    assert set(found.jobs[0].paths) == set(paths)
    assert not found.refusals


def test_echo_is_answered(listening: Listening) -> None:
    with listening() as listener, associated(listener.port) as association:
        assert association.send_c_echo().Status == 0


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
    ],
    ids=lambda uid: uid.name,
)
def test_transfer_syntaxes_are_kept(
    syntax: pydicom.uid.UID, pair: Pair, listening: Listening, spool: Path
) -> None:
    dataset = pydicom.dcmread(pair()[0])
    wanted = dataset.pixel_array.copy()
    if syntax.is_compressed:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        big = syntax == ExplicitVRBigEndian
        dataset.PixelData = wanted.astype(">u2" if big else "<u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        buffer = BytesIO()
        plain = pydicom.Dataset(dataset)
        plain.file_meta = dataset.file_meta
        plain.save_as(buffer, implicit_vr=not big, little_endian=not big, enforce_file_format=True)
        dataset = pydicom.dcmread(BytesIO(buffer.getvalue()))
    with listening() as listener:
        assert send(listener.port, dataset) == [0]
    (path,) = stored(spool)
    there = pydicom.dcmread(path)
    assert there.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(there.pixel_array, wanted)


def test_what_is_accepted_is_what_the_reader_takes(pair: Pair, listening: Listening) -> None:
    assert set(accepted_sop_classes(True)) == {*SOP_CLASSES, *CT_CLASSES}
    assert {SOP_CLASSES.get(uid, "CT") for uid in accepted_sop_classes()} == {
        *SOP_CLASSES.values(),
        "CT",
    } - {"SC"}
    syntaxes = accepted_transfer_syntaxes()
    assert len(set(syntaxes)) == len(syntaxes) >= 10
    assert "1.2.840.10008.1.2.1.99" not in syntaxes  # deflated
    assert "1.2.840.10008.1.2.4.70" in syntaxes  # JPEG lossless, that of most hospitals
    dataset = pydicom.dcmread(pair()[0])
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"  # MR
    with listening() as listener, associated(listener.port, [dataset]) as association:
        assert [c.abstract_syntax for c in association.rejected_contexts] == [dataset.SOPClassUID]
        assert association.is_established


def test_of_ct_images_only_localisers_are_kept(
    pair: Pair, listening: Listening, spool: Path
) -> None:
    datasets = [pydicom.dcmread(path) for path in pair()]
    for dataset, kind in zip(datasets, ("LOCALIZER", "AXIAL"), strict=True):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CT_CLASSES[0]
        dataset.ImageType = ["ORIGINAL", "PRIMARY", kind]
    with listening() as listener:
        assert send(listener.port, *datasets) == [0, 0]
        assert (listener.counts["stored"], listener.counts["dropped"]) == (1, 1)
    assert len(stored(spool)) == 1


@pytest.mark.parametrize(
    "titles", [{"calling": PLANTED}, {"called": "OTHER"}], ids=["caller", "called"]
)
def test_strangers_are_rejected(
    titles: dict[str, str], pair: Pair, listening: Listening, spool: Path
) -> None:
    with listening() as listener:
        with associated(listener.port, **titles) as association:
            assert association.is_rejected
            assert association.acceptor.primitive.result == 1  # permanently
        assert listener.counts["rejected"] == 1
    assert stored(spool) == []
    (line,) = [line for line in audit_of(spool) if line["event"] == "rejected"]
    assert line["code"] == "N14"
    assert PLANTED not in str(audit_of(spool))  # a title that is not known could be a name


def test_everybody_may_call_only_when_that_is_said(pair: Pair, listening: Listening) -> None:
    with pytest.raises(ValueError, match="--allow"):
        listening(allow=())
    with pytest.raises(ValueError, match="--allow"):
        listening(allow_any=True)
    with listening(allow=(), allow_any=True) as listener:
        assert send(listener.port, pydicom.dcmread(pair()[0]), calling="ANYBODY") == [0]


def test_a_full_disk_refuses_objects_and_the_sender_can_repeat(
    pair: Pair, listening: Listening, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = pydicom.dcmread(pair()[0])
    with listening(min_free_gb=1e9) as listener:
        assert send(listener.port, dataset) == [0xA700]
        assert stored(spool) == []
    with listening() as listener:
        with monkeypatch.context() as patched:
            # the disk fills up while the file is written
            def full(descriptor: int) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patched.setattr(listen_module.os, "fsync", full)
            assert send(listener.port, dataset) == [0xA700]
            assert stored(spool) == []
        assert send(listener.port, dataset) == [0]
    codes = [line["code"] for line in audit_of(spool) if line["event"] == "object"]
    assert codes == ["N10", "N13", None]
    assert len(stored(spool)) == 1


def test_interleaved_studies_stay_apart(pair: Pair, listening: Listening, spool: Path) -> None:
    one, two = ([pydicom.dcmread(path) for path in pair(name)] for name in ("one", "two"))
    with (
        listening() as listener,
        associated(listener.port, one) as first,
        associated(listener.port, two) as second,
    ):
        statuses = [
            first.send_c_store(one[0]).Status,
            second.send_c_store(two[0]).Status,
            second.send_c_store(one[1]).Status,  # one association may carry both studies
            first.send_c_store(two[1]).Status,
        ]
    assert statuses == [0] * 4
    found = {
        folder.name: {pydicom.dcmread(path).SOPInstanceUID for path in folder.glob("*.dcm")}
        for folder in spool.iterdir()
        if not folder.name.startswith(".")
    }
    assert found == {
        study_key(pair_[0].StudyInstanceUID, KEY): {d.SOPInstanceUID for d in pair_}
        for pair_ in (one, two)
    }


def test_repeated_objects(pair: Pair, listening: Listening, spool: Path) -> None:
    dataset = pydicom.dcmread(pair()[0])
    with listening() as listener:
        assert send(listener.port, dataset) == [0]
        (path,) = stored(spool)
        before = path.stat()
        assert send(listener.port, dataset) == [0]
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        dataset.StudyDescription = "corrected"
        assert send(listener.port, dataset) == [0]
        assert pydicom.dcmread(path).StudyDescription == "corrected"
        assert stored(spool) == [path]
        counts = listener.counts
    assert (counts["stored"], counts["unchanged"], counts["replaced"]) == (1, 1, 1)


def test_objects_that_are_not_as_announced(pair: Pair, listening: Listening, spool: Path) -> None:
    first, second = (pydicom.dcmread(path) for path in pair())
    with listening() as listener:
        assert send_raw(listener.port, first, encode(second, False, True)) == 0xA900
        assert send_raw(listener.port, first, b"\xff" * 64) in (0xA900, 0xC000)
        assert stored(spool) == []
        # no path comes out of a UID
        first.StudyInstanceUID = "../../outside"
        assert send_raw(listener.port, first, encode(first, False, True)) == 0
    (path,) = stored(spool)
    assert path.parent == spool / study_key("../../OUTSIDE", KEY)


def test_too_large_objects_are_cut_off(pair: Pair, listening: Listening, spool: Path) -> None:
    small = pydicom.dcmread(pair()[0])
    large = pydicom.dcmread(pair()[1])
    large.Rows = large.Columns = 1536
    large.PixelData = bytes(2 * 1536 * 1536)  # 4.5 MiB, beyond 1 MiB and its overhead
    with listening(max_object_mb=1) as listener:
        assert send(listener.port, large) == [None]
        assert stored(spool) == []
        assert send(listener.port, small) == [0]
    assert "N11" in [line.get("code") for line in audit_of(spool)]


def test_a_long_association_is_not_cut_off(pair: Pair, listening: Listening) -> None:
    """The bound is one of a message and not of an association."""
    dataset = pydicom.dcmread(pair()[0])
    dataset.Rows = dataset.Columns = 512
    dataset.PixelData = bytes(2 * 512 * 512)
    with listening(max_object_mb=1) as listener:
        assert send(listener.port, *[dataset] * 8) == [0] * 8


def test_giant_pdu_and_silence_are_cut_off(listening: Listening, pair: Pair) -> None:
    with listening(max_object_mb=1, timeout=1.0) as listener:
        with socket.create_connection(("127.0.0.1", listener.port), 10) as giant:
            giant.sendall(b"\x01\x00\xff\xff\xff\xff")  # an A-ASSOCIATE-RQ of 4 GiB
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                giant.sendall(bytes(1 << 28))
        with socket.create_connection(("127.0.0.1", listener.port), 10) as silent:
            silent.sendall(b"\x01\x00\x00\x00\x00\xff")
            silent.settimeout(5)
            assert silent.recv(100) == b""  # closed, long before the test's own limit
        assert send(listener.port, pydicom.dcmread(pair()[0])) == [0]


def test_association_limit(listening: Listening) -> None:
    with listening(max_associations=1) as listener:
        with associated(listener.port) as first:
            assert first.is_established
            with associated(listener.port) as second:
                assert second.is_rejected
                assert second.acceptor.primitive.result == 2  # transient: the sender comes again
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with associated(listener.port) as third:
                if third.is_established:
                    return
        pytest.fail("the place was not given free")


def test_no_identity_in_names_or_logs(
    pair: Pair,
    listening: Listening,
    spool: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    datasets = [pydicom.dcmread(path) for path in pair()]
    with listening(min_free_gb=0.0) as listener:
        assert send(listener.port, *datasets) == [0, 0]
        assert send_raw(listener.port, datasets[0], b"PATIENT" * 50) in (0xA900, 0xC000)
        with associated(listener.port, calling=PLANTED) as association:
            assert association.is_rejected
    output = capfd.readouterr()
    names = "\n".join(str(path.relative_to(spool)) for path in spool.rglob("*"))
    lines = audit_of(spool)
    server = [r.getMessage() for r in caplog.records if not r.name.startswith("pynetdicom")]
    for text in (names, str(lines), *server, output.out, output.err):
        assert PLANTED.lower() not in text.lower()
        assert PLANTED_ROOT not in text
        assert "2000-01-01" not in text
        assert "20000101" not in text
    assert not [r for r in caplog.records if r.name.startswith("pynetdicom")]
    assert [line["event"] for line in lines if line["event"] == "object"] == ["object"] * 3
    assert lines[0]["settings"]["site_key"] == "secret"
    assert KEY not in str(lines)
    # and the search would have found something
    assert all(PLANTED.encode() in path.read_bytes() for path in stored(spool))


def test_options_do_not_show_the_key(spool: Path) -> None:
    options = ListenOptions(spool=spool, allow_any=True, key=KEY)
    for text in (repr(options), str(options), f"{options}"):
        assert KEY not in text


def test_an_unfinished_file_is_no_dicom_file_and_is_cleared(
    pair: Pair, listening: Listening, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not seen and path.suffix == ".dcm":
            seen.append(path)
            with pytest.raises(InvalidDicomError):
                pydicom.dcmread(path)
            (path.parent / ".0-partial-0.dcm").write_bytes(path.read_bytes())
        fsync(descriptor)

    with listening() as listener:
        monkeypatch.setattr(listen_module.os, "fsync", look)
        assert send(listener.port, pydicom.dcmread(pair()[0])) == [0]
    assert seen
    assert len(stored(spool)) == 2
    with listening():
        assert [path.name[0] for path in stored(spool)] != ["."]
        assert len(stored(spool)) == 1


def test_one_listener_per_spool_and_port(listening: Listening, tmp_path: Path) -> None:
    with listening() as listener:
        with pytest.raises(SpiderError, match=r"^N09 "):
            listening()
        with pytest.raises(SpiderError, match=r"^N08 "):
            Listener(ListenOptions(spool=tmp_path / "two", port=listener.port, allow_any=True))
    with listening() as listener:  # both are free again
        assert listener.port


@contextmanager
def command(spool: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``spider listen`` in a process of its own, and its port."""
    line = [sys.executable, "-m", "spider_bundle.cli", "listen", str(spool), "--port", "0"]
    line += ["--allow", "MODALITY", "--min-free-gb", "0", *options]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(line, **pipes) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            match = re.search(r"127\.0\.0\.1:(\d+)", first)
            assert match, first + process.stdout.read()
            yield process, int(match.group(1))
        finally:
            process.kill()


def test_sigterm_lets_associations_finish(pair: Pair, spool: Path) -> None:
    datasets = [pydicom.dcmread(path) for path in pair()]
    with command(spool) as (process, port):
        with associated(port, datasets) as association:
            assert association.send_c_store(datasets[0]).Status == 0
            process.send_signal(signal.SIGTERM)
            time.sleep(1.0)
            with associated(port) as late:
                assert not late.is_established
            assert association.send_c_store(datasets[1]).Status == 0
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "2 objects received" in output
    assert len(stored(spool)) == 2
    last = audit_of(spool)[-1]
    assert (last["event"], last["counts"]["stored"]) == ("end", 2)


def test_a_kill_during_an_association_leaves_no_partial_file(pair: Pair, spool: Path) -> None:
    datasets = [pydicom.dcmread(path) for path in pair()]
    datasets[1].Rows = datasets[1].Columns = 2048
    datasets[1].PixelData = bytes(2 * 2048 * 2048)
    with command(spool) as (process, port):
        with associated(port, datasets) as association:
            assert association.send_c_store(datasets[0]).Status == 0
            send_message = association.dul.socket.send
            sent = []

            def kill_in_the_middle(data: bytes) -> None:
                sent.append(len(data))
                if sum(sent) > 4_000_000 and process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                send_message(data)

            association.dul.socket.send = kill_in_the_middle
            assert association.send_c_store(datasets[1]).get("Status") is None
        assert process.wait(20) == -signal.SIGKILL
    (path,) = stored(spool)
    assert pydicom.dcmread(path).SOPInstanceUID == datasets[0].SOPInstanceUID
    assert body(path) == encode(datasets[0], False, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "--allow"), (["--allow", "x" * 17], "N01"), (["--allow", "A", "--allow-any"], "--allow")],
    ids=["nobody", "title", "both"],
)
def test_bad_usage(options: list[str], said: str, spool: Path) -> None:
    from typer.testing import CliRunner

    from spider_bundle.cli import EXIT_USAGE, app

    result = CliRunner().invoke(app, ["listen", str(spool), *options])
    assert result.exit_code == EXIT_USAGE
    assert said in result.output
    assert not spool.exists()
