"""Run functions in a child process, so that a crash caused by an untrusted file ends only that."""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from spider_bundle.errors import Code, SpiderError
from spider_bundle.logs import debug, is_debugging

_START_SECONDS = 600.0
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that a process gets when the thread that started it ends."""
MEMORY = 2 << 30
"""Address space that calls may take beyond what the child has after its imports, bytes."""


class CallError(Exception):
    """A call came to no answer; the message says why and quotes nothing of the data."""


class DeathError(CallError):
    """The process died."""


class SlowError(CallError):
    """The process took too long."""


class CallStopped(Exception):  # noqa: N818 - it is no failure
    """A call was stopped on request."""


class Child:
    """A spawned process that answers calls one by one. It ends with the thread that started it.

    Args:
        prepare: Called first in the process; returns the function that answers the calls.
        arguments: Its arguments; they are pickled.

    Raises:
        CallError: There can be no further process now.
    """

    def __init__(self, prepare: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, prepare, arguments))
        with theirs:
            try:
                process.start()
            except (OSError, MemoryError) as error:
                raise CallError(f"no further process ({type(error).__name__})") from None
        # nobody may wait for a forgotten one at exit: it does not hear that it should end
        self._end = weakref.finalize(self, _kill, process)

    def start(self, seconds: float | None = None, stop: Callable[[], bool] | None = None) -> None:
        """Return when the process is prepared; arguments and errors are those of :meth:`call`.

        Raises:
            SpiderError: Raised by the preparation.
        """
        self._answer(seconds, stop)

    def call(
        self, *arguments: Any, seconds: float | None = None, stop: Callable[[], bool] | None = None
    ) -> Any:
        """Return the answer to a call.

        Args:
            arguments: Arguments of the answering function; they are pickled.
            seconds: Time limit.
            stop: Returns whether not to wait any longer.

        Raises:
            BrokenPipeError: The process was dead before.
            DeathError: It died of it.
            SlowError: It took too long.
            CallError: The function failed; the message gives the kind of error.
            CallStopped: `stop` returned true before there was an answer.
            OSError: Raised by the function.
        """
        self._connection.send(arguments)
        return self._answer(seconds, stop)

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._end()

    def _answer(self, seconds: float | None, stop: Callable[[], bool] | None) -> Any:
        end = None if seconds is None else time.monotonic() + seconds
        while not self._connection.poll(_POLL_SECONDS):
            if stop is not None and stop():
                raise CallStopped
            if end is not None and time.monotonic() >= end:
                raise SlowError(f"it took longer than {seconds:g} s")
        try:
            answer, error = self._connection.recv()
        except (EOFError, OSError):
            raise DeathError("the process died of it") from None
        if error is not None:
            raise error
        return answer


class Sandbox:
    """A child process that runs functions one by one, each within a time limit.

    It starts with the first call. One that hangs or dies is replaced at the next call. It ends with
    the thread that made the first call, unless it is closed before.

    Args:
        modules: What to import before the first call, whose time it would take.
        memory: Bytes of address space that the calls may take (Linux).
    """

    def __init__(self, modules: Sequence[str] = (), memory: int = MEMORY) -> None:
        self._preparation = tuple(modules), memory
        self._child: Child | None = None

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float,
        stop: Callable[[], bool] | None = None,
    ) -> Any:
        """Return the answer of a function of a module; it and its arguments are pickled.

        The other arguments and errors are those of :meth:`Child.call`.

        Raises:
            SpiderError: R02, the process cannot start.
        """
        if stop is not None and stop():
            raise CallStopped
        try:
            if self._child is None:
                self._child = self._started(stop)
            return self._child.call(function, *arguments, seconds=seconds, stop=stop)
        except BrokenPipeError:
            self.close()
            raise DeathError("the process died of it") from None
        except (DeathError, SlowError, CallStopped):
            self.close()
            raise

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _started(self, stop: Callable[[], bool] | None) -> Child:
        child = Child(_prepare, *self._preparation)
        try:
            child.start(_START_SECONDS, stop)
        except (CallError, CallStopped):
            child.kill()
            if stop is not None and stop():  # the signal reached the process before its isolation
                raise CallStopped from None
            message = "the process that reads headers could not start"
            raise SpiderError(Code.RUN_FAILED, message) from None
        return child


def _prepare(modules: Sequence[str], memory: int) -> Callable[..., Any]:
    for module in modules:
        importlib.import_module(module)
    limit_memory(memory)
    return lambda function, *arguments: function(*arguments)


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def _serve(
    connection: Connection, prepare: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]
) -> None:
    """Prepare, then answer calls until the connection ends; the target of the process."""
    # the service manager signals all processes of a batch; the runner alone decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    silence_process()
    _die_with_the_parent()
    function, error = _attempt(prepare, arguments, SpiderError)
    connection.send((None, error))
    while error is None:
        try:
            call = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(function, call, OSError))


def _attempt(
    function: Callable[..., Any], arguments: tuple[Any, ...], passed: type[Exception]
) -> tuple[Any, Exception | None]:
    """Return the function's answer, or the error: itself if it is of this type, else its kind."""
    try:
        return function(*arguments), None
    except passed as error:
        return None, error
    except Exception as error:
        debug(error)
        return None, CallError(f"it failed unexpectedly ({type(error).__name__})")


def limit_memory(extra: int) -> None:
    """Bound the address space of the calling process to what it has and more (Linux).

    Args:
        extra: Bytes more.
    """
    with suppress(ImportError, OSError):
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + extra
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY or limit < most:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def silence_process() -> None:
    """Keep what libraries print, which may quote attributes and paths, out of the log."""
    warnings.simplefilter("ignore")
    if is_debugging():
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def _die_with_the_parent() -> None:
    """Let the system (Linux) end this process with its parent, whatever it does then.

    The next run must find no other at work, and no thread of this process could end it while C code
    holds the interpreter.
    """
    parent = multiprocessing.parent_process()
    with suppress(OSError, AttributeError):
        unused = [ctypes.c_ulong(0)] * 3
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *unused)
    if parent is not None and os.getppid() != parent.pid:  # it died before it could be asked for
        os._exit(1)
