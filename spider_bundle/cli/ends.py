"""How commands end: exit statuses, and errors shown without naming a patient's file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from pydantic import ValidationError

from spider_bundle.errors import Code, line, validation_message
from spider_bundle.files import reason
from spider_bundle.logs import is_debugging

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3


def fail(message: str, exit_code: int = EXIT_FAILED) -> NoReturn:
    """Show a failure on standard error and end.

    Raises:
        typer.Exit: Always.
    """
    typer.echo(message, err=True)
    raise typer.Exit(exit_code) from None


@contextmanager
def bad_usage(*others: type[Exception]) -> Iterator[None]:
    """Show a ValueError, or an error of these kinds, as bad usage.

    Raises:
        typer.BadParameter: One of them occurred.
    """
    kinds: tuple[type[Exception], ...] = (ValueError, *others)
    try:
        yield
    except ValidationError as error:
        raise typer.BadParameter(validation_message(error)) from None
    except kinds as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def written(subject: str, action: str) -> Iterator[None]:
    """Show an error of the file system as R01, without its text, which names the path.

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
        fail(line(Code.WRITE_FAILED, f"{subject} ({reason(error)})", action=action))
