"""How a batch that cannot start or go on ends: with one line and an exit status, no traceback."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spider_bundle.batch.options import BatchOptions, weights_file
from spider_bundle.bundle import bundle_root
from spider_bundle.errors import CODES, Code, SpiderError, line, root_cause
from spider_bundle.exit_status import EXIT_FAILED, EXIT_STATUS
from spider_bundle.files import reason
from spider_bundle.logs import debug


@dataclass(frozen=True)
class EarlyEnd:
    """How a batch ended that could not start or continue.

    Attributes:
        message: For the operator; it names no file.
        exit_code: 1 a failure, 2 wrong use, 4 another batch is working there.
    """

    message: str
    exit_code: int = EXIT_FAILED


def early_end(
    error: Exception, options: BatchOptions | None = None, subject: str = "the batch"
) -> EarlyEnd:
    """Return how an error ends a batch; with ``SPIDER_DEBUG``, show where it was raised.

    Args:
        error: What :func:`~spider_bundle.batch.runner.run_batch` raised.
        options: Those of the batch, to tell which named file cannot be read.
        subject: What ended.
    """
    if isinstance(error, SpiderError):
        return EarlyEnd(str(error), EXIT_STATUS.get(error.code, EXIT_FAILED))
    debug(error)
    if isinstance(error, OSError):
        unreadable = None
        with suppress(Exception):  # the error must be shown, whatever else is broken
            unreadable = _unreadable(options) if options else None
        if unreadable is None and error.strerror is None:  # no bundle: a message of our own
            unreadable = line(Code.RUN_FAILED, str(error), action="give --bundle-root")
        if unreadable:
            return EarlyEnd(unreadable)
        message = f"{subject} could not continue ({reason(error)})"
        action = f"{CODES[Code.WRITE_FAILED].action}; what is done stays"
        return EarlyEnd(line(Code.WRITE_FAILED, message, action=action))
    # its text may quote a path or an attribute: name its kind only
    message = f"{subject} failed unexpectedly ({type(root_cause(error)).__name__})"
    action = (
        "run again with SPIDER_DEBUG=1 to see where; the details may name files. What is done stays"
    )
    return EarlyEnd(line(Code.RUN_FAILED, message, action=action))


def _unreadable(options: BatchOptions) -> str | None:
    """Return what to tell if bundle, weights or a config cannot be read."""
    try:
        bundle_root(options.bundle_root)
    except OSError:
        message = "there is no bundle (configs/inference.json)"
        return line(Code.RUN_FAILED, message, action="name its folder with --bundle-root")
    if why := _cannot_read(weights_file(options)):
        message = f"there are no weights that can be read ({why})"
        action = "name their file with --weights, or a bundle that has them with --bundle-root"
        return line(Code.RUN_FAILED, message, action=action)
    for path in options.config_files:
        if why := _cannot_read(path):
            message = f"a config on top of inference.json cannot be read ({why})"
            return line(Code.RUN_FAILED, message, action="correct --config-file")
    return None


def _cannot_read(path: Any) -> str | None:
    """Return why a file cannot be read, None if it can."""
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return reason(error)
