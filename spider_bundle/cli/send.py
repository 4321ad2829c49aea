"""`spider send`: send DICOM results to a PACS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spider_bundle.cli.ends import shown, without_traceback
from spider_bundle.cli.options import require_pacs
from spider_bundle.exit_status import EXIT_FAILED, EXIT_REFUSED

if TYPE_CHECKING:
    from spider_bundle.pacs.store import SendOutcome


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
    """Send DICOM results to a PACS.

    The same command, run again, sends what is new below RESULTS.

    Exit codes: 0 all sent, now or before, 1 something could not be sent, 2 bad usage, 3 there are
    no DICOM results. What was sent is in RESULTS/sent.jsonl.
    """
    outcome = deliver(results, to, calling_ae, (retries, pause, timeout))
    if outcome.problems:
        raise typer.Exit(EXIT_FAILED)
    if not outcome.studies:
        raise typer.Exit(EXIT_REFUSED)


def deliver(
    results: Path,
    to: str,
    calling_ae: str = "SPIDER",
    retry: tuple[int, float, float] = (3, 5.0, 30.0),
) -> SendOutcome:
    """Send results and tell what became of them.

    Args:
        results: Output folder of infer or batch.
        to: The peer, AE@host:port.
        calling_ae: Own AE title.
        retry: Further attempts, pause and timeout, s; see the options of `spider send`.

    Raises:
        typer.BadParameter: N01, or the extra is not installed.
        typer.Exit: What was sent cannot be recorded, or another process sends.
    """
    check_peer(to)
    from spider_bundle.pacs.peer import Peer
    from spider_bundle.pacs.store import RetryPolicy, send_results

    with without_traceback("the sending"), shown():
        outcome = send_results(results, Peer.parse(to), calling_ae, retry=RetryPolicy(*retry))
    typer.echo(
        f"{outcome.stored} objects sent, {outcome.skipped} sent before, "
        f"{sum(outcome.refused.values())} refused, of {outcome.studies} studies"
        + ("" if outcome.studies else "; there are no DICOM results: reconstruct with --dicom")
    )
    for problem in outcome.problems:
        typer.echo(str(problem), err=True)
    return outcome


def check_peer(to: str) -> None:
    """Refuse what cannot be sent to before anything else is done.

    Raises:
        typer.BadParameter: N01, or the extra is not installed.
    """
    require_pacs()
    from spider_bundle.pacs.peer import Peer

    with shown():
        Peer.parse(to)
