"""Command line of the bundle: one module a command, what they share beside them.

Exit codes: 0 all done, 1 a study failed unexpectedly, 2 bad usage, 3 a study was refused.
"""

from __future__ import annotations

import logging
import warnings

import typer

from spider_bundle.cli.batch import batch
from spider_bundle.cli.demo import demo
from spider_bundle.cli.evaluate import evaluate
from spider_bundle.cli.export import export
from spider_bundle.cli.infer import infer
from spider_bundle.cli.listen import listen
from spider_bundle.cli.prepare import prepare
from spider_bundle.cli.send import send
from spider_bundle.exit_status import EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE

__all__ = ["EXIT_FAILED", "EXIT_REFUSED", "EXIT_USAGE", "app"]

app = typer.Typer(
    help="Head CT and labels from two radiographs. Research use only, never for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Head CT and labels from two radiographs. Research use only, never for diagnosis."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    # ignite logs failures with a traceback, which may name files; they are reported here instead
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


for _command in (demo, infer, batch, evaluate, prepare, listen, send, export):
    app.command()(_command)
