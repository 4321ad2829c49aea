"""How a batch that cannot start or go on ends: with one line and an exit code, no traceback."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spider_bundle.batch.options import BatchOptions, weights_file
from spider_bundle.batch.outcome import EXIT_FAILED, EXIT_UNFINISHED
from spider_bundle.bundle import bundle_root
from spider_bundle.errors import Code, SpiderError
from spider_bundle.logs import debug

EXIT_USAGE = 2

_EXIT_CODES = {
    Code.INVALID_KEY_FILE: EXIT_USAGE,
    Code.INVALID_PROFILE: EXIT_USAGE,
    Code.MISSING_PACKAGE: EXIT_USAGE,
    Code.OUTPUT_IN_USE: EXIT_UNFINISHED,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExitStatus:
    """How a batch ended that could not start or go on.

    Attributes:
        message: For the operator; it names no file.
        exit_code: 1 a failure, 2 wrong use, 4 another batch is working there.
    """

    message: str
    exit_code: int = EXIT_FAILED


def exit_status_of(error: Exception, options: BatchOptions | None = None) -> ExitStatus:
    """Tell an error that ended a batch; with ``SPIDER_DEBUG``, also show where it was raised.

    Args:
        error: What :func:`~spider_bundle.batch.runner.run_batch` raised.
        options: Those of the batch, to tell which of the named files cannot be read.
    """
    if isinstance(error, SpiderError):
        return ExitStatus(str(error), _EXIT_CODES.get(error.code, EXIT_FAILED))
    debug(error)
    if isinstance(error, OSError):
        unreadable = None
        with suppress(Exception):  # what is to be told is the error, whatever else is broken
            unreadable = _unreadable(options) if options else None
        if unreadable:
            return ExitStatus(unreadable)
        return ExitStatus(
            f"R01 the batch could not go on ({_reason(error)}). To do: check free space and "
            "permissions of the output folder and run again; what is done stays."
        )
    # the text of an unexpected error may quote a path or an attribute: name its kind only
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return ExitStatus(
        f"R02 the batch failed unexpectedly ({type(cause).__name__}). To do: run again with "
        "SPIDER_DEBUG=1 to see where; the details may name files. What is done stays."
    )


def _unreadable(options: BatchOptions) -> str | None:
    """What the operator is told if bundle, weights or a config cannot be read."""
    try:
        bundle_root(options.bundle_root)
    except OSError:
        return (
            "R02 there is no bundle (configs/inference.json). To do: name its folder with "
            "--bundle-root."
        )
    if reason := _cannot_read(weights_file(options)):
        return (
            f"R02 there are no weights that can be read ({reason}). To do: name their file with "
            "--weights, or a bundle that has them with --bundle-root."
        )
    for path in options.config_files:
        if reason := _cannot_read(path):
            return (
                f"R02 a config on top of inference.json cannot be read ({reason}). To do: correct "
                "--config-file."
            )
    return None


def _cannot_read(path: Any) -> str | None:
    """Why a file cannot be read, if so."""
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return _reason(error)


def _reason(error: OSError) -> str:
    """Why, without the path."""
    return error.strerror or type(error).__name__
