"""Requests to end a batch: SIGTERM and SIGINT."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAP_SECONDS = 0.2

_log = logging.getLogger(__name__)


class StopRequest:
    """Counts SIGTERM and SIGINT.

    Args:
        at_hand: What is finished after the first, for the log.

    Attributes:
        requests: How often the batch was asked to end.
    """

    def __init__(self, at_hand: str = "studies") -> None:
        self.requests = 0
        self._at_hand = at_hand

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals in the main thread; previous handlers are restored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self._count) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def is_requested(self) -> bool:
        """Return whether the batch was asked to end."""
        return self.requests > 0

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until the batch is asked to end."""
        end = time.monotonic() + seconds
        while not self.requests and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _NAP_SECONDS))

    def _count(self, *_: Any) -> None:
        self.requests += 1
        if self.requests == 1:
            _log.warning("stopping after the %s at hand; once more to stop at once", self._at_hand)
