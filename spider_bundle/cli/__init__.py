"""Command line of the bundle: one module a command, what they share beside them.

Exit codes: 0 all done, 1 a study failed unexpectedly, 2 bad usage, 3 a study was refused.
"""

from __future__ import annotations

import logging
import warnings
from typing import Annotated

import typer

from spider_bundle import __version__
from spider_bundle.cli.batch import batch
from spider_bundle.cli.demo import demo
from spider_bundle.cli.evaluate import evaluate
from spider_bundle.cli.export import export
from spider_bundle.cli.infer import infer
from spider_bundle.cli.key import key
from spider_bundle.cli.listen import listen
from spider_bundle.cli.options import GroupedCommand
from spider_bundle.cli.prepare import prepare
from spider_bundle.cli.send import send
from spider_bundle.cli.train import train
from spider_bundle.cli.validate import compare, validate
from spider_bundle.exit_status import EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE

__all__ = ["EXIT_FAILED", "EXIT_REFUSED", "EXIT_USAGE", "app"]

app = typer.Typer(
    help="Head CT and labels from two radiographs. Research use only, never for diagnosis.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"spider {__version__}")
        raise typer.Exit


@app.callback()
def main(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Log warnings and errors only.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log time and origin of each line.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Head CT and labels from two radiographs. Research use only, never for diagnosis."""
    where = "%(asctime)s %(name)s " if verbose else ""
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format=where + "%(levelname)s: %(message)s")
    # ignite logs failures with a traceback, which may name files; they are reported here instead
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


for _command in (
    *(demo, infer, batch, validate, compare, key, listen, send),
    *(prepare, train, evaluate, export),
):
    app.command(cls=GroupedCommand)(_command)
