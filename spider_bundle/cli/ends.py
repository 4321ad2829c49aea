"""How commands end: errors are shown without naming a patient's file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from pydantic import ValidationError

from spider_bundle.errors import SpiderError, validation_message
from spider_bundle.exit_status import EXIT_FAILED, EXIT_STATUS, EXIT_USAGE

if TYPE_CHECKING:
    from spider_bundle.batch.options import BatchOptions


_INTERRUPTED = 130
"""What a shell gives a command that SIGINT ended."""


def fail(message: str, exit_code: int = EXIT_FAILED) -> NoReturn:
    """Show a failure on standard error and end.

    Raises:
        typer.Exit: Always.
    """
    typer.echo(message, err=True)
    raise typer.Exit(exit_code) from None


@contextmanager
def shown() -> Iterator[None]:
    """Show errors that the operator can do something about, and end with their exit status.

    Raises:
        typer.BadParameter: A ValueError, or an error whose code tells of bad usage.
        typer.Exit: Another error with a code.
    """
    try:
        yield
    except ValidationError as error:
        raise typer.BadParameter(validation_message(error)) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except SpiderError as error:
        status = EXIT_STATUS.get(error.code, EXIT_FAILED)
        if status == EXIT_USAGE:
            raise typer.BadParameter(str(error)) from None
        fail(str(error), status)


def show_files(keys: Iterable[str], files: Mapping[str, Iterable[Path]]) -> None:
    """Tell on standard error, for who named the folder, which files keys stand for, as named."""
    for key in keys:
        for path in files.get(key, ()):
            typer.echo(f"{key}  {path}", err=True)


@contextmanager
def without_traceback(
    subject: str, options: BatchOptions | None = None, kept: str = "what is complete stays"
) -> Iterator[None]:
    """Tell what ends a command early in one line, and end with its exit code.

    Args:
        subject: What ended.
        options: To tell which of the files that they name cannot be read.
        kept: What is told of an interruption.

    Raises:
        typer.BadParameter: Wrong use.
        typer.Exit: All else.
    """
    try:
        yield
    except (typer.Exit, typer.BadParameter):  # shown already
        raise
    except KeyboardInterrupt:
        fail(f"Interrupted: {kept}.", _INTERRUPTED)
    except Exception as error:
        from spider_bundle.cli.early_end import early_end  # heavy

        end = early_end(error, options, subject)
        if end.exit_code == EXIT_USAGE:
            raise typer.BadParameter(end.message) from None
        fail(end.message, end.exit_code)
