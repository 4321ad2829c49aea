"""`spider demo`: a radiograph pair to try the bundle with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(folder: Annotated[Path, typer.Argument(help="Folder for the two DICOM files.")]) -> None:
    """Write the demo's radiograph pair, made from an analytic head."""
    from spider_bundle.demo import write_demo_pair

    for path in write_demo_pair(folder):
        typer.echo(str(path))
