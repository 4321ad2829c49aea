"""`spider listen`: receive radiographs from a PACS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import shown, without_traceback
from spider_bundle.cli.options import CreateKeyFile, KeyFile, require_pacs


def listen(
    spool: Annotated[
        Path, typer.Argument(help="Folder for the objects received.", file_okay=False)
    ],
    allow: Annotated[
        list[str] | None, typer.Option(help="AE title that may call; may be repeated.")
    ] = None,
    allow_any: Annotated[
        bool, typer.Option("--allow-any", help="Let every AE title call.")
    ] = False,
    port: Annotated[int, typer.Option(help="TCP port.", min=0, max=65535)] = 11112,
    bind: Annotated[str, typer.Option(help="Address of the network interface.")] = "127.0.0.1",
    ae_title: Annotated[str, typer.Option(help="Own AE title.")] = "SPIDER",
    max_associations: Annotated[
        int, typer.Option(help="Maximum number of associations at a time.", min=1)
    ] = 8,
    min_free_gb: Annotated[
        float, typer.Option(help="Space that must remain free on the spool's disk, GiB.", min=0)
    ] = 1.0,
    max_object_mb: Annotated[float, typer.Option(help="Largest object, MiB.", min=1)] = 512.0,
    allow_secondary_capture: Annotated[
        bool, typer.Option("--allow-secondary-capture", help="Accept secondary captures too.")
    ] = False,
    key_file: KeyFile = None,
    create_key_file: CreateKeyFile = False,
    audit: Annotated[
        Path | None, typer.Option(help="Folder for the audit log.", file_okay=False)
    ] = None,
) -> None:
    """Receive radiographs from a PACS.

    They go to SPOOL, the input of `spider batch`, until SIGTERM.

    Exit codes: 0 stopped by a signal, 1 the address or the spool cannot be used, 2 bad usage.
    """
    require_pacs()
    from spider_bundle.dicom.studies import PUBLIC_KEY
    from spider_bundle.pacs.listen import Listener, ListenOptions
    from spider_bundle.pacs.listen import listen as listen_until_signal
    from spider_bundle.pseudonym import create_key_file as create_key
    from spider_bundle.pseudonym import read_key_file

    def tell(listener: Listener) -> None:
        callers = "every AE title" if allow_any else ", ".join(allow or ())
        typer.echo(
            f"{ae_title.strip()} listens on {bind}:{listener.port} for {callers}; SIGTERM stops it"
        )

    with without_traceback("the listener"), shown():
        if create_key_file:
            if key_file is None:
                raise ValueError("--create-key-file needs --key-file")
            create_key(key_file)
        secret = read_key_file(key_file) if key_file else os.environ.get("SPIDER_SITE_KEY")
        options = ListenOptions(
            spool=spool,
            port=port,
            bind=bind,
            ae_title=ae_title,
            allow=tuple(allow or ()),
            allow_any=allow_any,
            max_associations=max_associations,
            min_free_gb=min_free_gb,
            max_object_mb=max_object_mb,
            allow_secondary_capture=allow_secondary_capture,
            key=secret or PUBLIC_KEY,
            audit=audit,
        )
        received = listen_until_signal(options, tell)
    typer.echo(f"{received} objects received")
