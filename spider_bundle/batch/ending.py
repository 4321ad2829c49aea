"""How a batch that cannot start or go on ends: with one line and an exit code, not a traceback.

The command and ``configs/batch.json`` end alike.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spider_bundle.batch.cluster import ClusterOptions
from spider_bundle.batch.codes import BatchCode, BatchError
from spider_bundle.batch.options import BatchOptions, weights_file
from spider_bundle.batch.runner import EXIT_FAILED, EXIT_UNFINISHED, Outcome, run_batch
from spider_bundle.batch.sandbox import debug
from spider_bundle.bundle import bundle_root
from spider_bundle.outputs.optional_dependencies import MissingExtraError

EXIT_USAGE = 2

_EXIT_CODES = {
    BatchCode.K01: EXIT_USAGE,
    BatchCode.S01: EXIT_USAGE,
    BatchCode.R08: EXIT_UNFINISHED,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EarlyEnd:
    """How a batch ended that could not start or go on.

    Attributes:
        message: For the operator; it names no file.
        exit_code: 1 a failure, 2 wrong use, 4 another batch is working there.
    """

    message: str
    exit_code: int = EXIT_FAILED


def early_end(error: Exception, options: BatchOptions | None = None) -> EarlyEnd:
    """Tell an error that ended a batch; with ``SPIDER_DEBUG``, also show where it was raised.

    Args:
        error: What :func:`~spider_bundle.batch.runner.run_batch` raised.
        options: Those of the batch, to tell which of the named files cannot be read.
    """
    if isinstance(error, BatchError):
        return EarlyEnd(str(error), _EXIT_CODES.get(error.code, EXIT_FAILED))
    if isinstance(error, MissingExtraError):
        return EarlyEnd(str(error), EXIT_USAGE)
    debug(error)
    if isinstance(error, OSError):
        unreadable = None
        with suppress(Exception):  # what is to be told is the error, whatever else is broken
            unreadable = _unreadable(options) if options else None
        if unreadable:
            return EarlyEnd(unreadable)
        return EarlyEnd(
            f"R01 the batch could not go on ({_reason(error)}). To do: see to the space and the "
            "rights of the output folder and run again; what is done stays."
        )
    # the text of an unexpected error may quote a path or an attribute: name its kind only
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return EarlyEnd(
        f"R02 the batch failed unexpectedly ({type(cause).__name__}). To do: run again with "
        "SPIDER_DEBUG=1 to see where; the details may name files. What is done stays."
    )


def options_or_exit(cluster: str | None = None, **values: Any) -> BatchOptions:
    """Options of ``configs/batch.json``, checked; bad ones are logged and end the process.

    Args:
        cluster: ``HOST:PORT`` of a Ray cluster; this machine if empty.
        values: The other fields of :class:`~spider_bundle.batch.options.BatchOptions`.

    Raises:
        SystemExit: 2, they are not valid.
    """
    with _exit():
        try:
            return BatchOptions(**values, cluster=ClusterOptions(cluster) if cluster else None)
        except (TypeError, ValueError) as error:
            _log.error("%s", error)
            raise SystemExit(EXIT_USAGE) from None


def run_or_exit(options: BatchOptions) -> Outcome:
    """Run a batch for ``configs/batch.json``; what ends it early is logged and ends the process.

    Args:
        options: What to do.

    Returns:
        How it ended, also with refusals and failures of studies.

    Raises:
        SystemExit: The batch could not start or go on; the codes are those of :class:`EarlyEnd`.
    """
    with _exit(options):
        return run_batch(options)


@contextmanager
def _exit(options: BatchOptions | None = None) -> Iterator[None]:
    """Log what ends a batch early, and end the process.

    MONAI would wrap any other exception and show a traceback.
    """
    try:
        yield
    except Exception as error:
        end = early_end(error, options)
        _log.error("%s", end.message)
        raise SystemExit(end.exit_code) from None


def _unreadable(options: BatchOptions) -> str | None:
    """What the operator is told if bundle, weights or a config cannot be read."""
    try:
        bundle_root(options.bundle_root)
    except OSError:
        return (
            "R02 there is no bundle (configs/inference.json). To do: name its folder with "
            "--bundle-root (bundle_root in a config)."
        )
    if reason := _cannot_read(weights_file(options)):
        return (
            f"R02 there are no weights that can be read ({reason}). To do: name their file with "
            "--weights, or a bundle that has them with --bundle-root (bundle_root in a config)."
        )
    for path in options.config_files:
        if reason := _cannot_read(path):
            return (
                f"R02 a config on top of inference.json cannot be read ({reason}). To do: correct "
                "--config-file (config_files in a config)."
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
