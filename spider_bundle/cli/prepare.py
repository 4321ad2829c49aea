"""`spider prepare`: CT scans to head cases."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import show_files, shown, without_traceback
from spider_bundle.cli.options import MapFile
from spider_bundle.exit_status import EXIT_FAILED, EXIT_REFUSED
from spider_bundle.pseudonym import check_map, write_map


def prepare(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with CT scans: DICOM series, NIfTI, NRRD, MetaImage.",
            exists=True,
            file_okay=False,
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder for the head cases.", file_okay=False, writable=True)
    ],
    spacing: Annotated[float, typer.Option(help="Voxel size, mm.", min=0.25)] = 4.0,
    size: Annotated[float, typer.Option(help="Side of the cube, mm.", min=64, max=1024)] = 256.0,
    validation_share: Annotated[
        float, typer.Option(help="Share of the patients that validate.", min=0, max=1)
    ] = 0.15,
    contours: Annotated[
        str, typer.Option(help="Name of the mandible's segmentation beside a scan.")
    ] = "{stem}_mandible.nii.gz",
    isocentres: Annotated[
        Path | None,
        typer.Option(help="Stated isocentres, JSON or CSV.", exists=True, dir_okay=False),
    ] = None,
    patient_pattern: Annotated[
        str, typer.Option(help="Regular expression of the patient in the path of volumes.")
    ] = "",
    map_file: MapFile = None,
) -> None:
    """Prepare CT scans for training.

    Every scan below the folder becomes a head case for training and evaluation. Finished scans are
    skipped, so an interrupted run is resumed by the same command.
    """
    from spider_bundle.cases.datalist import head_datalist
    from spider_bundle.cases.folder import REPORT, PrepareOptions, prepare_folder, read_isocentres
    from spider_bundle.cases.quality import Verdict
    from spider_bundle.dicom.studies import PUBLIC_KEY

    with without_traceback("the preparation"), shown():
        check_map(map_file, output)
        key = os.environ.get("SPIDER_SITE_KEY") or PUBLIC_KEY
        options = PrepareOptions(
            spacing=spacing,
            size=size,
            validation_share=validation_share,
            contours=contours,
            patient_pattern=patient_pattern or None,
            key=key,
        )
        stated = read_isocentres(isocentres) if isocentres else None
        outcome = prepare_folder(
            folder, output, options, isocentres=stated, progress=True, isolated=True
        )
        paths = {case: [path] for case, path in outcome.paths.items()}
        if map_file is not None:
            write_map(map_file, paths)
    show_files(outcome.rejected, paths)
    scans = json.loads((output / REPORT).read_text(encoding="utf-8"))["scans"]
    warned = sum(scan["verdict"] == Verdict.WARN for scan in scans)
    warnings = f" ({warned} with warnings)" if warned else ""
    look = f"look at {output / 'preview.png'}, " if outcome.prepared else ""
    typer.echo(
        f"{len(outcome.prepared)} prepared{warnings}, {len(outcome.rejected)} rejected "
        f"({outcome.skipped} already done); {look}details in {output / REPORT}"
    )
    patients = {entry["subject"] for entry in head_datalist(output, "validation")}
    if outcome.prepared and len(patients) < 2:
        typer.echo(
            f"{len(patients)} validation patients: raise --validation-share, here "
            f"{validation_share:g}; an evaluation needs at least 2",
            err=True,
        )
    if outcome.failed:
        raise typer.Exit(EXIT_FAILED)
    if outcome.rejected or not outcome.prepared:
        raise typer.Exit(EXIT_REFUSED)
