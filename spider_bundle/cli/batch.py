"""`spider batch`: every study of a spool, unattended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spider_bundle.cli.ends import fail, shown
from spider_bundle.cli.options import (
    BundleRoot,
    CreateKeyFile,
    Device,
    Dicom,
    Html,
    KeepIdentity,
    KeyFile,
    Mesh,
    Precision,
    Shape,
    Spacing,
    Weights,
    check_extras,
    computation,
)
from spider_bundle.cli.send import check_peer, deliver
from spider_bundle.exit_status import EXIT_FAILED, EXIT_USAGE

if TYPE_CHECKING:
    from spider_bundle.batch.options import BatchOptions


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="Folder with studies and zip archives, or a zip archive.",
            exists=True,
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder for the results.", file_okay=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and what is refused; no more.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for further studies until SIGTERM.")
    ] = False,
    quiet_seconds: Annotated[
        float, typer.Option(help="Take a study when unchanged for so long (--watch).", min=0)
    ] = 30.0,
    patience: Annotated[
        float, typer.Option(help="Refuse a study without a view after so long (--watch).", min=0)
    ] = 3600.0,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Worker processes; on a CPU one per core, up to 8, if not given.",
            min=1,
            show_default=False,
        ),
    ] = None,
    device: Device = "",
    precision: Precision = "auto",
    spacing: Spacing = 2.0,
    shape: Shape = 128,
    limit: Annotated[int | None, typer.Option(help="Most studies to take.", min=1)] = None,
    on_error: Annotated[str, typer.Option(help="continue or stop.")] = "continue",
    time_limit: Annotated[
        float, typer.Option(help="Seconds that one study may take.", min=1)
    ] = 600.0,
    min_free: Annotated[
        float, typer.Option(help="Start no study with less free space, MiB.", min=0)
    ] = 512.0,
    dicom: Dicom = False,
    mesh: Mesh = False,
    html: Html = False,
    keep_identity: KeepIdentity = False,
    profile: Annotated[
        Path | None,
        typer.Option(help="The site's overrides, YAML or JSON.", exists=True, dir_okay=False),
    ] = None,
    key_file: KeyFile = None,
    create_key_file: CreateKeyFile = False,
    cluster: Annotated[
        str, typer.Option(help="HOST:PORT of a Ray cluster whose nodes do the work.")
    ] = "",
    store_to: Annotated[
        str, typer.Option(help="Then send the DICOM results to this PACS, AE@host:port.")
    ] = "",
    weights: Weights = None,
    config_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="Config on top of inference.json; may be repeated.", exists=True, dir_okay=False
        ),
    ] = None,
    bundle_root: BundleRoot = None,
) -> None:
    """Reconstruct every study of INPUT into OUTPUT, unattended; run again to go on.

    Exit codes: 0 all done, 1 failures, 2 bad usage, 3 refused studies or none found, 4 stopped
    before the end. How each study ended is in OUTPUT/manifest.jsonl.
    """
    from spider_bundle.batch.cluster import ClusterOptions
    from spider_bundle.batch.options import BatchOptions
    from spider_bundle.batch.runner import plan_batch, run_batch
    from spider_bundle.outputs.optional_dependencies import require_extra

    with shown():
        if on_error not in ("continue", "stop"):
            raise ValueError(f"--on-error takes continue or stop, got {on_error!r}")
        if create_key_file and key_file is None:
            raise ValueError("--create-key-file needs --key-file")
        if store_to and (watch or not dicom):
            raise ValueError(
                "--store-to sends DICOM results when the batch has ended: give --dicom, and with "
                "--watch run spider send from a timer instead"
            )
        computation("" if cluster else device, precision)  # the device is that of the nodes
        check_extras(dicom, mesh, keep_identity)
        if cluster:
            require_extra("cluster")
        options = BatchOptions(
            source,
            output,
            spacing=spacing,
            shape=shape,
            device=device,
            precision=precision,
            weights=weights,
            jobs=jobs,
            limit=limit,
            stop_on_error=on_error == "stop",
            time_limit=time_limit,
            profile=profile,
            key_file=key_file,
            create_key_file=create_key_file,
            dry_run=dry_run,
            watch=watch,
            quiet_seconds=quiet_seconds,
            patience=patience,
            min_free_mib=min_free,
            dicom=dicom,
            mesh=mesh,
            html=html,
            keep_identity=keep_identity,
            config_files=config_file or (),
            bundle_root=bundle_root,
            cluster=ClusterOptions(cluster) if cluster else None,
        )
    if store_to:
        check_peer(store_to)
    with _without_traceback(options):
        if dry_run:
            plan = plan_batch(options)
            lines, outcome = list(plan.lines()), plan.outcome
        else:
            lines, outcome = [], run_batch(options)
    for line in lines:
        typer.echo(line)
    counts = (f"{number} {name}" for name, number in outcome.counts.items() if number)
    typer.echo(", ".join(counts) or "no study found")
    exit_code = outcome.exit_code
    if store_to and not dry_run:
        with _without_traceback(options):
            problems = deliver(output, store_to).problems
        if problems:
            exit_code = exit_code or EXIT_FAILED
    if exit_code:
        raise typer.Exit(exit_code)


@contextmanager
def _without_traceback(options: BatchOptions) -> Iterator[None]:
    """Tell what ends the batch early in one line, and end with its exit code.

    Raises:
        typer.BadParameter: Wrong use.
        typer.Exit: All else.
    """
    from spider_bundle.cli.early_end import early_end

    try:
        yield
    except (typer.Exit, typer.BadParameter):  # shown already
        raise
    except Exception as error:
        end = early_end(error, options)
        if end.exit_code == EXIT_USAGE:
            raise typer.BadParameter(end.message) from None
        fail(end.message, end.exit_code)
