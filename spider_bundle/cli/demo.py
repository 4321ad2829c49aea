"""`spider demo`: a radiograph pair to try the bundle with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import without_traceback


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the DICOM files.", file_okay=False)],
    number: Annotated[int, typer.Option(help="Number of studies.", min=1, metavar="N")] = 1,
) -> None:
    """Write radiograph pairs of head phantoms.

    They are made to try the commands with; no patient data are involved. The first study lies in
    FOLDER itself if it is the only one, otherwise in FOLDER/1.
    """
    from spider_bundle.demo import write_demo_pair
    from spider_bundle.phantom import HeadPhantom

    with without_traceback("the demo"):
        for study in range(1, number + 1):
            target = folder if number == 1 else folder / str(study)
            name = "demo" if study == 1 else f"demo {study}"
            head = None if study == 1 else HeadPhantom.random(study)
            for path in write_demo_pair(target, head, name=name):
                typer.echo(str(path))
