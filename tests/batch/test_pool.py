"""Each death, hang and device error belongs to one study, whatever the other workers do."""

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
from spider_bundle.batch.pool import WorkerPool
from spider_bundle.batch.records import State
from spider_bundle.batch.sandbox import CallError, DeathError, SlowError
from spider_bundle.batch.worker import StudyDone
from spider_bundle.errors import Code, SpiderError, finding

DONE = (State.DONE, [])
PAUSE = 0.05
PAIR: Any = None
"""No worker of these tests looks at films."""


def failed(code: str) -> tuple[State, list[str]]:
    return State.FAILED, [code]


def device_error(key: str) -> StudyDone:
    facts = [finding(Code.STUDY_FAILED, "batch").facts()]
    return StudyDone(key, State.FAILED, facts, {}, device_error=True)


class Engine:
    """Makes scripted workers.

    Args:
        behaviour: What each try of a study brings: ``death``, ``device``, ``hang``, ``wait`` (until
            the test sets ``released``), ``wait death``, ``node`` (R09); done after that.
        starts: What each start brings: ``fail`` (to load), ``death``, ``none`` (no process),
            ``no place`` (none ever); a good one after that.
    """

    def __init__(self, starts: Sequence[str] = (), **behaviour: Sequence[str]) -> None:
        self.starts = list(starts)
        self.behaviour = {key: list(tries) for key, tries in behaviour.items()}
        self.workers: list[Scripted] = []
        self.released = threading.Event()
        self.lock = threading.Lock()

    def new_worker(self) -> Scripted:
        with self.lock:
            start = self.starts.pop(0) if self.starts else "good"
            if start == "none":
                raise CallError("no further process (BlockingIOError)")
            self.workers.append(Scripted(self, start))
            return self.workers[-1]

    @property
    def studies(self) -> list[str]:
        """Studies that each worker had."""
        return [worker.studies for worker in self.workers]


class Scripted:
    """A worker of an :class:`Engine`."""

    def __init__(self, engine: Engine, how: str) -> None:
        self.engine, self.how = engine, how
        self.studies = ""
        self.is_ended = self.has_died = False

    def start(self) -> None:
        if self.how == "fail":
            raise CallError("it failed unexpectedly (MemoryError)")
        if self.how == "death":
            time.sleep(0.02)  # all that start together have begun by then
            raise DeathError("it died")
        while self.how == "no place" and not self.is_ended:
            time.sleep(0.01)
        if self.is_ended:
            raise DeathError("it was ended")

    def call(self, job: Job, *, seconds: float) -> StudyDone:
        key = job.study_key
        if self.has_died:
            raise BrokenPipeError
        assert not self.is_ended
        self.studies += key
        tries = self.engine.behaviour.get(key)
        how = tries.pop(0) if tries else "good"
        if how.startswith("wait"):
            self._wait()
            how = how.removeprefix("wait ")
        if how == "death":
            raise DeathError("it died")
        if how == "hang":
            raise SlowError("it took longer")
        if how == "node":
            raise SpiderError(Code.NODE_LACKS_FOLDERS)
        return device_error(key) if how == "device" else StudyDone(key, State.DONE, [], {})

    def kill(self) -> None:
        self.is_ended = True

    def _wait(self) -> None:
        while not self.engine.released.wait(0.01):
            if self.is_ended:
                raise DeathError("it was ended")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spider_bundle.batch.pool._PAUSE_SECONDS", PAUSE)
    monkeypatch.setattr("spider_bundle.batch.pool._POLL_SECONDS", 0.02)


def submitted(pool: WorkerPool, keys: str) -> WorkerPool:
    for key in keys:
        pool.submit(Job(key, PAIR, {}, None, "inputs", ()))
    return pool


def ended(pool: WorkerPool, number: int, seconds: float = 10.0) -> dict[str, Any]:
    """States and codes of the next studies that end."""
    found: dict[str, Any] = {}
    end = time.monotonic() + seconds
    while len(found) < number:
        assert time.monotonic() < end, found
        if done := pool.poll():
            assert done.study_key not in found
            found[done.study_key] = done.state, [str(facts["code"]) for facts in done.findings]
    return found


