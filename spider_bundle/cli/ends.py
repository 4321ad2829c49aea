"""How commands end: their exit codes, and failures told without naming a patient's file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from spider_bundle.files import reason
from spider_bundle.logs import is_debugging

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3


def fail(message: str, exit_code: int = EXIT_FAILED) -> NoReturn:
    """Tell what failed on standard error and end.

    Raises:
        typer.Exit: Always.
    """
    typer.echo(message, err=True)
    raise typer.Exit(exit_code) from None


@contextmanager
def bad_usage(*others: type[Exception]) -> Iterator[None]:
    """Tell a ValueError, or an error of these kinds, as bad usage; its text is for the operator.

    Raises:
        typer.BadParameter: One of them occurred.
    """
    told: tuple[type[Exception], ...] = (ValueError, *others)
    try:
        yield
    except told as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def written(subject: str, action: str) -> Iterator[None]:
    """Tell a failure of the file system as R01, without its text: that names the path.

    Args:
        subject: What could not be written.
        action: What the operator can do.

    Raises:
        typer.Exit: The file system failed.
    """
    try:
        yield
    except OSError as error:
        if is_debugging():
            raise
        fail(f"R01 {subject} ({reason(error)}). To do: {action}.")
