"""`spider evaluate`: the weights beside baselines and controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import shown
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
    config_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="Config layered on top, as of your own training; may be repeated.",
            exists=True,
            dir_okay=False,
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
    from spider_bundle.evaluation.methods import NetworkMethod
    from spider_bundle.evaluation.protocols import evaluate as run_protocols

    with shown():
        overrides = {"output_dir": config_path(output), **computation(device, precision)}
    for name, path in (("dataset_dir", dataset_dir), ("weights", weights)):
        if path is not None:
            overrides[name] = config_path(path)
    layers = config_file or []
    content = evaluation_workflow(overrides, bundle_root, layers).parser.get_parsed_content
    if not layers and not Path(content("dataset_dir"), "split.json").is_file():
        raise typer.BadParameter("no prepared heads (split.json) there; name them: --dataset-dir")
    run_protocols(
        NetworkMethod(content("network"), content("device"), content("precision")),
        training=[entry for entry in content("train::data") if "phantom" not in entry],
        validation=content("validate::data"),
        output_dir=content("output_dir"),
        image_size=content("image_size"),
        pixel_size=content("pixel_size"),
    )
    typer.echo((output / "v1" / "comparison.md").read_text(encoding="utf-8"))
