"""`spider send`: send DICOM results to a PACS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import EXIT_FAILED, EXIT_REFUSED, fail, written
from spider_bundle.cli.options import require_pacs


def send(
    results: Annotated[
        Path,
        typer.Argument(help="Output folder of infer or batch.", exists=True, file_okay=False),
    ],
    to: Annotated[str, typer.Option(help="The peer: AE@host:port.")],
    calling_ae: Annotated[str, typer.Option(help="Own AE title.")] = "SPIDER",
    retries: Annotated[int, typer.Option(help="Further attempts.", min=0)] = 3,
    pause: Annotated[
        float, typer.Option(help="Seconds before the first of them; then doubled.", min=0)
    ] = 5.0,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=1)] = 30.0,
) -> None:
    """Send the DICOM results below RESULTS to a PACS; run again to send what is new.

    Exit codes: 0 all sent, now or before, 1 something could not be sent, 2 bad usage, 3 there are
    no DICOM results. What was sent is in RESULTS/sent.jsonl.
    """
    require_pacs()
    from spider_bundle.pacs.codes import PacsCode, PacsError
    from spider_bundle.pacs.peer import Peer
    from spider_bundle.pacs.store import Patience, send_results

    try:
        with written(
            "what was sent cannot be recorded",
            "see to the space and the rights of the results' folder and run again",
        ):
            outcome = send_results(
                results, Peer.parse(to), calling_ae, patience=Patience(retries, pause, timeout)
            )
    except PacsError as error:
        if error.code is PacsCode.N01:
            raise typer.BadParameter(str(error)) from None
        fail(str(error))
    typer.echo(
        f"{outcome.stored} objects sent, {outcome.skipped} sent before, "
        f"{sum(outcome.refused.values())} refused, of {outcome.studies} studies"
    )
    for problem in outcome.problems:
        typer.echo(str(problem), err=True)
    if outcome.problems:
        raise typer.Exit(EXIT_FAILED)
    if not outcome.studies:
        raise typer.Exit(EXIT_REFUSED)
