"""What a study is charged for, whatever the runner does meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from spider_bundle.batch.crew import Crew, Message, Worker
from spider_bundle.batch.job import Job
from spider_bundle.batch.manifest import State
from spider_bundle.batch.worker import Ended, Ready, Stage

LIMIT = 10.0


class ScriptedWorker:
    """Says what the test has put into ``script``."""

    def __init__(self) -> None:
        self.script: list[Message] = [Ready()]

    def hand(self, job: Job) -> None:
        """Nothing; the test speaks for the study."""

    def messages(self) -> Iterator[Message]:
        while self.script:
            yield self.script.pop(0)

    def kill(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to end."""


class ScriptedPlace:
    losses = 0

    def __init__(self, worker: ScriptedWorker) -> None:
        self._worker = worker

    def recruit(self) -> ScriptedWorker:
        return self._worker

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """The test's clock stands."""

    def check_start(self, seconds: float) -> None:
        """All is well."""

    def close(self) -> None:
        """Nothing to leave."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("spider_bundle.batch.crew.time.monotonic", lambda: now[0])
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
