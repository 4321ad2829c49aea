"""The runner's side of the workers: hand out studies, notice deaths and hangs."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any, Protocol

from spider_bundle.batch.codes import BatchCode, BatchError, batch_facts
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
    serve,
)

_AHEAD = 3
"""Studies that a worker has at a time: one that is read, one reconstructed and one written."""
_START_SECONDS = 600.0
_END_SECONDS = 10.0
_POLL_SECONDS = 0.5
_STARTS = 3
"""How often in a row no worker may be able to start while there is none."""
_PAUSE_SECONDS = 5.0
"""Time between the first of such starts and the second; doubles with each, but not forever."""
_DOUBLINGS = 6

_log = logging.getLogger(__name__)


class WorkerLostError(Exception):
    """The place where a worker was is gone, which no study need be at fault for."""


class WorkerStartError(Exception):
    """A worker cannot start; the message says why and names nothing."""


class Worker(Protocol):
    """Who does studies; told apart by nothing but where it is."""

    def hand(self, job: Job) -> None:
        """Give the worker another study; whether it still lives shows later."""

    def messages(self) -> Iterator[Message]:
        """What the worker has said since the last call.

        Raises:
            EOFError: It is dead and has nothing more to say.
            WorkerLostError: It is gone with its machine.
            BatchError: It can do no study of this batch.
        """

    def kill(self) -> None:
        """End the worker whatever it does."""

    def close(self) -> None:
        """Let the worker end; it must have no study."""


class Workplace(Protocol):
    """Where workers are.

    Attributes:
        losses: How often a study that a worker has alone may be lost with it and taken again.
    """

    losses: int

    def recruit(self) -> Worker:
        """Start another worker.

        Raises:
            WorkerStartError: It cannot start now.
            BatchError: There cannot be any.
        """

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Wait until a worker has said something, but not longer."""

    def check_start(self, seconds: float) -> None:
        """Judge for how long workers have been starting and none has been ready.

        Raises:
            BatchError: It is too long.
        """

    def close(self) -> None:
        """Leave; there are no workers any more."""


@dataclass
class _Flight:
    """A study that a worker has.

    Attributes:
        job: The study.
        spent: Seconds in the stages that are over.
        since: When the stage it is in began; None while it waits for one.
        has_begun: Whether the worker has looked at it.
    """

    job: Job
    spent: float = 0.0
    since: float | None = None
    has_begun: bool = False

    def turn(self, seconds: float | None, now: float) -> None:
        """Enter a stage (None), or leave one that took so many seconds."""
        self.has_begun = True
        self.spent += seconds or 0.0
        self.since = now if seconds is None else None

    def seconds(self, now: float) -> float:
        return self.spent + (0.0 if self.since is None else now - self.since)


class LocalWorker:
    """A worker process on this machine.

    The thread that starts it must last as long, see :func:`spider_bundle.batch.child.isolate`.

    Args:
        settings: See :class:`WorkerSettings`.

    Raises:
        OSError: There cannot be another process now.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, settings), daemon=True)
        with theirs:
            self._process.start()

    def hand(self, job: Job) -> None:
        """Give the worker another study; whether it still lives shows later."""
        # sending must not wait for a worker that hangs, so all of it must fit into the pipe
        job = replace(job, files=())
        with suppress(OSError):  # its death is noticed by :meth:`messages`
            self.connection.send(job)

    def messages(self) -> Iterator[Message]:
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


class LocalWorkplace:
    """This machine.

    Args:
        settings: For every worker.
    """

    losses = 0

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def recruit(self) -> LocalWorker:
        """Start another worker process.

        Raises:
            WorkerStartError: There cannot be another process now.
        """
        try:
            return LocalWorker(self._settings)
        except (OSError, MemoryError) as error:
            raise WorkerStartError(type(error).__name__) from None

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Wait until a worker has said something, but not longer."""
        connections: list[Any] = [w.connection for w in workers if isinstance(w, LocalWorker)]
        wait(connections, timeout=seconds)

    def check_start(self, seconds: float) -> None:
        """Judge for how long workers have been starting and none has been ready.

        Raises:
            BatchError: R02, too long.
        """
        if seconds > _START_SECONDS:
            raise BatchError(BatchCode.R02, "the worker took too long to start")

    def close(self) -> None:
        """Leave."""


