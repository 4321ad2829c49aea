"""A pool of workers, each with one study at a time and a thread that waits for it.

A worker that dies, hangs or reports a broken device has exactly one study, which is therefore the
one to blame. A death or a device error may also be the doing of the machine, so the study is tried
once more in a new worker; the second time it has failed (R04, R07). A study that exceeds the time
limit has failed at once (R05).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from spider_bundle.batch.job import Job
from spider_bundle.batch.records import State
from spider_bundle.batch.sandbox import CallError, DeathError, SlowError
from spider_bundle.batch.worker import StudyDone
from spider_bundle.errors import Code, SpiderError, finding

_POLL_SECONDS = 0.5
_CLOSE_SECONDS = 10.0
_STARTS = 3
"""Maximum number of failed starts in succession while there is no other worker."""
_PAUSE_SECONDS = 5.0
"""Time between the first failed start and the next; it doubles with each."""
_DOUBLINGS = 6

_log = logging.getLogger(__name__)


class Worker(Protocol):
    """A worker process, local or remote."""

    def start(self) -> None:
        """Return when the network is loaded.

        Raises:
            CallError: It cannot be loaded.
            DeathError: The worker died.
            SpiderError: No worker can start, or do a study of this batch.
        """

    def call(self, job: Job, *, seconds: float) -> StudyDone:
        """Return how a study ended.

        Raises:
            BrokenPipeError: The worker was dead before.
            DeathError: It died.
            SlowError: It took longer than so many seconds.
            SpiderError: No worker can do a study of this batch.
        """

    def kill(self) -> None:
        """End the worker at once; called from any thread, and also twice."""


@dataclass
class _Study:
    """A study that waits, and whether it has lost a worker already."""

    job: Job
    is_retry: bool = False


class WorkerPool:
    """Workers and the studies that wait for them.

    Workers start when there are studies for them. A start that fails is tried again after a pause;
    the batch cannot go on if the network could never be loaded, or if three starts in succession
    have failed and there is no other worker.

    Args:
        new_worker: Makes a worker; raises CallError if there can be none now.
        size: Maximum number of workers.
        time_limit: Maximum time of a study, seconds.
        start_seconds: Maximum time without any worker ready, seconds.
        late: What is raised after that.
    """

    def __init__(
        self,
        new_worker: Callable[[], Worker],
        size: int,
        time_limit: float,
        start_seconds: float = 600.0,
        late: SpiderError | None = None,
    ) -> None:
        self._new_worker = new_worker
        self._size = size
        self._time_limit = time_limit
        self._start_seconds = start_seconds
        self._late = late or SpiderError(Code.RUN_FAILED, "the worker took too long to start")
        self._ended: queue.SimpleQueue[StudyDone | BaseException] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()  # all below changes under its lock only
        self._waiting: deque[_Study] = deque()
        self._running = 0
        self._is_open = False
        self._is_ready: dict[Worker, bool] = {}
        self._last_loss = 0.0
        self._has_started = False
        self._failed_starts = 0
        self._next_start = 0.0
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """Number of studies that wait for a worker."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of studies that workers have, or whose end :meth:`poll` has yet to return."""
        return self._running

    def submit(self, job: Job) -> None:
        """Let a study wait for a worker."""
        with self._changed:
            self._waiting.append(_Study(job))
            if len(self._threads) < min(self._size, self.waiting + self.running):
                # Ray may never return from connecting: a daemon thread can be left behind
                self._threads.append(threading.Thread(target=self._work, daemon=True))
                self._threads[-1].start()
            self._changed.notify_all()

    def drop_waiting(self) -> int:
        """Forget the studies that wait for a worker; return their number."""
        with self._changed:
            count = self.waiting
            self._waiting.clear()
            return count

    def poll(self) -> StudyDone | None:
        """Wait a moment, and return how a study has ended, if one has.

        Studies are handed to workers meanwhile only, not while the caller deals with an end.

        Raises:
            SpiderError: R02, no worker can start; or an error of the worker.
        """
        with self._changed:
            self._is_open = self._ended.empty()
            self._changed.notify_all()
        try:
            ended = self._ended.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            with self._changed:
                is_starting = self._is_ready and not any(self._is_ready.values())
                if is_starting and time.monotonic() - self._last_loss > self._start_seconds:
                    raise self._late from None
            return None
        if isinstance(ended, BaseException):
            raise ended
        with self._changed:
            self._running -= 1
        return ended

    def close(self) -> None:
        """End all workers at once."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            for worker in self._is_ready:
                worker.kill()
        for thread in self._threads:
            thread.join(_CLOSE_SECONDS)

    # ---- what each thread does

    def _work(self) -> None:
        """Make workers, one after the other, and let them do studies until the pool is closed."""
        try:
            while (failed_starts := self._wait_for_work()) is not None:
                try:
                    self._use(self._new_worker())
                except CallError as error:
                    if not self._is_closed:
                        self._on_start_failure(failed_starts, error)
        except BaseException as error:  # raised where the runner waits
            self._ended.put(error)

    def _wait_for_work(self) -> int | None:
        """Wait until a worker is to start.

        Returns:
            Number of failed starts in succession before it, or None if the pool is closed.
        """
        with self._changed:
            while not self._is_closed:
                pause = self._next_start - time.monotonic()
                if self._waiting and pause <= 0:
                    return self._failed_starts
                self._changed.wait(pause if self._waiting else None)
        return None

    def _use(self, worker: Worker) -> None:
        """Let a new worker do studies until it is lost, or must make room for another new one.

        Raises:
            CallError: It did not start.
        """
        try:
            with self._changed:
                if self._is_closed:
                    return
                if not self._is_ready:
                    self._last_loss = time.monotonic()
                self._is_ready[worker] = False
            worker.start()
            with self._changed:
                self._is_ready[worker] = self._has_started = True
                self._failed_starts = 0
            is_new = True
            while (study := self._next(is_new)) and self._do(study, worker, is_new):
                is_new = False
        finally:
            with self._changed:
                self._is_ready.pop(worker, None)
                self._last_loss = time.monotonic()
                worker.kill()

    def _next(self, is_new: bool) -> _Study | None:
        """Wait for a study; return None if the worker is to end.

        A study that is tried again needs a new worker, for which an idle one makes room; where no
        worker can start, any other must do.
        """
        with self._changed:
            while not self._is_closed:
                for study in self._waiting if self._is_open else ():
                    if is_new or not study.is_retry or self._failed_starts:
                        self._waiting.remove(study)
                        self._running += 1
                        return study
                if self._waiting and self._is_open:
                    break
                self._changed.wait()
        return None

    def _do(self, study: _Study, worker: Worker, is_new: bool) -> bool:
        """Let a worker do a study; return whether the worker can do another."""
        start = time.monotonic()
        code = None
        try:
            done = worker.call(replace(study.job, files=()), seconds=self._time_limit)
        except SlowError:
            code = Code.TIME_LIMIT_EXCEEDED
        except DeathError:
            code = Code.WORKER_DIED
        except BrokenPipeError:
            code = Code.WORKER_DIED
            if not is_new:  # it died before, with nothing to do
                self._return(study)
                return False
        if code is not None:
            seconds = {"total": time.monotonic() - start}
            facts = [finding(code, "batch").facts()]
            done = StudyDone(study.job.study_key, State.FAILED, facts, seconds, device_error=True)
        if self._is_closed:
            return False
        if done.device_error and not study.is_retry and code is not Code.TIME_LIMIT_EXCEEDED:
            _log.warning("study %s: its worker was lost; tried once more", done.study_key)
            self._return(_Study(study.job, is_retry=True))
        else:
            with self._changed:
                self._is_open = False
                self._ended.put(done)
        return not done.device_error

    def _return(self, study: _Study) -> None:
        with self._changed:
            self._waiting.appendleft(study)
            self._running -= 1
            self._changed.notify_all()

    def _on_start_failure(self, before: int, error: CallError) -> None:
        """Let the next start wait; starts at the same time that fail count as one.

        Args:
            before: Failed starts in succession before this one.
            error: Why it failed.

        Raises:
            SpiderError: R02, there is no use in trying again.
        """
        with self._changed:
            self._failed_starts = max(self._failed_starts, before + 1)
            is_alone = not any(self._is_ready.values())
            can_load = self._has_started or isinstance(error, DeathError)
            if not can_load or (is_alone and self._failed_starts >= _STARTS):
                raise SpiderError(Code.RUN_FAILED, f"the worker could not start: {error}")
            pause = _PAUSE_SECONDS * 2 ** min(self._failed_starts - 1, _DOUBLINGS)
            self._next_start = time.monotonic() + pause
            self._changed.notify_all()  # others may take its study
        _log.warning("a worker could not start: %s; tried again in %g s", error, pause)
