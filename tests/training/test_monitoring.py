"""TensorBoard and MLflow show what a training did; a training does not need them."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run
from torch import nn

from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from spider_bundle.training.losses import JointLoss, pack_targets
from spider_bundle.training.monitoring import TrainingCurves, open_summary, slice_picture
from spider_bundle.weights import read_description
from tests.tiny import PHANTOMS, TINY_NETWORK

TRAINING: dict[str, Any] = {
    **TINY_NETWORK,
    "image_size": 64,
    "pixel_size": 4.8,
    "points_per_case": 256,
    "batch_size": 2,
    "epochs": 2,
    "iterations_per_epoch": 2,
    "val_interval": 2,
    "device": "cpu",
    "train::data": PHANTOMS[:1],
    "validate::data": PHANTOMS[1:],
    "logging_file": False,
}
PANEL = 300


@pytest.fixture(autouse=True)
def in_bundle(monkeypatch: pytest.MonkeyPatch, bundle_root: Path) -> None:
    monkeypatch.chdir(bundle_root)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def test_curves_are_the_loss_its_terms_and_the_learning_rate() -> None:
    loss = JointLoss(l1=1.0, mse=10.0, structure=0.5, dice=0.0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.25)
    allowed = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    target = pack_targets(torch.tensor([0.5, 0.0]), torch.ones(2), allowed)
    prediction = torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, 0.2]])
    total = loss(prediction[None], target[None])
    # one batch of two equal cases, as a trainer's decollated output
    output = [{"pred": prediction, "label": target, "loss": total}] * 2
    wanted = {
        "loss/l1": 0.15,
        "loss/mse": 0.025,
        "loss/cross_entropy": np.log(2),
        "loss/total": 0.15 + 10 * 0.025 + 0.5 * np.log(2),
        "learning_rate": 0.25,
    }
    assert TrainingCurves(loss, optimizer)(output) == pytest.approx(wanted)


def test_picture_shows_each_volume_in_its_panels() -> None:
    grid = Grid.centred(4.0, 16)
    air = np.full(grid.shape, -1000.0)
    dense = np.full(grid.shape, 3000.0)
    nothing = np.full(grid.shape, Label.BACKGROUND)
    brain = np.full(grid.shape, Label.INTRACRANIAL)
    image = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
    picture = slice_picture(image, [air, dense], [nothing, brain], grid)
    assert picture.shape == (2 * PANEL, 7 * PANEL, 3)
    panels = picture.reshape(2, PANEL, 7, PANEL, 3).transpose(0, 2, 1, 3, 4)
    assert (panels[0] == 0).all()  # black radiograph, air without labels
    assert (panels[1, :4] == 255).all()  # white radiograph, dense planes
    tinted = panels[1, 4:].reshape(-1, 3)
    assert (tinted == tinted[0]).all()
    assert tinted[0].min() < 255


def test_reference_is_above_the_reconstruction() -> None:
    grid = Grid.centred(4.0, 16)
    left, right = np.full(grid.shape, -1000.0), np.full(grid.shape, -1000.0)
    left[:8], right[8:] = 3000.0, 3000.0
    nothing = np.zeros(grid.shape, dtype=int)
    picture = slice_picture(torch.zeros(2, 8, 8), [left, right], [nothing, nothing], grid)
    panels = picture.reshape(2, PANEL, 7, PANEL, 3).transpose(0, 2, 1, 3, 4)
    # axial, radiological convention: the patient's left, low RAS x, is on the picture's right
    assert panels[0, 1, 150, 20, 0] == 0
    assert panels[0, 1, 150, 280, 0] == 255
    assert panels[1, 1, 150, 20, 0] == 255
    assert panels[1, 1, 150, 280, 0] == 0


def test_without_tensorboard_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.WARNING, logger="spider_bundle"):
        assert open_summary(tmp_path) is None
    assert [record.name for record in caplog.records] == ["spider_bundle.training.monitoring"]
    assert not list(tmp_path.iterdir())


def train(folder: Path, **options: Any) -> None:
    run(
        "training",
        config_file="configs/train.json",
        **{**TRAINING, **options},
        ckpt_dir=str(folder),
    )


@pytest.mark.slow
def test_training_without_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO, logger="spider_bundle"):
        train(tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert sum("TensorBoard is not installed" in line for line in said) == 1
    assert "1 training cases, 1 validation cases; 2 epochs of 2 steps from random weights" in said
    first, second = (line for line in said if line.startswith("epoch "))
    number = r"\d+\.\d+"
    terms = ", ".join(f"{name} {number}" for name in ("l1", "mse", "cross_entropy", "dice"))
    assert re.fullmatch(rf"epoch 1/2 loss {number} \({terms}\); \d+ s, 0:\d\d:\d\d left", first)
    scores = rf" psnr_db {number} dice_bone {number}, best {number} at epoch 2; "
    assert re.search(scores, second)
    described = read_description(tmp_path / "model.pt")
    assert described is not None
    assert described.recipe["epoch"] == described.recipe["epochs"] == 2
    assert described.network_def["features"] == TINY_NETWORK["network_def::features"]
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("wanted", [True, False])
def test_tensorboard_can_be_switched_off(tmp_path: Path, wanted: bool) -> None:
    pytest.importorskip("tensorboard")
    parser = ConfigParser()
    parser.read_config("configs/train.json")
    parser.update({"ckpt_dir": str(tmp_path), "tensorboard": wanted})
    assert (parser.get_parsed_content("summary_writer") is not None) == wanted
    assert (tmp_path / "tensorboard").exists() == wanted


@pytest.mark.slow
def test_tensorboard_shows_curves_scores_and_slices(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path, **{"train::curves::iteration_log": 1, "restarts": []})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    curves = ("loss/total", "loss/l1", "loss/mse", "loss/cross_entropy", "loss/dice")
    values = {}
    for name in (*curves, "learning_rate"):
        steps = events.Scalars(name)
        assert [event.step for event in steps] == [1, 2, 3, 4]
        values[name.removeprefix("loss/")] = np.array([event.value for event in steps])
    # with the weights of the config
    sum_of_terms = (
        values["l1"] + 10 * values["mse"] + 0.1 * (values["cross_entropy"] + values["dice"])
    )
    assert np.allclose(values["total"], sum_of_terms, rtol=1e-4)
    # warm-up from 0 to 0.001 over two epochs, as set before each step
    assert np.allclose(values["learning_rate"], 0.001 * np.arange(1, 5) / 4)
    (score,) = events.Scalars("intensity/psnr_db")
    assert events.Scalars("hd95/bone")
    assert score.step == 2
    assert 0 < score.value < 60
    (image,) = events.Images("validation/case_1")
    assert (image.step, image.width, image.height) == (2, 7 * PANEL, 2 * PANEL)


@pytest.mark.slow
def test_mlflow_tracks_training_and_evaluation(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")

    def the_run(folder: Path) -> Any:
        client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
        (experiment,) = [e for e in client.search_experiments() if e.name == "monai_experiment"]
        (found,) = client.search_runs(experiment.experiment_id)
        assert found.info.status == "FINISHED"
        return client, found

    training, evaluation = tmp_path / "training", tmp_path / "evaluation"
    train(training, tracking="mlflow", tensorboard=False)
    client, found = the_run(training)
    losses = client.get_metric_history(found.info.run_id, "train_loss")
    assert [metric.step for metric in losses] == [1, 2, 3, 4]
    assert found.data.params["max_epochs"] == "2"
    assert 0 < found.data.metrics["psnr_db"] < 60
    # the config that ran is kept with the run
    assert any(f.path.startswith("config_") for f in client.list_artifacts(found.info.run_id))
    run(
        "evaluation",
        config_file=["configs/train.json", "configs/evaluate.json"],
        weights=str(training / "model.pt"),
        output_dir=str(evaluation),
        tracking="mlflow",
        **TRAINING,
    )
    _, found = the_run(evaluation)
    scores = json.loads((evaluation / "scores.json").read_text())
    assert found.data.metrics["psnr_db"] == pytest.approx(scores["mean"]["psnr_db"])