@dataclass
class _Post:
    """A worker and what it has to do.

    Attributes:
        worker: Who.
        failed_starts: How many starts in a row had failed when it was recruited.
        flights: The studies that it has, by key.
        is_ready: Whether it has started.
        is_fresh: Whether it has had no study yet.
        is_spoiled: Whether it ends because of what a study did to it.
    """

    worker: Worker
    failed_starts: int
    flights: dict[str, _Flight] = field(default_factory=dict)
    is_ready: bool = False
    is_fresh: bool = True
    is_spoiled: bool = False


class Crew:
    """The workers of a run and the studies that wait for them.

    A worker that dies takes nothing with it but the study that killed it. As it has several
    studies at hand, each of them is taken again alone; one that then dies again is at fault. A
    study over its time is at fault itself, and the others at hand are taken again as if nothing had
    been. A worker that is lost with its machine is replaced likewise, but a study that it had alone
    is taken again a few times before it counts as at fault. A worker that ends itself because an
    error may have spoiled it is replaced as well; the study that had the error is taken again
    alone, in a worker that has had no other if one can start, and fails if the error comes again.

    When all is well at first and no worker can start later, that is tried again after a pause. A
    batch without a worker gives up after three such starts in a row.

    Args:
        place: Where the workers are.
        workers: Most workers at a time.
        time_limit: Seconds that a study may spend in its stages.
    """

    def __init__(self, place: Workplace, workers: int, time_limit: float) -> None:
        self._place = place
        self._most = workers
        self._time_limit = time_limit
        self._posts: list[_Post] = []
        self._waiting: deque[Job] = deque()
        self._alone: set[str] = set()
        self._suspects: set[str] = set()
        self._losses: Counter[str] = Counter()
        self._start = time.monotonic()
        self._has_begun = False
        self._failed_starts = 0
        self._next_start = 0.0

    @property
    def waiting(self) -> int:
        """Number of studies that no worker has."""
        return len(self._waiting)

    @property
    def at_hand(self) -> int:
        """Number of studies that workers have."""
        return sum(len(post.flights) for post in self._posts)

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
            BatchError: R02, a worker cannot start; or what the workplace raises.
        """
        self._hand_out()
        if self._posts:
            self._place.wait([post.worker for post in self._posts], _POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS)
        ended: list[Ended] = []
        for post in list(self._posts):
            try:
                for message in post.worker.messages():
                    self._take(post, message, ended)
            except EOFError:
                self._bury(post, ended)
            except WorkerStartError as error:
                self._miss(post, str(error))
            except WorkerLostError:
                self._lose(post, ended)
            else:
                self._check_time(post, ended)
        if self._posts and not self._is_anyone_ready():
            self._place.check_start(time.monotonic() - self._start)
        return ended

    def close(self) -> None:
        """Let all workers end; they must have no study."""
        for post in self._posts:
            post.worker.close()
        self._posts.clear()
        self._place.close()

    def kill(self) -> None:
        """End all workers at once."""
        for post in self._posts:
            post.worker.kill()
        self._posts.clear()
        self._place.close()

    def _hand_out(self) -> None:
        if not self._posts or self._is_anyone_ready():
            self._start = time.monotonic()
        self._recruit()
        for post in sorted(self._posts, key=lambda p: len(p.flights)):
            while self._waiting and post.is_ready and self._has_room(post):
                job = self._waiting.popleft()
                post.flights[job.study_key] = _Flight(job)
                post.is_fresh = False
                post.worker.hand(job)

    def _recruit(self) -> None:
        """Have as many workers as are of use; an idle one may make place for a fresh one."""
        wanted = min(self._most, self.waiting + self.at_hand)
        if len(self._posts) >= wanted and self._needs_fresh():
            for post in [p for p in self._posts if not p.flights][:1]:
                self._dismiss(post)
        while len(self._posts) < wanted and time.monotonic() >= self._next_start:
            try:
                self._posts.append(_Post(self._place.recruit(), self._failed_starts))
            except WorkerStartError as error:
                self._count_failed_start(self._failed_starts, str(error))

    def _needs_fresh(self) -> bool:
        """Whether the next study wants a fresh worker, there is none, and there can be one."""
        is_suspect = bool(self._waiting) and self._waiting[0].study_key in self._suspects
        has_fresh = any(post.is_fresh for post in self._posts)
        return is_suspect and not has_fresh and not self._failed_starts

    def _has_room(self, post: _Post) -> bool:
        if post.is_spoiled:
            return False
        if self._waiting[0].study_key in self._suspects and not self._failed_starts:
            return post.is_fresh
        if self._waiting[0].study_key in self._alone:
            return not post.flights
        return len(post.flights) < _AHEAD and not self._alone & set(post.flights)

    def _take(self, post: _Post, message: Message, ended: list[Ended]) -> None:
        if isinstance(message, Ready):
            post.is_ready = self._has_begun = True
            self._failed_starts = 0
            for other in self._posts:
                other.failed_starts = 0
        elif isinstance(message, Broken):
            raise WorkerStartError(message.reason)
        elif isinstance(message, Stage):
            post.flights[message.study_key].turn(message.seconds, time.monotonic())
        elif isinstance(message, Spoiled):
            self._doubt(post, message.ended, ended)
        else:
            self._land(post, message, ended)

    def _doubt(self, post: _Post, failure: Ended, ended: list[Ended]) -> None:
        """Take a study again, unless the same has happened to it before; the worker is dying."""
        post.is_spoiled = True
        if failure.study_key in self._suspects:
            self._land(post, failure, ended)
        else:
            self._suspects.add(failure.study_key)
            _log.warning("a worker ended itself after an error; its studies are taken again")

    def _land(self, post: _Post, message: Ended, ended: list[Ended]) -> None:
        post.flights.pop(message.study_key)
        self._alone.discard(message.study_key)
        self._suspects.discard(message.study_key)
        ended.append(message)

    def _bury(self, post: _Post, ended: list[Ended]) -> None:
        """Deal with a death: one study at hand is at fault, several are taken again alone."""
        if not post.is_ready:
            self._miss(post, "it died")
            return
        flights = list(post.flights.values())
        # a worker may have died before it looked at the one study that it was given
        is_at_fault = [f for f in flights if f.has_begun or f.job.study_key in self._alone]
        if len(flights) == 1 and is_at_fault and not post.is_spoiled:
            self._fail(post, flights[0], BatchCode.R04, ended)
        else:
            self._alone |= set(post.flights)
        self._dismiss(post)

    def _miss(self, post: _Post, reason: str) -> None:
        """Deal with a worker that could not start.

        Raises:
            BatchError: R02, there is no use in trying again.
        """
        self._dismiss(post)
        self._count_failed_start(post.failed_starts, reason)

    def _count_failed_start(self, before: int, reason: str) -> None:
        """Let another start wait; those of workers that were recruited together count as one."""
        self._failed_starts = max(self._failed_starts, before + 1)
        is_enough = self._failed_starts >= _STARTS and not self._is_anyone_ready()
        if is_enough or not self._has_begun:
            raise BatchError(BatchCode.R02, f"the worker could not start ({reason})")
        pause = _PAUSE_SECONDS * 2 ** min(self._failed_starts - 1, _DOUBLINGS)
        self._next_start = time.monotonic() + pause
        _log.warning("a worker could not start (%s); tried again in %g s", reason, pause)

    def _lose(self, post: _Post, ended: list[Ended]) -> None:
        """Deal with a loss: as with a death, but a study alone is not at fault at once."""
        if post.flights:
            _log.warning("a worker was lost; %d studies are taken again", len(post.flights))
        if len(post.flights) == 1:
            (flight,) = post.flights.values()
            key = flight.job.study_key
            self._losses[key] += 1
            if self._losses[key] > self._place.losses:
                self._fail(post, flight, BatchCode.R04, ended)
        self._alone |= set(post.flights)
        self._dismiss(post)

    def _check_time(self, post: _Post, ended: list[Ended]) -> None:
        now = time.monotonic()
        late = [f for f in post.flights.values() if f.seconds(now) > self._time_limit]
        if late:
            for flight in late:
                self._fail(post, flight, BatchCode.R05, ended)
            self._dismiss(post)

    def _is_anyone_ready(self) -> bool:
        return any(post.is_ready for post in self._posts)

    def _fail(self, post: _Post, flight: _Flight, code: BatchCode, ended: list[Ended]) -> None:
        seconds = {"total": flight.seconds(time.monotonic())}
        key = flight.job.study_key
        self._land(post, Ended(key, State.FAILED, [batch_facts(code)], seconds), ended)

    def _dismiss(self, post: _Post) -> None:
        """End a worker and take up again what it still had."""
        jobs = [flight.job for flight in post.flights.values()]
        # the one that needs the fresh worker comes first
        jobs.sort(key=lambda job: job.study_key not in self._suspects)
        self._waiting.extendleft(reversed(jobs))
        post.flights.clear()
        post.worker.kill()
        self._posts.remove(post)
