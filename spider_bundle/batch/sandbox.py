"""Run functions in a child process, so that a crash caused by an untrusted file ends only that."""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from spider_bundle.errors import Code, SpiderError
from spider_bundle.logs import debug, is_debugging

_START_SECONDS = 600.0
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal that a process gets when its parent dies."""
MEMORY = 2 << 30
"""Address space that calls may take beyond what the child has after its imports, bytes."""


class CallError(Exception):
    """A call that came to no answer; the message says why and quotes nothing of the data."""


class CallStopped(Exception):  # noqa: N818 - it is no failure
    """A call was stopped on request."""


class Sandbox:
    """A child process that runs functions one by one, each within a time limit.

    It starts with the first call. One that hangs or dies is replaced at the next call. It ends with
    the thread that made the first call, unless it is closed before.

    Args:
        modules: What to import before the first call, whose time it would take.
        memory: Bytes of address space that the calls may take (Linux).
    """

    def __init__(self, modules: Sequence[str] = (), memory: int = MEMORY) -> None:
        self._modules = tuple(modules)
        self._memory = memory
        self._connection: Any = None
        self._end: Callable[[], None] = lambda: None

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float,
        stop: Callable[[], bool] | None = None,
    ) -> Any:
        """Return the answer of a function.

        Args:
            function: A function of a module; it and its arguments are pickled.
            arguments: Its arguments.
            seconds: Time limit.
            stop: Returns whether not to wait any longer.

        Raises:
            CallStopped: `stop` returned true before there was an answer.
            CallError: It took too long, the process died of it, or it raised another error than:
            OSError: Raised by the function.
            SpiderError: R02, the process cannot start.
        """
        if stop is not None and stop():
            raise CallStopped
        if self._connection is None:
            self._start(stop)
        try:
            self._connection.send((function, arguments))
            if not self._answers(seconds, stop):
                self.close()
                raise CallError(f"it took longer than {seconds:g} s")
            answer, error = self._connection.recv()
        except (EOFError, OSError):
            self.close()
            raise CallError("the process died of it") from None
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """End the process, whatever it does."""
        self._end()
        self._connection = None

    def _answers(self, seconds: float, stop: Callable[[], bool] | None) -> bool:
        """Wait for the process and return whether it has said something in time.

        Raises:
            CallStopped: `stop` returned true before.
        """
        end = time.monotonic() + seconds
        while not self._connection.poll(min(_POLL_SECONDS, max(end - time.monotonic(), 0.0))):
            if stop is not None and stop():
                self.close()
                raise CallStopped
            if time.monotonic() >= end:
                return False
        return True

    def _start(self, stop: Callable[[], bool] | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, self._modules, self._memory)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        # who forgets to close must not wait for it at exit: it does not hear that it should end
        self._end = weakref.finalize(self, _kill, process, self._connection)
        try:
            if self._answers(_START_SECONDS, stop):
                self._connection.recv()
                return
        except (EOFError, OSError):
            pass
        self.close()
        if stop is not None and stop():  # the signal reached the process before it was isolated
            raise CallStopped
        raise SpiderError(Code.RUN_FAILED, "the process that reads headers could not start")


def _kill(process: BaseProcess, connection: Any) -> None:
    process.kill()
    process.join()
    connection.close()


def _serve(connection: Any, modules: Sequence[str], memory: int) -> None:
    """Answer calls until the connection ends; the target of the process."""
    isolate_process()
    for module in modules:
        importlib.import_module(module)
    limit_memory(memory)
    connection.send(None)
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = function(*arguments), None
        except OSError as error:
            answer = None, error
        except Exception as error:
            debug(error)
            answer = None, CallError(f"it failed unexpectedly ({type(error).__name__})")
        connection.send(answer)


def isolate_process() -> None:
    """Make the calling process silent, and let its parent alone end it.

    On Linux it also ends with the thread that started it, which therefore must last as long.
    """
    # the service manager signals all processes of a batch; the runner alone decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    silence_process()
    _die_with_the_parent()


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
    """End at once when the runner is gone, so that the next one finds no other at work."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if _is_killed_with_the_parent():
        if os.getppid() != parent.pid:  # it died before it could be asked for
            os._exit(1)
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _is_killed_with_the_parent() -> bool:
    """Ask the system (Linux) to kill this process with its parent, whatever it does then.

    A thread of this process cannot do that while C code holds the interpreter.
    """
    if sys.platform != "linux":
        return False
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return False
    unused = [ctypes.c_ulong(0)] * 3
    return prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *unused) == 0
