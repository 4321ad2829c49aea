"""Each death, hang and device error belongs to one study, whatever the runner does meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spider_bundle.batch.job import Job
from spider_bundle.batch.pool import LocalBackend, Worker, WorkerPool, WorkerStartError
from spider_bundle.batch.records import State
from spider_bundle.batch.worker import (
    Message,
    Ready,
    StartFailed,
    StudyDone,
    WorkerSettings,
)
from spider_bundle.errors import Code, SpiderError, finding
from tests.batch.pipelines import StandIn

LIMIT = 10.0
PAIR: Any = None
"""No worker of these tests looks at films."""


class ScriptedWorker:
    """Says what the test has put into ``script``, and is dead after a None there."""

    def __init__(self, script: Sequence[Message | None] = (Ready(),)) -> None:
        self.script: list[Message | None] = list(script)
        self.studies: list[str] = []
        self.is_ended = False

    def submit(self, job: Job) -> None:
        self.studies.append(job.study_key)

    def receive(self) -> Message | None:
        assert not self.is_ended
        if not self.script:
            return None
        if (message := self.script.pop(0)) is None:
            raise EOFError
        return message

    def kill(self) -> None:
        self.is_ended = True


class ScriptedBackend:
    """Has these workers, one after the other; None stands for one that cannot start now."""

    start_seconds = 600.0
    late = SpiderError(Code.RUN_FAILED, "late")

    def __init__(self, *workers: ScriptedWorker | None) -> None:
        self.coming = list(workers)

    def start_worker(self) -> ScriptedWorker:
        worker = self.coming.pop(0)
        if worker is None:
            raise WorkerStartError("BlockingIOError")
        return worker

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """The test's clock stands."""

    def close(self) -> None:
        """There is nothing to release."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[float]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    if "tmp_path" not in request.fixturenames:  # with real processes time is real
        monkeypatch.setattr("spider_bundle.batch.pool.time.monotonic", lambda: now[0])
        monkeypatch.setattr("spider_bundle.batch.pool.time.sleep", sleep)
    return now


def jobs(keys: str, files: Sequence[Path] = ()) -> list[Job]:
    return [Job(key, PAIR, {}, None, "inputs", files) for key in keys]


def started(size: int, keys: str, *coming: ScriptedWorker | None) -> WorkerPool:
    """A pool whose first workers have their first studies."""
    pool = WorkerPool(ScriptedBackend(*coming), size, LIMIT)
    for job in jobs(keys):
        pool.submit(job)
    for _ in range(2):
        assert pool.poll() == []
    return pool


def done(key: str) -> StudyDone:
    return StudyDone(key, State.DONE, [], {})


def device_error(key: str) -> StudyDone:
    facts = [finding(Code.STUDY_FAILED, "batch").facts()]
    return StudyDone(key, State.FAILED, facts, {"read": 0.5}, device_error=True)


def polls(pool: WorkerPool, number: int = 3) -> dict[str, tuple[State, list[str]]]:
    """States and codes of the studies that end in a few polls."""
    ended = [each for _ in range(number) for each in pool.poll()]
    assert len({each.study_key for each in ended}) == len(ended)
    return {e.study_key: (e.state, [str(facts["code"]) for facts in e.findings]) for e in ended}


DONE = (State.DONE, [])


def failed(code: str) -> tuple[State, list[str]]:
    return State.FAILED, [code]


def test_worker_has_one_study_at_a_time() -> None:
    first, second = ScriptedWorker(), ScriptedWorker()
    pool = started(2, "abcd", first, second)
    assert (first.studies, second.studies, pool.running, pool.waiting) == (["a"], ["b"], 2, 2)
    second.script = [done("b")]
    assert polls(pool) == {"b": DONE}
    assert (first.studies, second.studies) == (["a"], ["b", "c"])
    assert (pool.drop_waiting(), pool.running, pool.waiting) == (1, 2, 0)


def test_time_in_which_the_runner_looked_away_is_not_charged(clock: list[float]) -> None:
    worker = ScriptedWorker()
    pool = started(1, "a", worker)
    clock[0] += 5 * LIMIT  # the runner examines files meanwhile; the study has ended long ago
    worker.script = [done("a")]
    assert polls(pool) == {"a": DONE}


def test_study_over_its_time_fails_at_once_and_alone(clock: list[float]) -> None:
    first, second, third = (ScriptedWorker() for _ in range(3))
    pool = started(2, "abc", first, second, third)
    clock[0] += 0.9 * LIMIT
    second.script = [done("b")]
    assert polls(pool) == {"b": DONE}
    assert second.studies == ["b", "c"]
    clock[0] += 0.2 * LIMIT
    (ended,) = pool.poll()
    assert (ended.study_key, ended.state) == ("a", State.FAILED)
    assert [facts["code"] for facts in ended.findings] == ["R05"]
    assert ended.seconds["total"] == pytest.approx(1.1 * LIMIT)
    assert (first.is_ended, second.is_ended) == (True, False)
    second.script = [done("c")]
    assert polls(pool) == {"c": DONE}


@pytest.mark.parametrize(
    ("end", "code"), [(None, "R04"), (device_error("a"), "R07")], ids=["death", "device"]
)
@pytest.mark.parametrize("is_at_fault", [False, True])
def test_study_that_loses_its_worker_is_tried_once_more_in_a_new_one(
    end: StudyDone | None, code: str, is_at_fault: bool
) -> None:
    workers = [ScriptedWorker() for _ in range(5)]
    first, other, second = workers[:3]
    pool = started(2, "abc", *workers)
    first.script, other.script = [end], [done("b")]
    assert polls(pool) == {"b": DONE}
    assert first.is_ended
    # the other worker goes on with the others; the new one begins with the study
    assert (other.studies, second.studies) == (["b", "c"], ["a"])
    second.script = [end if is_at_fault else done("a")]
    other.script = [done("c")]
    assert polls(pool) == {"a": failed(code) if is_at_fault else DONE, "c": DONE}


def test_study_that_comes_again_has_two_tries_again() -> None:
    first, second, third = (ScriptedWorker() for _ in range(3))
    pool = started(1, "a", first, second, third)
    first.script = [device_error("a")]
    assert polls(pool) == {}
    second.script = [done("a")]
    assert polls(pool) == {"a": DONE}
    pool.submit(*jobs("a"))
    assert polls(pool) == {}
    second.script = [device_error("a")]
    assert polls(pool) == {}
    assert (second.studies, third.studies) == (["a", "a"], ["a"])


def test_idle_worker_makes_room_for_a_new_one() -> None:
    """On a cluster the new worker may find no place otherwise."""
    first, second, third = (ScriptedWorker() for _ in range(3))
    pool = started(2, "ab", first, second, third)
    first.script, second.script = [None], [done("b")]
    assert polls(pool, 4) == {"b": DONE}
    assert (second.is_ended, second.studies, third.studies) == (True, ["b"], ["a"])


def test_worker_that_cannot_be_replaced_leaves_its_study_to_the_others(
    clock: list[float],
) -> None:
    first, second = ScriptedWorker(), ScriptedWorker()
    pool = started(2, "abcd", first, second, *[None] * 99)
    first.script = [device_error("a")]
    ended = {}
    for _ in range(4):
        second.script = [done(second.studies[-1])]
        ended |= polls(pool)
        clock[0] += 100.0
    assert ended == dict.fromkeys("abcd", DONE)


def test_replacement_that_cannot_start_is_tried_again(clock: list[float]) -> None:
    first, last, later = (ScriptedWorker() for _ in range(3))
    broken = ScriptedWorker([StartFailed("MemoryError")])
    pool = started(1, "abc", first, None, broken, last, None, None, later)
    first.script = [None]
    start = clock[0]
    assert polls(pool, 60) == {}
    assert last.studies == ["a"]
    assert 15.0 <= clock[0] - start < 17.0  # pauses of 5 s and 10 s
    # one that has started makes good for those that have not
    last.script = [None]
    assert polls(pool, 60) == {"a": failed("R04")}
    assert later.studies == ["b"]


def test_batch_gives_up_after_three_starts_but_at_once_at_first() -> None:
    first, never = ScriptedWorker(), ScriptedWorker()
    pool = started(1, "ab", first, None, ScriptedWorker([None]), None, never)
    first.script = [None]
    with pytest.raises(SpiderError, match=r"R02 .* start \(BlockingIOError\)"):
        polls(pool, 100)
    backend = ScriptedBackend(ScriptedWorker([StartFailed("OSError")]), never)
    pool = WorkerPool(backend, 1, LIMIT)
    pool.submit(*jobs("a"))
    with pytest.raises(SpiderError, match=r"R02 .* start \(OSError\)"):
        pool.poll()
    assert backend.coming == [never]


def test_worker_that_takes_too_long_to_start_ends_the_batch(clock: list[float]) -> None:
    pool = started(1, "a", ScriptedWorker([]))
    clock[0] += 599.0
    assert pool.poll() == []
    clock[0] += 2.0
    with pytest.raises(SpiderError, match="R02 late"):
        pool.poll()


def test_worker_that_starts_while_nobody_looks_is_not_late(clock: list[float]) -> None:
    """The only other one is lost with the last study, and the next comes much later."""
    first, slow = ScriptedWorker(), ScriptedWorker([])
    pool = started(2, "ab", first, slow)
    first.script = [done("a")]
    assert polls(pool) == {"a": DONE}
    clock[0] += 2 * LIMIT
    assert polls(pool, 1) == {"b": failed("R05")}
    clock[0] += 2 * 600.0
    slow.script = [Ready()]
    pool.submit(*jobs("c"))
    assert polls(pool) == {}
    assert slow.studies == ["c"]


def test_starts_that_fail_together_count_as_one() -> None:
    """As when a GPU is gone for a moment and all workers die of it."""
    old = [ScriptedWorker() for _ in range(4)]
    failing, late = [ScriptedWorker([None]) for _ in range(4)], [ScriptedWorker() for _ in range(4)]
    pool = started(4, "abcdefghijkl", *old, *failing, *late)
    for worker in old:
        worker.script = [None]
    assert polls(pool, 60) == {}
    assert sorted(key for worker in late for key in worker.studies) == list("abcd")


def test_study_given_to_a_worker_that_had_died_is_not_at_fault() -> None:
    idle, other = ScriptedWorker(), ScriptedWorker()
    pool = started(1, "a", idle, other)
    idle.script = [done("a")]
    assert polls(pool, 1) == {"a": DONE}
    idle.script = [None]  # nobody looks at a worker that has nothing to do
    pool.submit(*jobs("b"))
    assert polls(pool, 3) == {}
    assert other.studies == ["b"]


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_worker_that_hangs_while_it_reads_does_not_stop_the_runner(tmp_path: Path) -> None:
    """The films of the studies that wait for it are more than the pipe holds."""
    (tmp_path / "behaviour.json").write_text(json.dumps({"a": "stall"}))
    settings = WorkerSettings(config={"output_dir": str(tmp_path / "out")}, pipeline=StandIn)
    (tmp_path / "out").mkdir()
    pool = WorkerPool(LocalBackend(settings), 1, 1.0)
    films = tuple(Path(f"/spool/0123456789abcdef/{number:032x}.dcm") for number in range(4000))
    for job in jobs("abc", films):
        pool.submit(job)
    ended: list[StudyDone] = []

    def run() -> None:
        while not ended:
            ended.extend(pool.poll())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    pool.close()  # also if it is stuck
    assert [each.study_key for each in ended] == ["a"]
    assert [facts["code"] for facts in ended[0].findings] == ["R05"]


HOLD = """
import sys
from pathlib import Path
from spider_bundle.batch.pool import LocalBackend, WorkerPool
from spider_bundle.batch.job import Job
from spider_bundle.batch.worker import WorkerSettings
from tests.batch.pipelines import StandIn

