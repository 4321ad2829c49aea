"""The runner's side of the worker processes: hand out studies, notice deaths and hangs."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from spider_bundle.batch.codes import BatchCode, BatchError, batch_facts
from spider_bundle.batch.job import Job
from spider_bundle.batch.manifest import State
from spider_bundle.batch.worker import Broken, Ended, Ready, Stage, WorkerSettings, serve

_AHEAD = 3
"""Studies that a worker has at a time: one that is read, one reconstructed and one written."""
_START_SECONDS = 600.0
_END_SECONDS = 10.0
_POLL_SECONDS = 0.5


@dataclass
class _Flight:
    """A study that a worker has.

    Attributes:
        job: The study.
        spent: Seconds in the stages that are over.
        since: When the stage it is in began; None while it waits for one.
    """

    job: Job
    spent: float = 0.0
    since: float | None = None

    def turn(self, is_over: bool, now: float) -> None:
        """Enter or leave a stage."""
        self.spent, self.since = self.seconds(now), None if is_over else now

    def seconds(self, now: float) -> float:
        return self.spent + (0.0 if self.since is None else now - self.since)


class Worker:
    """One worker process.

    Args:
        settings: See :class:`WorkerSettings`.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        self.flights: dict[str, _Flight] = {}
        self.is_ready = False
        self.started = time.monotonic()

    def hand(self, job: Job) -> None:
        """Give the worker another study; whether it still lives shows later."""
        self.flights[job.study_key] = _Flight(job)
        with suppress(OSError):  # its death is noticed by :meth:`messages`
            self.connection.send(job)

    def messages(self) -> Iterator[Ready | Broken | Stage | Ended]:
        """What the worker has said since the last call.

        Raises:
            EOFError: It is dead and has nothing more to say.
        """
        try:
            while self.connection.poll():
                yield self.connection.recv()
        except OSError:
            raise EOFError from None

    def kill(self) -> None:
        """End the process whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def close(self) -> None:
        """Let the process end; it must have no study."""
        with suppress(OSError):
            self.connection.send(None)
        self._process.join(_END_SECONDS)
        self.kill()


class Crew:
    """The workers of a run and the studies that wait for them.

    A worker that dies takes nothing with it but the study that killed it. As it has several
    studies at hand, each of them is taken again alone; one that then dies again is at fault. A
    study over its time is at fault itself, and the others at hand are taken again as if nothing had
    been.

    Args:
        settings: For every worker.
        workers: Most processes at a time.
        time_limit: Seconds that a study may spend in its stages.
    """

    def __init__(self, settings: WorkerSettings, workers: int, time_limit: float) -> None:
        self._settings = settings
        self._most = workers
        self._time_limit = time_limit
        self._workers: list[Worker] = []
        self._waiting: deque[Job] = deque()
        self._alone: set[str] = set()

    @property
    def waiting(self) -> int:
        """Number of studies that no worker has."""
        return len(self._waiting)

    @property
    def at_hand(self) -> int:
        """Number of studies that workers have."""
        return sum(len(worker.flights) for worker in self._workers)

    def add(self, jobs: Sequence[Job]) -> None:
        """Let studies wait for a worker."""
        self._waiting.extend(jobs)

    def drop_waiting(self) -> int:
        """Forget the studies that no worker has; returns their number."""
        count = len(self._waiting)
        self._waiting.clear()
        return count

    def step(self) -> list[Ended]:
        """Hand out studies, wait a moment, and return those that have ended.

        Raises:
            BatchError: R02, a worker cannot start.
        """
        self._hand_out()
        connections: list[Any] = [worker.connection for worker in self._workers]
        if connections:
            wait(connections, timeout=_POLL_SECONDS)
        ended: list[Ended] = []
        for worker in list(self._workers):
            try:
                for message in worker.messages():
                    self._take(worker, message, ended)
            except EOFError:
                self._bury(worker, ended)
            else:
                self._check_time(worker, ended)
        return ended

    def close(self) -> None:
        """Let all workers end; they must have no study."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _hand_out(self) -> None:
        while len(self._workers) < min(self._most, self.waiting + self.at_hand):
            self._workers.append(Worker(self._settings))
        for worker in sorted(self._workers, key=lambda w: len(w.flights)):
            while self._waiting and worker.is_ready and self._has_room(worker):
                worker.hand(self._waiting.popleft())

    def _has_room(self, worker: Worker) -> bool:
        if self._waiting[0].study_key in self._alone:
            return not worker.flights
        return len(worker.flights) < _AHEAD and not self._alone & set(worker.flights)

    def _take(
        self, worker: Worker, message: Ready | Broken | Stage | Ended, ended: list[Ended]
    ) -> None:
        if isinstance(message, Ready):
            worker.is_ready = True
        elif isinstance(message, Broken):
            raise BatchError(BatchCode.R02, f"the worker could not start ({message.reason})")
        elif isinstance(message, Stage):
            worker.flights[message.study_key].turn(message.is_over, time.monotonic())
        else:
            self._land(worker, message, ended)

    def _land(self, worker: Worker, message: Ended, ended: list[Ended]) -> None:
        worker.flights.pop(message.study_key)
        self._alone.discard(message.study_key)
        ended.append(message)

    def _bury(self, worker: Worker, ended: list[Ended]) -> None:
        """Deal with a death: one study at hand is at fault, several are taken again alone."""
        if not worker.is_ready:
            worker.kill()
            self._workers.remove(worker)
            raise BatchError(BatchCode.R02, "the worker died while it started")
        flights = list(worker.flights.values())
        if len(flights) == 1:
            self._fail(worker, flights[0], BatchCode.R04, ended)
        else:
            self._alone |= set(worker.flights)
        self._dismiss(worker)

    def _check_time(self, worker: Worker, ended: list[Ended]) -> None:
        now = time.monotonic()
        if not worker.is_ready and now - worker.started > _START_SECONDS:
            raise BatchError(BatchCode.R02, "the worker took too long to start")
        late = [f for f in worker.flights.values() if f.seconds(now) > self._time_limit]
        if late:
            for flight in late:
                self._fail(worker, flight, BatchCode.R05, ended)
            self._dismiss(worker)

    def _fail(self, worker: Worker, flight: _Flight, code: BatchCode, ended: list[Ended]) -> None:
        seconds = {"total": flight.seconds(time.monotonic())}
        key = flight.job.study_key
        self._land(worker, Ended(key, State.FAILED, [batch_facts(code)], seconds), ended)

    def _dismiss(self, worker: Worker) -> None:
        """End a worker and take up again what it still had."""
        self._waiting.extendleft(f.job for f in reversed(list(worker.flights.values())))
        worker.flights.clear()
        worker.kill()
        self._workers.remove(worker)
