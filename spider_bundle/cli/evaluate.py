"""`spider evaluate`: the weights beside baselines and controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spider_bundle.cli.ends import shown, without_traceback
from spider_bundle.cli.options import (
    BundleRoot,
    DatasetDir,
    Device,
    Layers,
    Precision,
    TrustConfig,
    Weights,
    check_layers,
    training_values,
)


def evaluate(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for scores, tables and figures.", metavar="FOLDER"
        ),
    ] = Path("eval"),
    dataset_dir: DatasetDir = None,
    config_file: Layers = None,
    trust_config: TrustConfig = False,
    weights: Weights = None,
    device: Device = "",
    precision: Precision = "auto",
    bundle_root: BundleRoot = None,
) -> None:
    """Score weights on validation heads.

    Baselines and controls are scored beside them. Protocols V1 and V2, sensitivity, tables and
    figures go to OUTPUT.
    """
    with shown():
        check_layers(config_file, trust_config)
        values = training_values(dataset_dir, device, precision, output_dir=output, weights=weights)
    from spider_bundle.bundle import evaluation_workflow
    from spider_bundle.evaluation.methods import NetworkMethod
    from spider_bundle.evaluation.protocols import evaluate as run_protocols

    with without_traceback("the evaluation"):
        content = evaluation_workflow(values, bundle_root, config_file or []).parser
        validation = content.get_parsed_content("validate::data")
        if not validation:
            raise typer.BadParameter("there are no validation heads")
        training = content.get_parsed_content("train::data")
        network, *others = map(
            content.get_parsed_content,
            ("network", "device", "precision", "output_dir", "image_size", "pixel_size"),
        )
        run_protocols(
            NetworkMethod(network, *others[:2]),
            [entry for entry in training if "phantom" not in entry],
            validation,
            *others[2:],
        )
    typer.echo((output / "v1" / "comparison.md").read_text(encoding="utf-8"))
