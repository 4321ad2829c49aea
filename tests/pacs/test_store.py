"""Results arrive whole, once, and whatever a peer does, what is missing can be sent again."""

from __future__ import annotations

import json
import random
import re
import socket
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE, evt
from typer.testing import CliRunner

from spider_bundle.cli import EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE, app
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import file_sha256
from spider_bundle.outputs import optional_dependencies
from spider_bundle.pacs.peer import Peer
from spider_bundle.pacs.store import RetryPolicy, send_results, store_files
from tests.fuzzed import fuzzed_line
from tests.pacs.results import SHAPE, write_report, write_results

pytest.importorskip("highdicom")

CT = "1.2.840.10008.5.1.4.1.1.2"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
QUICK = RetryPolicy(retries=2, pause=0.01, timeout=5.0)


class Archive:
    """A peer that answers as it is told.

    Attributes:
        statuses: Answers to come; success after that.
        objects: What it has, in the order of arrival.
        associations: Number of associations so far.
        break_after: Number of objects after which it breaks off, once.
    """

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.objects: list[pydicom.Dataset] = []
        self.associations = 0
        self.break_after: int | None = None
        self.peer = Peer("ARCHIVE", "127.0.0.1", 0)

    def store(self, event: evt.Event) -> int:
        if self.break_after == len(self.objects):
            self.break_after = None
            event.assoc.abort()
            return 0x0110
        status = self.statuses.pop(0) if self.statuses else 0
        if status == 0 or status >> 12 == 0xB:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.objects.append(dataset)
        return status

    def accepted(self, event: evt.Event) -> None:
        self.associations += 1


