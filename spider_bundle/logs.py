"""Keep what libraries print, which may quote attributes and paths, out of logs."""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_silent = ContextVar("is_silent", default=False)


def is_debugging() -> bool:
    """Return whether ``SPIDER_DEBUG`` is set: tracebacks are shown, which may name files."""
    return bool(os.environ.get("SPIDER_DEBUG"))


def debug(error: BaseException) -> None:
    """Print the traceback of an error if ``SPIDER_DEBUG`` is set."""
    if is_debugging():
        traceback.print_exception(error)


@contextmanager
def silenced(name: str, level: int = logging.CRITICAL + 1) -> Iterator[None]:
    """Drop the records of a logger and of those below it.

    Args:
        name: Name of the logger.
        level: Lowest level that is not dropped; by default all records are.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def silent_pydicom() -> Iterator[None]:
    """Drop pydicom's log records and all warnings: they quote values of attributes.

    Within another one it costs nothing.
    """
    if _is_silent.get():
        yield
        return
    before = _is_silent.set(True)
    logger = logging.getLogger("pydicom")

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)  # unlike a level, right for threads whose calls overlap
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeFilter(drop)
        _is_silent.reset(before)
