"""`spider evaluate`: the weights beside baselines and controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import bad_usage
from spider_bundle.cli.options import (
    BundleRoot,
    Device,
    Precision,
    Weights,
    computation,
    config_path,
)


def evaluate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for scores, tables and figures.")
    ] = Path("eval"),
    dataset_dir: Annotated[
        Path | None,
        typer.Option(
            help="Prepared heads; heads/openkbp_4mm below SPIDER_DATA if not given.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    weights: Weights = None,
    device: Device = "",
    precision: Precision = "auto",
    bundle_root: BundleRoot = None,
) -> None:
    """Score the weights beside the baselines and controls on the validation heads.

    Protocols V1 and V2, sensitivity, tables and figures go to OUTPUT.
    """
    from spider_bundle.bundle import evaluation_workflow

    with bad_usage():
        overrides = {"output_dir": config_path(output), **computation(device, precision)}
    for name, path in (("dataset_dir", dataset_dir), ("weights", weights)):
        if path is not None:
            overrides[name] = config_path(path)
    workflow = evaluation_workflow(overrides, bundle_root)
    if not Path(workflow.parser.get_parsed_content("dataset_dir"), "split.json").is_file():
        raise typer.BadParameter("no prepared heads (split.json) there; name them: --dataset-dir")
    workflow.run()
    typer.echo((output / "v1" / "comparison.md").read_text(encoding="utf-8"))