def polled(pool: WorkerPool, condition: Callable[[], bool]) -> bool:
    """Poll until something has happened."""
    return wait_for(lambda: pool.poll() is None and condition())


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_worker_has_one_study_at_a_time() -> None:
    engine = Engine(a=["wait"], b=["wait"])
    pool = submitted(WorkerPool(engine.new_worker, 2, 1.0), "abcd")
    assert wait_for(lambda: len(engine.workers) == 2)
    assert pool.running == 0  # no study starts before the runner looks
    assert polled(pool, lambda: sorted(engine.studies) == ["a", "b"])
    assert (pool.waiting, pool.running) == (2, 2)
    assert pool.drop_waiting() == 2
    engine.released.set()
    assert ended(pool, 2) == {"a": DONE, "b": DONE}
    assert (pool.waiting, pool.running) == (0, 0)
    pool.close()
    assert all(worker.is_ended for worker in engine.workers)


def test_workers_start_for_studies_and_stay_for_more() -> None:
    engine = Engine()
    pool = WorkerPool(engine.new_worker, 4, 1.0)
    for key in "ab":
        assert ended(submitted(pool, key), 1) == {key: DONE}
    assert engine.studies == ["ab"]
    submitted(pool, "cd")
    assert ended(pool, 1) == {"c": DONE}
    time.sleep(0.05)  # the runner deals with the end of c, and may find the disk full
    assert (pool.running, pool.drop_waiting()) == (0, 1)
    pool.close()


@pytest.mark.parametrize(
    ("tries", "end", "others"),
    [
        (["death"], DONE, ["b"]),
        (["device"], DONE, ["b"]),
        (["death", "device"], failed("R07"), ["a", "b"]),
        (["device", "death"], failed("R04"), ["a", "b"]),
        (["hang"], failed("R05"), ["b"]),
        (["death", "hang"], failed("R05"), ["a", "b"]),
    ],
)
def test_study_that_loses_its_worker_is_tried_once_more_in_a_new_one_unless_it_hangs(
    tries: list[str], end: Any, others: list[str]
) -> None:
    engine = Engine(a=tries)
    pool = submitted(WorkerPool(engine.new_worker, 1, 1.0), "ab")
    assert ended(pool, 2) == {"a": end, "b": DONE}
    retried = [] if tries[0] == "hang" else ["ab" if len(tries) == 1 else "a"]
    assert engine.studies == ["a", *retried, *(["b"] if len(tries) == 2 or not retried else [])]
    assert [worker.is_ended for worker in engine.workers[:-1]] == [True] * len(engine.workers[:-1])
    # one that comes again has two tries again
    engine.behaviour["a"] = ["death"]
    assert ended(submitted(pool, "a"), 1) == {"a": DONE}
    pool.close()


def test_idle_worker_makes_room_for_a_new_one() -> None:
    """On a cluster the worker that is to try again may find no place otherwise."""
    engine = Engine(a=["wait death"], b=["wait"])
    pool = submitted(WorkerPool(engine.new_worker, 2, 1.0), "ab")
    assert polled(pool, lambda: sorted(engine.studies) == ["a", "b"])
    engine.starts = ["no place", "good"]
    engine.released.set()
    assert ended(pool, 2) == {"a": DONE, "b": DONE}
    assert engine.studies[2:] == ["", "a"]
    pool.close()


def test_worker_that_cannot_be_replaced_leaves_its_study_to_the_others() -> None:
    engine = Engine(a=["wait death"], b=["wait"])
    pool = submitted(WorkerPool(engine.new_worker, 2, 1.0), "abcd")
    assert polled(pool, lambda: sorted(engine.studies) == ["a", "b"])
    engine.starts = ["fail"] * 99
    engine.released.set()
    assert ended(pool, 4) == dict.fromkeys("abcd", DONE)
    pool.close()


