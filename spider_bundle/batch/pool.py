"""A pool of workers, each with one study at a time.

A worker that dies, hangs or reports a broken device has exactly one study, which is therefore the
one to blame. A death or a device error may also be the doing of the machine, so the study is tried
once more in a new worker; the second time it has failed (R04, R07). A study that exceeds the time
limit has failed at once (R05).
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Any, Protocol

from spider_bundle.batch.job import Job
from spider_bundle.batch.records import State
from spider_bundle.batch.worker import (
    Message,
    Ready,
    StartFailed,
    StudyDone,
    WorkerSettings,
    serve,
)
from spider_bundle.errors import Code, SpiderError, finding

_POLL_SECONDS = 0.5
_STARTS = 3
"""Maximum number of failed starts in succession while there is no other worker."""
_PAUSE_SECONDS = 5.0
"""Time between the first failed start and the next; it doubles with each."""
_DOUBLINGS = 6

_log = logging.getLogger(__name__)


class WorkerStartError(Exception):
    """A worker cannot start now; the message gives the kind of error."""


class Worker(Protocol):
    """A worker process, local or remote."""

    def submit(self, job: Job) -> None:
        """Send a study to an idle worker; never blocks."""

    def receive(self) -> Message | None:
        """Return the next message, or None if there is none yet.

        Raises:
            EOFError: The worker is dead.
            SpiderError: It can do no study of this batch.
        """

    def kill(self) -> None:
        """End the worker at once."""


class Backend(Protocol):
    """Starts workers.

    Attributes:
        start_seconds: Time in which the first worker must be ready.
        late: What is raised if none is.
    """

    start_seconds: float
    late: SpiderError

    def start_worker(self) -> Worker:
        """Start another worker.

        Raises:
            WorkerStartError: It cannot start now.
            SpiderError: No worker can start.
        """

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Wait until a worker has a message, for a limited time."""

    def close(self) -> None:
        """Release what the backend holds; all workers have ended."""


class LocalWorker:
    """A worker process on this machine; it ends with the thread that started it.

    Args:
        settings: Settings of the worker.

    Raises:
        OSError: There can be no further process now.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, settings), daemon=True)
        with theirs:
            self._process.start()

    def submit(self, job: Job) -> None:
        """Send a study; the worker is idle, so it takes it out of the pipe at once."""
        with suppress(OSError):  # it has died, which `receive` reports
            self.connection.send(job)

    def receive(self) -> Message | None:
        """Return the next message, or None; see :class:`Worker`."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except OSError:
            raise EOFError from None

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()
        self.connection.close()


