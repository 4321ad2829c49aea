"""`spider batch`: every study of a spool, unattended."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import show_files, shown, without_traceback
from spider_bundle.cli.options import (
    BundleRoot,
    CreateKeyFile,
    Device,
    Dicom,
    Exact,
    Html,
    KeepIdentity,
    KeyFile,
    Kind,
    Layers,
    MapFile,
    Mesh,
    Precision,
    Shape,
    Spacing,
    TrustConfig,
    Weights,
    check_extras,
    check_layers,
    computation,
)
from spider_bundle.cli.send import check_peer, deliver
from spider_bundle.exit_status import EXIT_FAILED


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
        float,
        typer.Option(
            help="Without change before a study is processed (--watch).", min=0, metavar="SECONDS"
        ),
    ] = 30.0,
    patience: Annotated[
        float, typer.Option(help="To wait for a missing view (--watch).", min=0, metavar="SECONDS")
    ] = 3600.0,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Worker processes; on a CPU one per core, up to 8, if not given.",
            min=1,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    device: Device = "",
    precision: Precision = "auto",
    exact: Exact = False,
    spacing: Spacing = 2.0,
    shape: Shape = None,
    limit: Annotated[
        int | None, typer.Option(help="Stop after N studies.", min=1, metavar="N")
    ] = None,
    on_error: Annotated[str, typer.Option(help="continue or stop.", metavar="NAME")] = "continue",
    time_limit: Annotated[
        float, typer.Option(help="Of one study.", min=1, metavar="SECONDS")
    ] = 600.0,
    min_free: Annotated[
        float, typer.Option(help="Minimum free space.", min=0, metavar="MIB")
    ] = 512.0,
    dicom: Dicom = False,
    mesh: Mesh = False,
    html: Html = False,
    keep_identity: KeepIdentity = False,
    kind: Kind = "",
    profile: Annotated[
        Path | None,
        typer.Option(
            help="The site's overrides, YAML or JSON.", exists=True, dir_okay=False, metavar="FILE"
        ),
    ] = None,
    key_file: KeyFile = None,
    map_file: MapFile = None,
    create_key_file: CreateKeyFile = False,
    cluster: Annotated[
        str, typer.Option(help="Ray cluster whose nodes do the work.", metavar="HOST:PORT")
    ] = "",
    store_to: Annotated[
        str, typer.Option(help="Then send the DICOM results to this PACS.", metavar="AE@HOST:PORT")
    ] = "",
    weights: Weights = None,
    config_file: Layers = None,
    trust_config: TrustConfig = False,
    bundle_root: BundleRoot = None,
) -> None:
    """Reconstruct many studies unattended.

    Every study of INPUT goes to OUTPUT; the same command resumes what was interrupted.

    Exit codes: 0 all done, 1 failures, 2 bad usage, 3 refused studies or none found, 4 stopped
    before the end. How each study ended is in OUTPUT/manifest.jsonl.
    """
    from spider_bundle.batch.cluster import ClusterOptions
    from spider_bundle.batch.options import BatchOptions
    from spider_bundle.batch.outcome import plan_batch
    from spider_bundle.batch.runner import run_batch
    from spider_bundle.outputs.html_report import INDEX_FILE
    from spider_bundle.outputs.optional_dependencies import require_extra
    from spider_bundle.outputs.study import REFUSED_FILE

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
        check_layers(config_file, trust_config)
        if cluster:
            require_extra("cluster")
        options = BatchOptions(
            source,
            output,
            spacing=spacing,
            shape=shape,
            device=device,
            precision=precision,
            exact=exact,
            weights=weights,
            jobs=jobs,
            limit=limit,
            stop_on_error=on_error == "stop",
            time_limit=time_limit,
            kind=kind,
            profile=profile,
            key_file=key_file,
            create_key_file=create_key_file,
            map_file=map_file,
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
    with without_traceback("the batch", options):
        if watch:
            typer.echo(f"watching {source}; SIGTERM stops after the studies at hand", err=True)
        if dry_run:
            plan = plan_batch(options)
            lines, outcome = list(plan.lines()), plan.outcome
        else:
            lines, outcome = [], run_batch(options)
    for line in lines:
        typer.echo(line)
    if sys.stderr.isatty():  # somebody looks on; the log of a service names no files
        show_files(outcome.files, outcome.files)
    counts = (f"{number} {name}" for name, number in outcome.counts.items() if number)
    text = ", ".join(counts) or "no study found"
    if not dry_run:
        text += f"; results in {output}"
        text += f", refusals in {output / REFUSED_FILE}" if outcome.refused else ""
        text += f", open {output / INDEX_FILE}" if html else ""
    typer.echo(text)
    exit_code = outcome.exit_code
    if store_to and not dry_run:
        with without_traceback("the batch", options):
            problems = deliver(output, store_to).problems
        if problems:
            exit_code = exit_code or EXIT_FAILED
    if exit_code:
        raise typer.Exit(exit_code)