def test_start_that_fails_is_tried_again_after_longer_and_longer_pauses() -> None:
    engine = Engine(["good", "none", "fail", "good", "death"], a=["death"], b=["death"])
    pool = submitted(WorkerPool(engine.new_worker, 1, 1.0), "a")
    begin = time.monotonic()
    assert ended(pool, 1) == {"a": DONE}
    assert time.monotonic() - begin > 3 * PAUSE
    # one that has started makes good for those that have not
    assert ended(submitted(pool, "b"), 1) == {"b": DONE}
    pool.close()


@pytest.mark.parametrize(
    ("starts", "tries", "number"),
    [
        (["fail"], 1, 1),  # the network cannot be loaded: there is no use in trying again
        (["none"], 1, 0),
        (["death", "death", "death"], 1, 3),
        (["good", "none", "death", "fail"], 3, 3),
    ],
)
def test_batch_ends_when_no_worker_can_start(starts: list[str], tries: int, number: int) -> None:
    engine = Engine(starts, a=["death"])
    pool = submitted(WorkerPool(engine.new_worker, 1, 1.0), "a")
    with pytest.raises(SpiderError, match="R02 the worker could not start: "):
        ended(pool, 1)
    assert len(engine.workers) == number
    pool.close()


def test_starts_that_fail_together_count_as_one() -> None:
    """As when a GPU is gone for a moment and all workers die of it."""
    engine = Engine(**{key: ["wait death"] for key in "abcd"})
    pool = submitted(WorkerPool(engine.new_worker, 4, 1.0), "abcd")
    assert polled(pool, lambda: sorted(engine.studies) == list("abcd"))
    engine.starts = ["death"] * 4
    engine.released.set()
    assert ended(pool, 4) == dict.fromkeys("abcd", DONE)
    pool.close()


def test_pool_without_a_ready_worker_is_not_waited_for_without_end() -> None:
    engine = Engine(["good", "no place"], a=["hang"])
    late = SpiderError(Code.CLUSTER_UNAVAILABLE)
    pool = WorkerPool(engine.new_worker, 1, 1.0, start_seconds=0.3, late=late)
    assert ended(submitted(pool, "a"), 1) == {"a": failed("R05")}
    time.sleep(0.5)  # with nothing to do no worker starts
    submitted(pool, "b")
    begin = time.monotonic()
    with pytest.raises(SpiderError, match="R10"):
        ended(pool, 1)
    assert time.monotonic() - begin >= 0.3
    pool.close()


def test_study_given_to_a_worker_that_had_died_keeps_both_tries() -> None:
    engine = Engine(b=["death"])
    pool = WorkerPool(engine.new_worker, 1, 1.0)
    assert ended(submitted(pool, "a"), 1) == {"a": DONE}
    engine.workers[0].has_died = True  # nobody looks at a worker that has nothing to do
    assert ended(submitted(pool, "b"), 1) == {"b": DONE}
    assert engine.studies == ["a", "b", "b"]
    pool.close()


def test_error_of_the_batch_reaches_the_runner() -> None:
    engine = Engine(a=["node"])
    pool = submitted(WorkerPool(engine.new_worker, 1, 1.0), "a")
    with pytest.raises(SpiderError, match="R09"):
        ended(pool, 1)
    pool.close()


def test_closed_pool_tells_no_end_of_what_it_has_cut() -> None:
    engine = Engine(["good", "no place"], a=["wait"], b=["wait"])
    pool = submitted(WorkerPool(engine.new_worker, 2, 1.0), "ab")
    assert polled(pool, lambda: len(engine.workers) == 2 and len("".join(engine.studies)) == 1)
    pool.close()
    assert pool.poll() is None
    assert (len(engine.workers), [worker.is_ended for worker in engine.workers]) == (2, [True] * 2)


HOLD = """
import sys
from functools import partial
from pathlib import Path
from spider_bundle.batch.sandbox import Child
from spider_bundle.batch.pool import WorkerPool
from spider_bundle.batch.job import Job
from spider_bundle.batch.worker import WorkerSettings, load
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
    pool = WorkerPool(partial(Child, load, settings), 1, 600.0)
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
