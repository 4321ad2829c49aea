"""What a study is charged for, whatever the runner does meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from spider_bundle.batch.codes import BatchCode, BatchError, batch_facts
from spider_bundle.batch.crew import Crew, LocalWorkplace, Worker, WorkerStartError
from spider_bundle.batch.job import Job
from spider_bundle.batch.manifest import State
from spider_bundle.batch.worker import (
    Broken,
    Ended,
    Message,
    Ready,
    Spoiled,
    Stage,
    WorkerSettings,
)
from tests.batch.pipelines import StandIn

LIMIT = 10.0


class ScriptedWorker:
    """Says what the test has put into ``script``, and is dead after a None there."""

    def __init__(self, script: Sequence[Message | None] = (Ready(),)) -> None:
        self.script: list[Message | None] = list(script)
        self.handed: list[str] = []
        self.is_killed = False

    def hand(self, job: Job) -> None:
        self.handed.append(job.study_key)

    def messages(self) -> Iterator[Message]:
        while self.script:
            if (message := self.script.pop(0)) is None:
                raise EOFError
            yield message

    def kill(self) -> None:
        self.is_killed = True

    def close(self) -> None:
        """Nothing to end."""


class ScriptedPlace:
    """Has these workers, one after the other; None stands for one that there cannot be now."""

    losses = 0

    def __init__(self, *workers: ScriptedWorker | None) -> None:
        self.coming = list(workers)

    def recruit(self) -> ScriptedWorker:
        worker = self.coming.pop(0)
        if worker is None:
            raise WorkerStartError("BlockingIOError")
        return worker

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """The test's clock stands."""

    def check_start(self, seconds: float) -> None:
        """All is well."""

    def close(self) -> None:
        """Nothing to leave."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("spider_bundle.batch.crew.time.monotonic", lambda: now[0])
    monkeypatch.setattr("spider_bundle.batch.crew.time.sleep", sleep)
    return now


@pytest.fixture
def worker(clock: list[float]) -> ScriptedWorker:
    return ScriptedWorker()


@pytest.fixture
def crew(worker: ScriptedWorker) -> Crew:
    """A crew whose only worker has the study ``key``."""
    made = Crew(ScriptedPlace(worker), workers=1, time_limit=LIMIT)
    made.add([Job("key", Path("a"), Path("b"), {}, None, "inputs", ())])
    for _ in range(2):
        assert made.step() == []
    return made


def test_time_in_which_the_runner_looked_away_is_not_charged(
    crew: Crew, worker: ScriptedWorker, clock: list[float]
) -> None:
    worker.script = [Stage("key")]
    assert crew.step() == []
    clock[0] += 5 * LIMIT  # the runner examines files meanwhile; the stage has ended long ago
    worker.script = [Stage("key", 0.1)]
    assert crew.step() == []
    worker.script = [Ended("key", State.DONE, [], {"read": 0.1})]
    assert [ended.state for ended in crew.step()] == [State.DONE]


def test_stages_add_up_to_the_limit(crew: Crew, worker: ScriptedWorker, clock: list[float]) -> None:
    worker.script = [Stage("key"), Stage("key", 0.6 * LIMIT), Stage("key")]
    assert crew.step() == []
    clock[0] += 0.3 * LIMIT
    assert crew.step() == []
    clock[0] += 0.2 * LIMIT
    (ended,) = crew.step()
    assert ended.state is State.FAILED
    assert [facts["code"] for facts in ended.findings] == ["R05"]
    assert ended.seconds["total"] == pytest.approx(1.1 * LIMIT)


def jobs(keys: str, files: Sequence[Path] = ()) -> list[Job]:
    return [Job(key, Path("a"), Path("b"), {}, None, "inputs", files) for key in keys]


def staffed(workers: int, keys: str, *coming: ScriptedWorker | None) -> Crew:
    """A crew whose first workers have taken their studies."""
    crew = Crew(ScriptedPlace(*coming), workers, LIMIT)
    crew.add(jobs(keys))
    for _ in range(2):
        assert crew.step() == []
    crew.step()
    return crew


def done(key: str) -> Ended:
    return Ended(key, State.DONE, [], {})


def spoiled(key: str) -> Spoiled:
    return Spoiled(Ended(key, State.FAILED, [batch_facts(BatchCode.R07)], {"read": 0.5}))


def step(crew: Crew, steps: int = 3) -> dict[str, tuple[State, list[str]]]:
    """States and codes of the studies that end in a few steps."""
    ended = [each for _ in range(steps) for each in crew.step()]
    assert len({each.study_key for each in ended}) == len(ended)
    return {e.study_key: (e.state, [str(facts["code"]) for facts in e.findings]) for e in ended}


DONE, REFUSED = (State.DONE, []), (State.REFUSED, [])
FAILED = (State.FAILED, ["R07"])


@pytest.mark.parametrize("is_at_fault", [False, True])
def test_error_that_may_spoil_the_worker_counts_when_it_comes_again(
    clock: list[float], is_at_fault: bool
) -> None:
    first, second, third = (ScriptedWorker() for _ in range(3))
    crew = staffed(1, "abcd", first, second, third)
    assert first.handed == ["a", "b", "c"]
    # what ends while the worker is dying counts; nothing more is handed to it
    refused = Ended("c", State.REFUSED, [], {})
    first.script = [spoiled("b"), refused]
    assert step(crew) == {"c": REFUSED}
    first.script = [None]
    assert step(crew) == {}
    assert first.handed == ["a", "b", "c"]
    assert first.is_killed
    assert second.handed == ["b"]
    if is_at_fault:
        second.script = [spoiled("b"), None]
        assert step(crew) == {"b": FAILED}
        other = third
    else:
        second.script = [done("b")]
        assert step(crew) == {"b": DONE}
        other = second
    assert other.handed[-1:] == ["a"]  # alone: it might have been its doing
    other.script = [done("a")]
    assert step(crew) == {"a": DONE}
    assert other.handed[-1:] == ["d"]
    # and what happens to another study later does not make it fail
    other.script = [spoiled("d"), None]
    if not is_at_fault:
        assert step(crew) == {}
        assert third.handed == ["d"]


@pytest.mark.parametrize("others", ["", "c"])
def test_study_with_an_error_waits_for_a_fresh_worker(clock: list[float], others: str) -> None:
    """Also when the other worker is idle, and ends for want of a second study."""
    first, second, third = (ScriptedWorker() for _ in range(3))
    crew = staffed(2, "abcd", first, second, third)
    assert (first.handed, second.handed) == (["a", "b", "c"], ["d"])
    first.script = [done(key) for key in "bc" if key not in others] + [spoiled("a"), None]
    second.script = [done("d")]
    assert set(step(crew, 4)) == set("bcd") - set(others)
    assert third.handed == ["a"]
    assert second.handed == ["d", *others]
    assert second.is_killed != bool(others)


def test_study_that_comes_again_is_given_another_try_again(clock: list[float]) -> None:
    workers = [ScriptedWorker() for _ in range(3)]
    crew = staffed(1, "a", *workers)
    workers[0].script = [spoiled("a"), None]
    assert step(crew) == {}
    workers[1].script = [done("a")]
    assert step(crew) == {"a": DONE}
    crew.add(jobs("a"))
    assert step(crew) == {}
    assert workers[1].handed == ["a", "a"]
    workers[1].script = [spoiled("a"), None]
    assert step(crew) == {}
    assert workers[2].handed == ["a"]


def test_worker_that_cannot_be_replaced_leaves_its_studies_to_the_others(
    clock: list[float],
) -> None:
    first, second = ScriptedWorker(), ScriptedWorker()
    crew = staffed(2, "abcd", first, second, *[None] * 99)
    first.script = [spoiled("a"), None]
    second.script = [done("d")]
    ended = step(crew)
    for _ in range(3):
        clock[0] += 100.0
        second.script = [done(second.handed[-1])]
        ended |= step(crew)
    assert ended == {"a": DONE, "b": DONE, "c": DONE, "d": DONE}


def test_replacement_that_cannot_start_is_tried_again(clock: list[float]) -> None:
    first, last, later = (ScriptedWorker() for _ in range(3))
    broken = ScriptedWorker([Broken("MemoryError")])
    crew = staffed(1, "abc", first, None, broken, last, None, None, later)
    first.script = [None]
    start = clock[0]
    assert step(crew, 60) == {}
    assert last.handed == ["a"]
    assert 15.0 <= clock[0] - start < 17.0  # pauses of 5 s and 10 s
    last.script = [done("a")]
    assert step(crew) == {"a": DONE}
    # one that has started makes good for those that have not
    last.script = [None]
    assert step(crew, 60) == {"b": (State.FAILED, ["R04"])}
    assert later.handed == ["c"]


def test_batch_gives_up_after_three_starts_but_at_once_at_first(clock: list[float]) -> None:
    first, never = ScriptedWorker(), ScriptedWorker()
    crew = staffed(1, "ab", first, None, ScriptedWorker([None]), None, never)
    first.script = [None]
    with pytest.raises(BatchError, match=r"R02 .* start \(BlockingIOError\)"):
        step(crew, 100)
    place = ScriptedPlace(ScriptedWorker([Broken("OSError")]), never)
    crew = Crew(place, 1, LIMIT)
    crew.add(jobs("a"))
    with pytest.raises(BatchError, match=r"R02 .* start \(OSError\)"):
        crew.step()
    assert place.coming == [never]


def test_starts_that_fail_together_count_as_one(clock: list[float]) -> None:
    """As when a GPU is gone for a moment and all workers die of it."""
    old = [ScriptedWorker() for _ in range(4)]
    failing, late = [ScriptedWorker([None]) for _ in range(4)], [ScriptedWorker() for _ in range(4)]
    crew = staffed(4, "abcdefghijkl", *old, *failing, *late)
    for worker in old:
        worker.script = [None]
    assert step(crew, 60) == {}
    assert sum(len(worker.handed) for worker in late) == 4


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
    crew = Crew(LocalWorkplace(settings), 1, 1.0)
    films = tuple(Path(f"/spool/0123456789abcdef/{number:032x}.dcm") for number in range(4000))
    crew.add(jobs("abc", films))
    ended: list[Ended] = []

    def run() -> None:
        while not ended:
            ended.extend(crew.step())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    crew.kill()  # also if it is stuck
    assert [each.study_key for each in ended] == ["a"]
    assert [facts["code"] for facts in ended[0].findings] == ["R05"]


HOLD = """
import sys
from pathlib import Path
from spider_bundle.batch.crew import Crew, LocalWorkplace
from spider_bundle.batch.job import Job
from spider_bundle.batch.worker import WorkerSettings
from tests.batch.pipelines import StandIn

if __name__ == "__main__":
    settings = WorkerSettings(config={"output_dir": sys.argv[1]}, pipeline=StandIn)
    crew = Crew(LocalWorkplace(settings), 1, 600.0)
    crew.add([Job("a", Path(__file__), Path(__file__), {}, None, "inputs", ())])
    while True:
        crew.step()
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


def test_study_given_to_a_worker_that_had_died_is_not_at_fault() -> None:
    idle, other = ScriptedWorker(), ScriptedWorker()
    crew = Crew(ScriptedPlace(idle, other), 1, 10.0)
    crew.add(jobs("a"))
    crew.step()
    crew.step()
    idle.script = [done("a")]
    assert [ended.study_key for ended in crew.step()] == ["a"]
    idle.script = [None]  # nobody looks at a worker that has nothing to do
    crew.add(jobs("b"))
    assert crew.step() == []
    crew.step()
    crew.step()
    assert other.handed == ["b"]
    other.script = [None]  # it has not looked at the study either, but once is enough
    assert [(e.study_key, e.state) for e in crew.step()] == [("b", State.FAILED)]
