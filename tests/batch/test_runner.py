"""A batch as a hospital sees it: every study ends in one state, whatever the studies do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from spider_bundle.batch import finder, records
from spider_bundle.batch.options import BatchOptions, worker_count, worker_settings
from spider_bundle.batch.outcome import Outcome, plan_batch
from spider_bundle.batch.records import MANIFEST_FILE, Manifest, read_lines
from spider_bundle.batch.runner import run_batch
from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.studies import study_key
from spider_bundle.dicom.write import SyntheticIdentity
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import file_sha256
from spider_bundle.outputs.study import is_whole
from tests.batch import readers
from tests.batch.conftest import TINY, contents, strays
from tests.batch.pipelines import RESULT, Announcing, Broken, Careful, Fragile, StandIn, StillBorn

Spool = Callable[..., Path]


def key_of(name: str) -> str:
    return study_key(SyntheticIdentity(name).uid("study"))


def states(output: Path) -> dict[str, tuple[str, list[str]]]:
    entries = Manifest(output).entries
    return {key: (entry.state.value, list(entry.codes)) for key, entry in entries.items()}


def batch(source: Path, output: Path, **options: Any) -> Outcome:
    return run_batch(BatchOptions(source, output, **{"pipeline": StandIn, **options}))


def behave(folder: Path, **how: Any) -> None:
    """Tell the stand-in how studies behave, by their names, or ``seconds``."""
    told = {name if name == "seconds" else key_of(name): value for name, value in how.items()}
    (folder / "behaviour.json").write_text(json.dumps(told))


def test_every_study_ends_in_one_state_and_takes_no_other_down(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, output = spool(7), tmp_path / "out"
    (source / "s5" / "lateral.dcm").unlink()
    before = contents(source)
    behave(tmp_path, s1="crash", s2="error", s3="refuse", s6="hang")
    with caplog.at_level("INFO"):
        outcome = batch(source, output, time_limit=10.0)
    assert states(output) == {
        key_of("s0"): ("done", []),
        key_of("s1"): ("failed", ["R04"]),
        key_of("s2"): ("failed", ["R07"]),
        key_of("s3"): ("refused", ["E16"]),
        key_of("s4"): ("done", []),
        key_of("s5"): ("refused", ["E06"]),
        key_of("s6"): ("failed", ["R05"]),
    }
    assert (outcome.done, outcome.failed, outcome.refused, outcome.left) == (2, 3, 2, 0)
    assert outcome.exit_code == 1
    assert contents(source) == before
    assert strays(output) == []
    assert is_whole(output, key_of("s0"))
    assert not (output / key_of("s1")).exists()
    assert "Doe" not in caplog.text + (output / MANIFEST_FILE).read_text()
    assert str(tmp_path) not in caplog.text
    # one line a study, out of all of them from the first; a refusal is a warning
    ends = [r for r in caplog.records if r.name == "spider_bundle.batch.progress"]
    assert [r.getMessage().split()[0] for r in ends] == [f"{n}/7" for n in range(1, 8)]
    assert ends[0].getMessage().startswith(f"1/7 study {key_of('s5')} refused: E06 (pair) ")
    assert Counter(r.levelname for r in ends) == {"INFO": 2, "WARNING": 2, "ERROR": 3}
    refused = json.loads((output / "refused.json").read_text())["refused"]
    assert {entry["study_key"] for entry in refused} == {key_of("s3"), key_of("s5")}
    # only what is not done is taken again, and lines are only ever added
    lines = (output / MANIFEST_FILE).read_bytes()
    behave(tmp_path)
    again = batch(source, output)
    assert (again.done, again.skipped, again.refused, again.failed) == (4, 2, 1, 0)
    assert again.exit_code == 3
    assert (output / MANIFEST_FILE).read_bytes().startswith(lines)
    assert len(read_lines(output / MANIFEST_FILE)[0]) == 7 + 4
    events = read_lines(output / "audit" / "run-000002.jsonl")[0]
    assert [e["event"] for e in events][:2] == ["start", "intake"]
    assert events[-1]["event"] == "end"
    assert events[-1]["counts"]["skipped"] == 2


def test_full_disk_stops_the_batch_and_leaves_nothing_half_written(
    spool: Spool, tmp_path: Path
) -> None:
    source, output = spool(8), tmp_path / "out"
    behave(tmp_path, s1="full")
    outcome = batch(source, output, jobs=1)  # others would have done the rest meanwhile
    assert states(output)[key_of("s1")] == ("failed", ["R01"])
    assert not (output / key_of("s1")).exists()
    assert strays(output) == []
    assert outcome.exit_code == 1
    assert outcome.stop_code is Code.NO_DISK_SPACE
    assert outcome.left > 0
    assert outcome.done + outcome.left == 7
    behave(tmp_path)
    assert batch(source, output).exit_code == 0
    assert [state for state, _ in states(output).values()] == ["done"] * 8


def test_full_disk_under_the_manifest_loses_no_study(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is cut in the middle, as a full disk does; nothing after it can be written."""
    source, output = spool(3), tmp_path / "out"
    write, is_full = os.write, False

    def cut(descriptor: int, data: bytes) -> int:
        nonlocal is_full
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if b'"done"' in data and b'"event"' not in data:  # the manifest's line
            is_full = True
            return write(descriptor, data[: len(data) // 2])
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(records.os, "write", cut)
        with pytest.raises(OSError, match="No space"):
            batch(source, output)
    assert strays(output) == []
    assert states(output) == {}
    # what the audit log says comes first: nothing ends that it does not tell
    events = read_lines(output / "audit" / "run-000001.jsonl")[0]
    assert [event["state"] for event in events if event["event"] == "study"] == ["done"]
    assert batch(source, output).done == 3
    assert [state for state, _ in states(output).values()] == ["done"] * 3
    assert len(Manifest(output).damaged) == 1


@pytest.mark.parametrize(
    ("studies", "options", "done", "failed", "exit_code", "event"),
    [
        (0, {}, 0, 0, 3, None),  # nothing found is no success
        (3, {"limit": 2}, 2, 0, 0, None),
        (2, {"min_free_mib": 1e12}, 0, 0, 1, "R06"),
        (4, {"stop_on_error": True, "jobs": 1}, None, 1, 1, None),
    ],
)
def test_what_is_not_taken_is_left(
    spool: Spool,
    tmp_path: Path,
    studies: int,
    options: dict[str, Any],
    done: int | None,
    failed: int,
    exit_code: int,
    event: str | None,
) -> None:
    (tmp_path / "in").mkdir()
    source, output = tmp_path / "in", tmp_path / "out"
    spool(studies)
    behave(tmp_path, **({"s0": "error"} if failed else {}))
    outcome = batch(source, output, **options)
    assert (outcome.failed, outcome.exit_code) == (failed, exit_code)
    assert outcome.done == done if done is not None else outcome.left > 0
    assert outcome.done + outcome.failed + outcome.left == studies
    events = read_lines(output / "audit" / "run-000001.jsonl")[0]
    assert [e["code"] for e in events if e["event"] == "event"] == ([event] if event else [])
    if "limit" in options:  # those that are done do not count
        second = batch(source, output, **options)
        assert (second.done, second.skipped, second.left) == (1, 2, 0)


@pytest.mark.parametrize(("pipeline", "word"), [(Broken, "RuntimeError"), (StillBorn, "died")])
def test_worker_that_cannot_start_ends_the_batch(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: Any, word: str
) -> None:
    monkeypatch.setattr("spider_bundle.batch.pool._PAUSE_SECONDS", 0.1)
    with pytest.raises(SpiderError, match=f"R02.*{word}") as error:
        batch(spool(1), tmp_path / "out", pipeline=pipeline)
    assert "Doe" not in str(error.value)
    end = read_lines(tmp_path / "out" / "audit" / "run-000001.jsonl")[0][-1]
    assert (end["event"], end["exit_code"]) == ("end", 1)


def test_done_studies_are_taken_again_only_when_something_changed(
    spool: Spool, tmp_path: Path
) -> None:
    source, output = spool(3), tmp_path / "out"

    def planned(**options: Any) -> set[str]:
        plan = plan_batch(BatchOptions(source, output, pipeline=StandIn, **options))
        return {job.study_key for job in plan.jobs}

    keys = {key_of(f"s{number}") for number in range(3)}
    assert planned() == keys
    assert not output.exists()
    assert batch(source, output).exit_code == 0
    assert planned() == set()
    assert planned(spacing=4.0) == keys
    assert planned(config={"overrides": {"sod": 900.0}}) == keys
    assert planned(jobs=2, time_limit=9.0) == set()
    # a result that is damaged or gone is made again
    (output / key_of("s0") / RESULT).write_text("torn")
    shutil.rmtree(output / key_of("s1"))
    assert planned() == {key_of("s0"), key_of("s1")}
    # and so is one whose radiograph is another
    dataset = pydicom.dcmread(source / "s2" / "frontal.dcm")
    dataset.KVP = 81
    dataset.save_as(source / "s2" / "frontal.dcm")
    assert planned() == keys
    assert planned(limit=1) == {key_of("s0")}


def test_profile_reaches_the_studies_it_fits(spool: Spool, tmp_path: Path) -> None:
    source, output = spool(2), tmp_path / "out"
    for path in (source / "s1").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.ManufacturerModelName = "Ceph 3000 Plus"
        dataset.save_as(path)
    profile = tmp_path / "site.yaml"
    profile.write_text(
        "version: 1\nrules:\n- match: {ManufacturerModelName: 'ceph 3000*'}\n"
        "  overrides: {sod: 900, lateral: {sdd: 1200}}\n"
    )
    assert batch(source, output, profile=profile).exit_code == 0
    stated = {
        path.parent.name: json.loads(path.read_text())["overrides"]
        for path in output.glob("*/report.json")
    }
    wanted = {"sod": 900, "lateral": {"sdd": 1200}}
    assert stated == {key_of("s0"): {}, key_of("s1"): wanted}
    events = read_lines(output / "audit" / "run-000001.jsonl")[0]
    rules = {e["study_key"]: e["profile_rule"] for e in events if e["event"] == "study"}
    assert rules == {key_of("s0"): None, key_of("s1"): 1}


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ({"done": 1}, 0),
        ({"skipped": 1}, 0),
        ({"done": 1, "refused": 1}, 3),
        ({"failed": 1, "refused": 1}, 1),
        ({"done": 1, "left": 1}, 0),
        ({"done": 1, "left": 1, "is_stopped": True}, 4),
        ({"refused": 1, "left": 1, "is_stopped": True}, 4),
        ({"failed": 1, "left": 1, "is_stopped": True}, 1),
        ({"done": 1, "is_stopped": True}, 0),
        ({"left": 1, "is_stopped": True, "stop_code": Code.NO_DISK_SPACE}, 1),
    ],
)
def test_exit_codes(numbers: dict[str, Any], code: int) -> None:
    assert Outcome(**numbers).exit_code == code


