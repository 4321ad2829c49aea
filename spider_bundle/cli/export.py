"""`spider export`: the network as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import shown, without_traceback
from spider_bundle.cli.options import BundleRoot, Weights


def export(
    output: Annotated[Path, typer.Argument(help="File to write, .onnx.", dir_okay=False)],
    part: Annotated[str, typer.Option(help="network, encoder or decoder.")] = "network",
    weights: Weights = None,
    bundle_root: BundleRoot = None,
) -> None:
    """Write the network as an ONNX file.

    It holds the weights; the geometry is an input of it.
    """
    with shown():
        from spider_bundle.exports import Part, export_bundle

        chosen = Part(part)
    with without_traceback("the export"):
        export_bundle(output, chosen, weights=weights, root=bundle_root)
    typer.echo(f"{chosen.value} written to {output}")