@contextmanager
def running(
    contexts: Mapping[str, list[str]] | None = None, known: str = "SPIDER"
) -> Iterator[Archive]:
    archive = Archive()
    entity = AE("ARCHIVE")
    entity.require_called_aet = True
    entity.require_calling_aet = [known]
    for uid, syntaxes in (contexts or {CT: [EXPLICIT], SEG: [EXPLICIT]}).items():
        entity.add_supported_context(uid, syntaxes)
    handlers = [(evt.EVT_C_STORE, archive.store), (evt.EVT_ACCEPTED, archive.accepted)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    archive.peer = Peer("ARCHIVE", "127.0.0.1", server.socket.getsockname()[1])
    try:
        yield archive
    finally:
        entity.shutdown()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two studies with DICOM results and one without."""
    write_results(tmp_path / "out", "a" * 16, seed=1)
    write_results(tmp_path / "out", "b" * 16, seed=2)
    (tmp_path / "out" / ("c" * 16)).mkdir()
    write_report(tmp_path / "out" / ("c" * 16))
    return tmp_path / "out"


OBJECTS = 2 * (SHAPE[2] + 1)


def test_results_arrive_whole_and_once(results: Path) -> None:
    with running() as archive:
        first = send_results(results, archive.peer, retry=QUICK)
        assert (first.stored, first.skipped, first.studies) == (OBJECTS, 0, 2)
        assert Counter(d.SOPClassUID for d in archive.objects) == {CT: OBJECTS - 2, SEG: 2}
        files = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, results.rglob("*.dcm"))}
        assert all(files[d.SOPInstanceUID] == d for d in archive.objects)
        again = send_results(results, archive.peer, retry=QUICK)
        assert (again.stored, again.skipped, len(archive.objects)) == (0, OBJECTS, OBJECTS)
        # a study that was reconstructed anew is sent again, and only that
        write_results(results, "a" * 16, seed=3)
        anew = send_results(results, archive.peer, retry=QUICK)
        assert (anew.stored, anew.skipped) == (OBJECTS // 2, OBJECTS // 2)
        assert archive.associations == 3
    with running() as other:  # what one peer has is not what another one has
        assert send_results(results, other.peer, retry=QUICK).stored == OBJECTS
    lines = [json.loads(line) for line in (results / "sent.jsonl").read_text().splitlines()]
    assert {frozenset(line) for line in lines} == {frozenset({"file", "sha256", "peer"})}


def test_what_was_sent_is_not_read_again(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr("spider_bundle.pacs.store.file_sha256", counted)
    with running() as archive:
        send_results(results, archive.peer, retry=QUICK)
        assert len(read) == OBJECTS
        read.clear()
        again = send_results(results, archive.peer, retry=QUICK)
        assert (again.stored, again.skipped, read) == (0, OBJECTS, [])
        # what a retention rule deleted was sent all the same
        next((results / ("b" * 16)).rglob("*.dcm")).unlink()
        write_results(results, "a" * 16, seed=3)
        anew = send_results(results, archive.peer, retry=QUICK)
        assert (anew.stored, anew.skipped, anew.damaged) == (OBJECTS // 2, OBJECTS // 2, 0)
        assert {path.relative_to(results).parts[0] for path in read} == {"a" * 16}
        assert len(read) == OBJECTS // 2


def test_a_long_record_takes_little_memory(results: Path) -> None:
    """The record of earlier versions, of studies that are gone and of another peer."""
    lines = 20_000
    with running() as archive:
        other = f"OTHER@127.0.0.1:{archive.peer.port}"
        sent = [
            (f"{report.parent.name}/{entry['name']}", entry["sha256"])
            for report in results.glob("*/report.json")
            for entry in json.loads(report.read_text())["files"]
        ]
        with (results / "sent.jsonl").open("w") as record:
            for number in range(lines):
                peer = str(archive.peer) if number % 2 else other
                name = f"{number:016x}/dicom/ct/{number:04d}.dcm"
                line = {"file": name, "peer": peer, "sha256": f"{number:064x}"}
                record.write(json.dumps(line) + "\n")
            size = record.tell()
            record.write('garbage\n[]\n{"file": ["a"], "peer": 1}\n{"file": null, "sha256": 1')
            record.write(f', "peer": "{archive.peer}"}}\n')
            for name, digest in sent[1:]:
                line = {"file": name, "sha256": digest, "peer": str(archive.peer)}
                record.write(json.dumps(line) + "\n")
            # cut by a kill
            record.write(json.dumps({"file": sent[0][0], "sha256": sent[0][1]})[:-9])
        tracemalloc.start()
        try:
            outcome = send_results(results, archive.peer, retry=QUICK)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (outcome.stored, outcome.skipped) == (1, OBJECTS - 1)
        assert peak < size / 2  # it was ten times as much when the record was held whole
        assert send_results(results, archive.peer, retry=QUICK).skipped == OBJECTS


def test_whatever_is_in_the_record_the_rest_is_not_sent_again(
    results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = random.Random(13)
    with running() as archive:
        assert send_results(results, archive.peer, retry=QUICK).stored == OBJECTS
        record = results / "sent.jsonl"
        whole = record.read_bytes()
        # of another peer: a damaged line must not stand for an object of this one
        example = json.loads(whole.splitlines()[0]) | {"peer": "OTHER@127.0.0.1:104"}
        lines = [fuzzed_line(generator, example) for _ in range(2000)]
        record.write_bytes(b"\n".join([*lines, b""]) + whole)
        again = send_results(results, archive.peer, retry=QUICK)
        assert (again.stored, again.skipped) == (0, OBJECTS)
    assert re.search(r"sent\.jsonl: passed over damaged lines \d+, .* and \d+ more", caplog.text)
    deep = b"[" * 200_000
    (results / ("c" * 16) / "report.json").write_bytes(deep)
    with running() as archive:
        outcome = send_results(results, archive.peer, retry=QUICK)
        assert (outcome.stored, outcome.damaged) == (OBJECTS, 1)


def test_a_broken_association_is_taken_up_again(results: Path) -> None:
    with running() as archive:
        archive.break_after = 3
        outcome = send_results(results, archive.peer, retry=QUICK)
        assert outcome.stored == OBJECTS
        assert len({d.SOPInstanceUID for d in archive.objects}) == OBJECTS == len(archive.objects)
        assert archive.associations == 3


def test_a_run_that_was_cut_resumes(results: Path) -> None:
    with running() as archive:
        archive.break_after = 3
        with pytest.raises(SpiderError, match=r"^N06 "):
            send_results(results, archive.peer, retry=RetryPolicy(retries=0, timeout=5.0))
        outcome = send_results(results, archive.peer, retry=QUICK)
        assert (outcome.stored, outcome.skipped) == (OBJECTS - 3, 3)
        assert len({d.SOPInstanceUID for d in archive.objects}) == OBJECTS == len(archive.objects)


def test_a_peer_without_space_is_asked_again(tmp_path: Path) -> None:
    files = write_results(tmp_path, "a" * 16)
    with running() as archive:
        archive.statuses = [0xA700, 0, 0xB000]
        outcome = store_files(files, archive.peer, retry=QUICK)
        assert set(outcome.stored) == set(files)
        assert not outcome.refused
        assert archive.associations == 2
    with running() as archive:
        archive.statuses = [0xA700] * 100
        outcome = store_files(files, archive.peer, retry=QUICK)
        assert outcome.refused == dict.fromkeys(files, 0xA700)
        assert archive.associations == 1 + QUICK.retries


def test_what_is_refused_does_not_stop_the_rest(tmp_path: Path) -> None:
    files = write_results(tmp_path, "a" * 16)
    with running() as archive:
        archive.statuses = [0, 0xC000]
        outcome = store_files(files, archive.peer, retry=QUICK)
        assert outcome.refused == {files[1]: 0xC000}
        assert len(outcome.stored) == len(files) - 1
        assert archive.associations == 1  # there is no use in asking again
        assert str(tmp_path) not in repr(outcome)


def test_a_peer_that_takes_only_ct_in_implicit_vr(tmp_path: Path) -> None:
    files = write_results(tmp_path, "a" * 16)
    with running({CT: [IMPLICIT]}) as archive:
        outcome = store_files(files, archive.peer, retry=QUICK)
        assert outcome.refused == {files[-1]: 0x0122}
        wanted = [pydicom.dcmread(path).pixel_array.tolist() for path in files[:-1]]
        assert [d.pixel_array.tolist() for d in archive.objects] == wanted
        assert {d.file_meta.TransferSyntaxUID for d in archive.objects} == {IMPLICIT}


def test_peers_that_cannot_be_spoken_to(tmp_path: Path) -> None:
    files = write_results(tmp_path, "a" * 16)
    with running(known="OTHER") as archive:
        with pytest.raises(SpiderError, match=r"^N03 .*does not know this AE title"):
            store_files(files, archive.peer, retry=QUICK)
        wrong = Peer("NOBODY", archive.peer.host, archive.peer.port)
        with pytest.raises(SpiderError, match=r"^N03 .*has another AE title"):
            store_files(files, wrong, "OTHER", retry=QUICK)
    with pytest.raises(SpiderError, match=r"^N02 "):  # it has shut down
        store_files(files, archive.peer, retry=RetryPolicy(1, 0.01, 1.0))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        peer = Peer("MUTE", "127.0.0.1", mute.getsockname()[1])
        with pytest.raises(SpiderError, match=r"^N0[26] "):
            store_files(files, peer, retry=RetryPolicy(0, 0.01, 1.0))
    broken = tmp_path / "PATIENT^NAME.dcm"
    broken.write_bytes(b"nothing")
    with pytest.raises(SpiderError, match=r"^N07 ") as caught:
        store_files([broken], archive.peer, retry=QUICK)
    assert "PATIENT" not in str(caught.value)


def test_damaged_results_are_not_sent(results: Path) -> None:
    path = results / ("a" * 16) / "dicom" / "ct" / "0002.dcm"
    path.write_bytes(path.read_bytes()[:-2])
    with running() as archive:
        outcome = send_results(results, archive.peer, retry=QUICK)
        assert (outcome.stored, outcome.damaged) == (OBJECTS // 2, 1)
        assert [problem.code for problem in outcome.problems] == [Code.INVALID_RESULT]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("PACS@host:104", Peer("PACS", "host", 104)),
        ("MY PACS@10.0.0.1:11112", Peer("MY PACS", "10.0.0.1", 11112)),
        ("A@B@host:4242", Peer("A@B", "host", 4242)),
        ("PACS@[::1]:104", Peer("PACS", "::1", 104)),
    ],
)
def test_peers_are_parsed(text: str, wanted: Peer) -> None:
    assert Peer.parse(text) == wanted
    assert str(wanted) == text


@pytest.mark.parametrize(
    "text",
    ["PACS", "PACS@host", "@host:104", "PACS@host:0", "P@h:65536", "x" * 17 + "@h:1", "a\\b@h:1"],
)
def test_what_is_no_peer(text: str) -> None:
    with pytest.raises(SpiderError, match=r"^N01 "):
        Peer.parse(text)


def test_the_command(results: Path, invoke: Callable[..., tuple[int, str]]) -> None:
    with running() as archive:
        to = ["--to", str(archive.peer), "--pause", "0", "--timeout", "5"]
        assert invoke("send", results, *to) == (
            0,
            f"{OBJECTS} objects sent, 0 sent before, 0 refused, of 2 studies\n",
        )
        assert invoke("send", results, *to)[0] == 0
        write_results(results, "a" * 16, seed=3)
        archive.statuses = [0xC123]
        code, output = invoke("send", results, *to)
        assert code == EXIT_FAILED
        assert "N05 the peer refused 1 objects (status C123)" in output
        code, output = invoke("send", results, *to, "--calling-ae", "STRANGER")
        assert (code, output[:3]) == (EXIT_FAILED, "N03")
    assert invoke("send", results, "--to", "nowhere")[0] == EXIT_USAGE
    empty = results.parent / "empty"
    empty.mkdir()
    assert invoke("send", empty, *to)[0] == EXIT_REFUSED


@pytest.mark.parametrize("command", ["listen", "send"])
def test_without_the_extra(
    command: str,
    tmp_path: Path,
    invoke: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optional_dependencies, "EXTRAS", {"pacs": {"no-such-package": 0}})
    options = ["--allow-any"] if command == "listen" else ["--to", "PACS@localhost:104"]
    code, output = invoke(command, tmp_path, *options)
    assert code == EXIT_USAGE
    assert "R03" in output
    assert "no-such-package" in output


@pytest.fixture
def invoke() -> Callable[..., tuple[int, str]]:
    def run(*words: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(map(str, words)))
        return result.exit_code, result.output

    return run


def test_a_batch_sends_what_it_has_made(demo_pair: tuple[Path, Path], tmp_path: Path) -> None:
    line = ["batch", str(demo_pair[0].parent), str(tmp_path / "out"), "--dicom"]
    line += ["--shape", "16", "--spacing", "16", "--store-to"]
    with running() as archive:
        done = CliRunner().invoke(app, [*line, str(archive.peer)])
        assert done.exit_code == 0, done.output
        assert Counter(d.SOPClassUID for d in archive.objects) == {CT: 16, SEG: 1}
        again = CliRunner().invoke(app, [*line, str(archive.peer)])
        assert again.exit_code == 0
        assert len(archive.objects) == 17


def test_a_batch_whose_results_cannot_be_sent_has_made_them_all_the_same(
    demo_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spider_bundle.pacs.store.time.sleep", lambda seconds: None)
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        peer = f"ARCHIVE@127.0.0.1:{taken.getsockname()[1]}"
        line = ["batch", str(demo_pair[0].parent), str(tmp_path / "out"), "--dicom"]
        size = ["--shape", "16", "--spacing", "16", "--store-to", peer]
        done = CliRunner().invoke(app, [*line, *size])
    assert done.exit_code == EXIT_FAILED
    assert "1 done" in done.output
    assert Code.PEER_UNREACHABLE.value in done.output


@pytest.mark.parametrize(
    "options",
    [
        ["--store-to", "ARCHIVE@127.0.0.1:104"],
        ["--dicom", "--store-to", "nowhere"],
        ["--dicom", "--watch", "--store-to", "ARCHIVE@127.0.0.1:104"],
    ],
)
def test_a_batch_that_could_not_send_does_not_start(
    options: list[str], demo_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    line = ["batch", str(demo_pair[0].parent), str(tmp_path / "out"), *options]
    assert CliRunner().invoke(app, line).exit_code == EXIT_USAGE
    assert not (tmp_path / "out").exists()
