"""`spider train`: the training config, with its most common values as options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from spider_bundle.bundle import PATH_OPTIONS, config_text
from spider_bundle.cli.ends import shown, without_traceback
from spider_bundle.cli.options import (
    BundleRoot,
    DatasetDir,
    Device,
    Layers,
    Precision,
    TrustConfig,
    check_layers,
    existing,
    training_values,
)


def train(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for checkpoint, weights and scores.", metavar="FOLDER"
        ),
    ] = Path("runs/train"),
    dataset_dir: DatasetDir = None,
    initial_weights: Annotated[
        Path | None, existing(help="Weights to start from; random if not given.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs.", min=1, metavar="N")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate.", min=0, metavar="RATE")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other value of the config as JSON, e.g. batch_size=8; may be repeated.",
            metavar="ID=VALUE",
        ),
    ] = None,
    config_file: Layers = None,
    trust_config: TrustConfig = False,
    device: Device = "",
    precision: Precision = "auto",
    bundle_root: BundleRoot = None,
) -> None:
    """Train on prepared heads.

    An interrupted training is resumed by the same command, which does the same as `monai.bundle run
    training`. OUTPUT then holds model.pt and model.json for `spider infer --weights`, and
    checkpoint.pt.
    """
    given: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
    with shown():
        check_layers(config_file, trust_config)
        overrides = training_values(
            dataset_dir, device, precision, ckpt_dir=output, initial_weights=initial_weights
        )
        overrides |= {name: value for name, value in given.items() if value is not None}
        for text in values or ():
            name, separator, value = text.partition("=")
            if not separator:
                raise ValueError(f"--set takes ID=VALUE, got {text!r}")
            if name in PATH_OPTIONS:
                overrides[name] = config_text(value)
                continue
            try:
                overrides[name] = json.loads(value)
            except ValueError:
                overrides[name] = value
    from spider_bundle.bundle import training_workflow

    kept = "the same command resumes after the last complete epoch"
    with without_traceback("the training", kept=kept):
        workflow = training_workflow(overrides, bundle_root, config_file or [])
        workflow.run()
        workflow.finalize()
    typer.echo(f"weights: {output / 'model.pt'}; try them: spider infer ... --weights")
