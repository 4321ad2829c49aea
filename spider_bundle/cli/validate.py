"""`spider validate` and `spider compare`: results beside the CT of the same head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import shown, without_traceback
from spider_bundle.cli.options import (
    BundleRoot,
    CreateKeyFile,
    Device,
    KeyFile,
    Precision,
    Weights,
    computation,
)
from spider_bundle.exit_status import EXIT_REFUSED

Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the results.", file_okay=False)
]


def validate(
    studies: Annotated[
        Path, typer.Argument(help="Folder with CT studies.", exists=True, file_okay=False)
    ],
    output: Output,
    jobs: Annotated[int | None, typer.Option(help="Worker processes.", min=1)] = None,
    profile: Annotated[
        Path | None,
        typer.Option(help="The site's overrides, YAML or JSON.", exists=True, dir_okay=False),
    ] = None,
    key_file: KeyFile = None,
    create_key_file: CreateKeyFile = False,
    device: Device = "",
    precision: Precision = "auto",
    weights: Weights = None,
    bundle_root: BundleRoot = None,
) -> None:
    """Reconstruct from the localisers of your CT studies, and score against the CT.

    Every study below STUDIES with a frontal and a lateral localiser and axial slices of the head
    is taken; run again to go on. OUTPUT holds validation.html, validation.md and the scores.
    """
    from spider_bundle.batch.options import BatchOptions
    from spider_bundle.batch.validate import PAGE, TABLE
    from spider_bundle.batch.validate import validate as run

    with shown():
        computation(device, precision)
        options = BatchOptions(
            studies,
            output,
            jobs=jobs,
            profile=profile,
            key_file=key_file,
            create_key_file=create_key_file,
            device=device,
            precision=precision,
            weights=weights,
            bundle_root=bundle_root,
        )
    with without_traceback("the validation", options):
        outcome, records = run(options)
    typer.echo((output / TABLE).read_text(encoding="utf-8"))
    typer.echo(f"pages and pictures in {output / PAGE}")
    unscored = not records or any(record["code"] for record in records)
    if outcome.exit_code or unscored:
        raise typer.Exit(outcome.exit_code or EXIT_REFUSED)


def compare(
    ct: Annotated[
        Path,
        typer.Argument(help="The CT: a folder with a DICOM series, or a volume.", exists=True),
    ],
    result: Annotated[
        Path, typer.Argument(help="Folder of a result.", exists=True, file_okay=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for scores and pictures.", file_okay=False),
    ] = None,
) -> None:
    """Score one result against the CT of the same head, as it lies and after registration."""
    from spider_bundle.batch.validate import compare as run

    with without_traceback("the comparison"), shown():
        typer.echo(run(ct, result, output))