class Film:
    # stands for the pair, too: the study's only file is this script
    path = Path(__file__)

    @property
    def sides(self):
        return self, self

    @property
    def film(self):
        return self


if __name__ == "__main__":
    settings = WorkerSettings(config={"output_dir": sys.argv[1]}, pipeline=StandIn)
    pool = WorkerPool(LocalBackend(settings), 1, 600.0)
    pool.submit(Job("a", Film(), {}, None, "inputs", ()))
    while True:
        pool.poll()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a signal when the parent dies")
def test_worker_in_c_code_does_not_outlive_a_killed_runner(
    tmp_path: Path, bundle_root: Path
) -> None:
    """It could write into the results of the next run; no thread of it can run meanwhile."""
    (tmp_path / "behaviour.json").write_text(json.dumps({"a": "hold"}))
    script = tmp_path / "hold.py"
    script.write_text(HOLD)
    environment = {**os.environ, "PYTHONPATH": str(bundle_root)}
    command = [sys.executable, str(script), str(tmp_path / "out")]
    runner = subprocess.Popen(command, env=environment)
    try:
        assert wait_for(lambda: bool(list(tmp_path.glob("held-*"))), 60)
        time.sleep(0.5)  # until it is in C code
    finally:
        runner.kill()
        runner.wait()
    worker = int(next(tmp_path.glob("held-*")).name.partition("-")[2])
    try:
        assert wait_for(lambda: not is_alive(worker), 5)
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def is_alive(process: int) -> bool:
    """Whether a process runs; nobody may have asked yet how it ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