class LocalBackend:
    """Worker processes on this machine.

    Args:
        settings: Settings of every worker.
    """

    start_seconds = 600.0
    late = SpiderError(Code.RUN_FAILED, "the worker took too long to start")

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    def start_worker(self) -> LocalWorker:
        """Start another worker process; see :class:`Backend`."""
        try:
            return LocalWorker(self._settings)
        except (OSError, MemoryError) as error:
            raise WorkerStartError(type(error).__name__) from None

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Wait until a worker has a message, for a limited time."""
        connections: list[Any] = [w.connection for w in workers if isinstance(w, LocalWorker)]
        connection.wait(connections, timeout=seconds)

    def close(self) -> None:
        """Release nothing."""


@dataclass
class _Slot:
    """A worker and its study.

    Attributes:
        worker: The worker.
        failed_starts: Failed starts in succession before this one.
        is_ready: Whether it has started.
        is_new: Whether it has had no study yet.
        job: Its study, if it has one.
        since: When the study was submitted, monotonic seconds.
    """

    worker: Worker
    failed_starts: int
    is_ready: bool = False
    is_new: bool = True
    job: Job | None = None
    since: float = 0.0


class WorkerPool:
    """Workers and the studies that wait for them.

    Workers start when there are studies for them. If the first start fails, the batch cannot run;
    a later one is tried again after a pause, and given up after three failures in succession if
    there is no other worker.

    Args:
        backend: Starts the workers.
        size: Maximum number of workers.
        time_limit: Maximum time of a study, seconds.
    """

    def __init__(self, backend: Backend, size: int, time_limit: float) -> None:
        self._backend = backend
        self._size = size
        self._time_limit = time_limit
        self._slots: list[_Slot] = []
        self._waiting: deque[Job] = deque()
        self._retries: set[str] = set()
        self._has_started = False
        self._starting_since = time.monotonic()
        self._failed_starts = 0
        self._next_start = 0.0

    @property
    def waiting(self) -> int:
        """Number of studies that wait for a worker."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of studies that workers have."""
        return sum(slot.job is not None for slot in self._slots)

    def submit(self, job: Job) -> None:
        """Let a study wait for a worker."""
        self._waiting.append(job)

    def drop_waiting(self) -> int:
        """Forget the studies that wait for a worker; return their number."""
        count = len(self._waiting)
        self._waiting.clear()
        return count

    def poll(self) -> list[StudyDone]:
        """Assign studies to workers, wait a moment, and return the studies that have ended.

        Raises:
            SpiderError: R02, no worker can start; or an error of the backend.
        """
        self._start_workers()
        self._assign()
        if self._slots:
            self._backend.wait([slot.worker for slot in self._slots], _POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS)
        done: list[StudyDone] = []
        for slot in list(self._slots):
            try:
                message = slot.worker.receive()
            except EOFError:
                done += self._on_death(slot)
            else:
                done += self._on_message(slot, message)
        is_starting = bool(self._slots) and not self._is_any_ready()
        starting_for = time.monotonic() - self._starting_since
        if is_starting and not done and starting_for > self._backend.start_seconds:
            raise self._backend.late
        return done

    def close(self) -> None:
        """End all workers at once."""
        for slot in list(self._slots):
            self._remove(slot)
        self._backend.close()

    def _start_workers(self) -> None:
        wanted = min(self._size, self.waiting + self.running)
        if not self._slots or self._is_any_ready():
            self._starting_since = time.monotonic()
        while len(self._slots) < wanted and time.monotonic() >= self._next_start:
            try:
                self._slots.append(_Slot(self._backend.start_worker(), self._failed_starts))
            except WorkerStartError as error:
                self._on_start_failure(self._failed_starts, str(error))

    def _assign(self) -> None:
        """Give each idle worker a study; one that is tried again needs a new worker."""
        idle = [slot for slot in self._slots if slot.is_ready and slot.job is None]
        for slot in sorted(idle, key=lambda slot: not slot.is_new):
            # where no worker can start, any other must do
            takes_all = slot.is_new or self._failed_starts > 0
            for job in self._waiting:
                if takes_all or job.study_key not in self._retries:
                    self._waiting.remove(job)
                    slot.job, slot.since, slot.is_new = job, time.monotonic(), False
                    slot.worker.submit(replace(job, files=()))
                    break
            else:
                if self._waiting:  # make room for a new worker
                    self._remove(slot)

    def _on_message(self, slot: _Slot, message: Message | None) -> list[StudyDone]:
        if isinstance(message, Ready):
            slot.is_ready = self._has_started = True
            self._failed_starts = 0
            for other in self._slots:
                other.failed_starts = 0
        elif isinstance(message, StartFailed):
            self._remove(slot)
            if message.error is not None:
                raise message.error
            self._on_start_failure(slot.failed_starts, message.reason)
        elif isinstance(message, StudyDone):
            if message.device_error:
                return self._retry(slot, message)
            slot.job = None
            self._retries.discard(message.study_key)
            return [message]
        elif slot.job is not None and time.monotonic() - slot.since > self._time_limit:
            self._retries.add(slot.job.study_key)  # there is no second try
            return self._retry(slot, self._failure(slot, slot.job, Code.TIME_LIMIT_EXCEEDED))
        return []

    def _on_death(self, slot: _Slot) -> list[StudyDone]:
        if not slot.is_ready:
            self._remove(slot)
            self._on_start_failure(slot.failed_starts, "it died")
        elif slot.job is None:
            self._remove(slot)
        else:
            return self._retry(slot, self._failure(slot, slot.job, Code.WORKER_DIED))
        return []

    def _retry(self, slot: _Slot, failure: StudyDone) -> list[StudyDone]:
        """End the worker of a failed study; return the failure if it was the second one."""
        job = slot.job
        self._remove(slot)
        if job is None or job.study_key in self._retries:
            self._retries.discard(failure.study_key)
            return [failure]
        _log.warning("study %s: its worker was lost; tried once more", job.study_key)
        self._retries.add(job.study_key)
        self._waiting.appendleft(job)
        return []

    def _failure(self, slot: _Slot, job: Job, code: Code) -> StudyDone:
        seconds = {"total": time.monotonic() - slot.since}
        facts = finding(code, "batch").facts()
        return StudyDone(job.study_key, State.FAILED, [facts], seconds)

    def _on_start_failure(self, before: int, reason: str) -> None:
        """Pause before the next start; starts at the same time that fail count as one.

        Raises:
            SpiderError: R02, there is no use in trying again.
        """
        self._failed_starts = max(self._failed_starts, before + 1)
        is_alone = not self._is_any_ready()
        if not self._has_started or (is_alone and self._failed_starts >= _STARTS):
            raise SpiderError(Code.RUN_FAILED, f"the worker could not start ({reason})")
        pause = _PAUSE_SECONDS * 2 ** min(self._failed_starts - 1, _DOUBLINGS)
        self._next_start = time.monotonic() + pause
        _log.warning("a worker could not start (%s); tried again in %g s", reason, pause)

    def _is_any_ready(self) -> bool:
        return any(slot.is_ready for slot in self._slots)

    def _remove(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        slot.worker.kill()