RUN = """
import sys
from spider_bundle.batch.runner import BatchOptions, run_batch
from tests.batch.pipelines import StandIn

if __name__ == "__main__":
    options = BatchOptions(sys.argv[1], sys.argv[2], watch=sys.argv[3] == "watch",
                           quiet_seconds=0.5, pipeline=StandIn)
    raise SystemExit(run_batch(options).exit_code)
"""


@pytest.fixture
def start(tmp_path: Path, bundle_root: Path) -> Any:
    """Starts a batch in a process group of its own."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    running: list[subprocess.Popen[bytes]] = []

    def begin(source: Path, output: Path, mode: str = "once") -> Any:
        command = [sys.executable, str(script), str(source), str(output), mode]
        environment = {**os.environ, "PYTHONPATH": str(bundle_root)}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def done(output: Path) -> int:
    return sum(state == "done" for state, _ in states(output).values()) if output.exists() else 0


@pytest.mark.slow
def test_killed_runs_resume_and_end_as_an_undisturbed_one(
    spool: Spool, tmp_path: Path, start: Any
) -> None:
    source, output = spool(12), tmp_path / "out"
    behave(tmp_path, seconds=0.1)
    for number, wanted in enumerate((2, 5, 8)):
        process = start(source, output)
        wait_for(lambda least=wanted: done(output) >= least)
        if number == 1:  # the runner alone: its worker must not outlive it
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # what a power cut leaves behind
    with (output / MANIFEST_FILE).open("ab") as stream:
        stream.write(b'{"study_key": "torn')
    (output / ".unpacked").mkdir(exist_ok=True)
    (output / ".unpacked" / "000001").write_bytes(b"DICM of somebody")
    process = start(source, output)
    assert process.wait() == 0
    assert strays(output) == []
    assert [state for state, _ in states(output).values()] == ["done"] * 12
    for number in range(12):
        result = (output / key_of(f"s{number}") / RESULT).read_text()
        assert result == file_sha256(source / f"s{number}" / "frontal.dcm")
    records, damaged = read_lines(output / MANIFEST_FILE)
    assert len(damaged) == 1
    keys = [record["study_key"] for record in records]
    assert len(keys) - len(set(keys)) <= 1  # done is done: hardly anything is done twice
    audits = [read_lines(path)[0][-1]["event"] for path in sorted((output / "audit").iterdir())]
    assert audits[-1] == "end"
    assert "end" not in audits[:-1]


@pytest.mark.slow
def test_sigterm_finishes_the_studies_at_hand(spool: Spool, tmp_path: Path, start: Any) -> None:
    source, output = spool(12), tmp_path / "out"
    behave(tmp_path, seconds=0.5)
    process = start(source, output)
    wait_for(lambda: done(output) >= 1)
    os.killpg(process.pid, signal.SIGTERM)  # as a service manager does
    assert process.wait() == 4
    assert 1 < done(output) < 8
    assert strays(output) == []
    assert all(is_whole(output, key) for key in states(output))
    end = read_lines(output / "audit" / "run-000001.jsonl")[0][-1]
    assert end["counts"]["left"] == 12 - done(output)


@pytest.mark.slow
def test_watch_takes_studies_that_are_complete_and_quiet(
    spool: Spool, tmp_path: Path, start: Any
) -> None:
    elsewhere, source, output = spool(3, "elsewhere"), tmp_path / "in", tmp_path / "out"
    source.mkdir()
    process = start(source, output, mode="watch")
    shutil.copytree(elsewhere / "s0", source / "s0")
    shutil.copy(elsewhere / "s1" / "frontal.dcm", source / "a")
    archive = shutil.make_archive(str(tmp_path / "s2"), "zip", elsewhere / "s2")
    shutil.copy(archive, source / "s2.zip")
    wait_for(lambda: done(output) == 2)
    assert key_of("s1") not in states(output)
    wait_for(lambda: not list((output / ".unpacked").iterdir()))
    # a lateral that still grows is not taken
    lateral = (elsewhere / "s1" / "lateral.dcm").read_bytes()
    (source / "b").write_bytes(lateral[:5000])
    for size in range(5500, 9001, 500):
        time.sleep(0.2)
        (source / "b").write_bytes(lateral[:size])
    assert key_of("s1") not in states(output)
    (source / "b").write_bytes(lateral)
    wait_for(lambda: done(output) == 3)
    process.terminate()
    assert process.wait() == 0
    assert strays(output) == []


def test_output_in_place_of_the_input_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not be the input"):
        BatchOptions(tmp_path, tmp_path / "a" / "..")


def test_watch_ends_at_its_limit(spool: Spool, tmp_path: Path) -> None:
    """Also in a thread, where no signal can be heard."""
    outcomes: list[Outcome] = []
    source = spool(3)
    thread = threading.Thread(
        target=lambda: outcomes.append(
            batch(source, tmp_path / "out", watch=True, quiet_seconds=0.0, limit=2)
        )
    )
    thread.start()
    thread.join(120)
    assert [outcome.done for outcome in outcomes] == [2]


def test_archives_and_folders_mix(spool: Spool, tmp_path: Path) -> None:
    source, output = spool(1), tmp_path / "out"
    write_demo_pair(tmp_path / "z", name="zipped", **TINY)
    shutil.make_archive(str(source / "night"), "zip", tmp_path / "z")
    (source / "bad.zip").write_bytes(b"PK\x03\x04 and no more")
    before = contents(source)
    outcome = batch(source, output)
    assert (outcome.done, outcome.refused, outcome.exit_code) == (2, 1, 3)
    assert ("refused", ["A01"]) in states(output).values()
    assert states(output)[key_of("zipped")] == ("done", [])
    assert strays(output) == []
    assert contents(source) == before
    plan = plan_batch(BatchOptions(source, output, pipeline=StandIn))
    assert (len(plan.skipped), len(plan.jobs)) == (2, 0)
    assert any("A01" in line and "To do:" in line for line in plan.lines())


@pytest.mark.parametrize(
    ("cores", "gib", "jobs", "workers", "threads"),
    [
        (2, 8, None, 2, 1),
        (32, 64, None, 8, 4),
        (8, 7, None, 2, 4),
        (1, 2, None, 1, 0),
        (8, 64, 1, 1, 0),
        (8, 4, 3, 3, 2),
    ],
)
def test_workers_share_cores_and_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gib: int,
    jobs: int | None,
    workers: int,
    threads: int,
) -> None:
    monkeypatch.setattr("spider_bundle.batch.options.available_cores", lambda: cores)
    monkeypatch.setattr("spider_bundle.batch.options.available_memory", lambda: gib << 30)
    options = BatchOptions(tmp_path, tmp_path / "out", device="cpu", jobs=jobs)
    assert worker_count(options) == workers
    assert worker_settings(options).threads == threads
    gpu = replace(options, device="cuda:0", jobs=None)
    assert worker_count(gpu) == 1


@pytest.mark.slow
def test_signal_cuts_a_search_that_takes_long(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finder, "examine", readers.examine)
    source, output = spool(2), tmp_path / "out"
    dataset = pydicom.dcmread(source / "s0" / "frontal.dcm")
    dataset.ManufacturerModelName = readers.WORDS["hang"].decode()
    dataset.save_as(source / "s0" / "frontal.dcm")
    workspaces = output / ".unpacked"

    def stop() -> None:
        wait_for(workspaces.exists)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    start = time.monotonic()
    outcome = batch(source, output)
    thread.join()
    assert time.monotonic() - start < 30  # a file may take a minute
    assert (outcome.exit_code, states(output)) == (4, {})
    assert strays(output) == []
    assert read_lines(output / "audit" / "run-000001.jsonl")[0][-1]["exit_code"] == 4


def watched(source: Path, output: Path, during: Callable[[], None], **options: Any) -> Outcome:
    """Watch while a thread does something, then end by SIGTERM."""
    failures: list[BaseException] = []

    def act() -> None:
        try:
            during()
        except BaseException as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=act)
    thread.start()
    outcome = batch(source, output, watch=True, quiet_seconds=0.2, **options)
    thread.join()
    assert not failures, failures
    return outcome


def lines(output: Path, name: str) -> list[tuple[str, list[str]]]:
    """What the manifest says of a study, in its order."""
    records = read_lines(output / MANIFEST_FILE)[0] if (output / MANIFEST_FILE).exists() else []
    return [(r["state"], r["codes"]) for r in records if r["study_key"] == key_of(name)]


@pytest.mark.slow
def test_watch_takes_a_done_study_again_when_it_was_replaced(spool: Spool, tmp_path: Path) -> None:
    """The output lies in the spool, and is named by a link."""
    source, output = spool(2), tmp_path / "link"
    (source / "out").mkdir()
    output.symlink_to(source / "out", target_is_directory=True)
    assert batch(source, output).done == 2

    def replace_film() -> None:
        time.sleep(2.0)  # both are known as done before
        dataset = pydicom.dcmread(source / "s0" / "frontal.dcm")
        dataset.KVP = 81
        dataset.save_as(source / "s0" / "frontal.dcm")
        wait_for(lambda: len(lines(output, "s0")) == 2)

    outcome = watched(source, output, replace_film)
    assert (outcome.done, outcome.skipped, outcome.exit_code) == (1, 1, 0)
    result = (output / key_of("s0") / RESULT).read_text()
    assert result == file_sha256(source / "s0" / "frontal.dcm")


@pytest.mark.slow
def test_watch_takes_a_study_again_that_was_touched_before_it_was_read(
    spool: Spool, tmp_path: Path
) -> None:
    source, output = spool(2), tmp_path / "out"
    behave(tmp_path, seconds=2.0)

    def touch() -> None:
        wait_for((output / f"read-{key_of('s0')}").exists)
        os.utime(source / "s1" / "frontal.dcm")
        wait_for(lambda: len(lines(output, "s1")) == 2)

    outcome = watched(source, output, touch, pipeline=Careful, jobs=1)
    assert lines(output, "s1") == [("refused", ["E01"]), ("done", [])]
    assert (outcome.done, outcome.refused, outcome.exit_code) == (2, 0, 0)


@pytest.mark.slow
def test_film_that_comes_while_its_study_is_read_is_told_afterwards(
    spool: Spool, tmp_path: Path
) -> None:
    source, output = spool(1), tmp_path / "out"
    behave(tmp_path, seconds=4.0)

    def add_film() -> None:
        wait_for(lambda: (output / "reading").exists())
        dataset = pydicom.dcmread(source / "s0" / "frontal.dcm")
        dataset.SOPInstanceUID = "1.2.3"
        dataset.save_as(source / "s0" / "third.dcm")
        wait_for(lambda: len(lines(output, "s0")) == 2)

    watched(source, output, add_film, pipeline=Announcing)
    assert lines(output, "s0") == [("done", []), ("refused", ["E06"])]


@pytest.mark.slow
def test_watch_refuses_a_study_whose_other_view_does_not_come(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, output = spool(2), tmp_path / "out"
    lateral = source / "s0" / "lateral.dcm"
    held = lateral.rename(tmp_path / "held")

    def send_late() -> None:
        wait_for(lambda: lines(output, "s0") == [("refused", ["E06"])])
        told = output / "refused.json"
        wait_for(lambda: told.exists() and key_of("s0") in told.read_text())
        shutil.copy(held, lateral)
        wait_for(lambda: len(lines(output, "s0")) == 2)

    caplog.set_level("INFO")
    outcome = watched(source, output, send_late, patience=6.0)
    assert lines(output, "s0") == [("refused", ["E06"]), ("done", [])]
    assert (outcome.done, outcome.refused, outcome.exit_code) == (2, 0, 0)
    told = [r.message for r in caplog.records if "waiting" in r.message]
    assert told == [f"study {key_of('s0')} is not complete (E06); waiting"]


def test_error_of_the_machine_fails_only_the_study_that_brings_it(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A study breaks the CUDA context of its worker, and the next worker does not start at once."""
    monkeypatch.setattr("spider_bundle.batch.pool._PAUSE_SECONDS", 0.1)
    source, output = spool(7), tmp_path / "out"
    behave(tmp_path, s1="spoil", s2="once", s3="refuse", s4="late", s5="error")
    outcome = batch(source, output, pipeline=Fragile, jobs=1)
    assert states(output) == {
        key_of("s0"): ("done", []),
        key_of("s1"): ("failed", ["R07"]),
        key_of("s2"): ("done", []),
        key_of("s3"): ("refused", ["E16"]),
        key_of("s4"): ("done", []),
        key_of("s5"): ("failed", ["R07"]),
        key_of("s6"): ("done", []),
    }
    assert (outcome.done, outcome.failed, outcome.refused, outcome.left) == (4, 2, 1, 0)
    assert len(read_lines(output / MANIFEST_FILE)[0]) == 7
    tries = {f"s{n}": tmp_path / f"count-{key_of(f's{n}')}" for n in (1, 2, 4)}
    counts = {name: path.stat().st_size for name, path in tries.items()}
    assert counts == {"s1": 2, "s2": 2, "s4": 2}
    # s1 ends two workers, s2, s4 and s5 (whose error is its own) none or one each
    assert (tmp_path / "count-start").stat().st_size == 1 + 4 + 1
    assert strays(output) == []
    assert "Doe" not in caplog.text + (output / MANIFEST_FILE).read_text()
