"""A training that is cut anywhere and resumed ends with the weights of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.utils.data import DataLoader

from spider_bundle.training.checkpoints import ResumableCheckpoint

EPOCHS = 4
ITERATIONS = 3


class KilledError(Exception):
    """Stands for the end of the process."""


class Run:
    """What the training config builds, in small: AdamW, a schedule per iteration, EMA weights."""

    def __init__(self, folder: Path, interrupt: Callable[[Engine], None] | None = None) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        self.schedule = WarmupCosineSchedule(
            self.optimizer, warmup_steps=2, t_total=EPOCHS * ITERATIONS
        )
        self.ema = EMAHandler(self.network, momentum=0.1)
        generator = torch.Generator().manual_seed(1)
        inputs = torch.rand(4 * ITERATIONS, 3, generator=generator)
        data = [{"image": x, "label": x.sum()[None].sin()} for x in inputs]
        state = {
            "network": self.network,
            "ema": self.ema.ema_model,
            "optimizer": self.optimizer,
            "lr_schedule": self.schedule,
        }
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=EPOCHS,
            train_data_loader=DataLoader(data, batch_size=4),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            decollate=False,
            train_handlers=[
                LrScheduleHandler(self.schedule, epoch_level=False, print_lr=False),
                self.ema,
                ResumableCheckpoint(folder, state, self.ema.ema_model),
            ],
        )
        self.trainer.logger.disabled = True
        self.iterations = 0
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        if interrupt is not None:
            self.trainer.add_event_handler(Events.ITERATION_COMPLETED, interrupt)

    def _count(self, _: Engine) -> None:
        self.iterations += 1

    def weights(self) -> dict[str, torch.Tensor]:
        averaged = {f"ema.{k}": v for k, v in self.ema.ema_model.state_dict().items()}
        return {**self.network.state_dict(), **averaged}


def assert_same(first: Run, second: Run) -> None:
    expected = second.weights()
    assert first.weights().keys() == expected.keys()
    for name, value in first.weights().items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.trainer.run()
    return run


def killed_at(folder: Path, iteration: int) -> None:
    def kill(engine: Engine) -> None:
        if engine.state.iteration == iteration:
            raise KilledError

    with pytest.raises(KilledError):
        Run(folder, kill).trainer.run()


def test_training_moves_the_weights(undisturbed: Run, tmp_path: Path) -> None:
    start = Run(tmp_path).weights()
    end = undisturbed.weights()
    assert all(not torch.equal(start[name], end[name]) for name in start)
    assert not torch.equal(end["0.weight"], end["ema.0.weight"])


@pytest.mark.parametrize("iteration", [1, ITERATIONS + 1, 2 * ITERATIONS + 2])
def test_resumed_training_equals_the_undisturbed_one(
    undisturbed: Run, tmp_path: Path, iteration: int
) -> None:
    killed_at(tmp_path, iteration)
    resumed = Run(tmp_path)
    resumed.trainer.run()
    assert resumed.trainer.state.epoch == EPOCHS
    assert resumed.trainer.state.iteration == EPOCHS * ITERATIONS
    finished = (iteration - 1) // ITERATIONS
    assert resumed.iterations == (EPOCHS - finished) * ITERATIONS  # only what was missing
    assert_same(resumed, undisturbed)


def test_training_cut_twice(undisturbed: Run, tmp_path: Path) -> None:
    killed_at(tmp_path, ITERATIONS + 2)
    killed_at(tmp_path, 3 * ITERATIONS + 1)
    resumed = Run(tmp_path)
    resumed.trainer.run()
    assert resumed.iterations == ITERATIONS
    assert_same(resumed, undisturbed)


def test_kill_while_the_checkpoint_is_written(
    undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the process ends in the middle of the second epoch's file: no cleaning up
    save = torch.save
    calls = []

    def half_a_file(value: object, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:  # checkpoint and model of epoch 1, then the checkpoint of epoch 2
            Path(target).write_bytes(b"PK\x03\x04 not a whole file")
            raise KilledError
        save(value, target)

    monkeypatch.setattr(torch, "save", half_a_file)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(KilledError):
        Run(tmp_path).trainer.run()
    monkeypatch.undo()
    left = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint.pt", "model.pt", "model.json"} < left
    assert len(left) == 4  # the partial file lies beside
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == 1
    resumed = Run(tmp_path)
    resumed.trainer.run()
    assert_same(resumed, undisturbed)


def test_finished_training_is_not_continued(undisturbed: Run, tmp_path: Path) -> None:
    Run(tmp_path).trainer.run()
    again = Run(tmp_path)
    again.trainer.run()
    assert again.iterations == 0
    assert_same(again, undisturbed)


def test_model_file_holds_the_averaged_weights(undisturbed: Run, tmp_path: Path) -> None:
    Run(tmp_path).trainer.run()
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    averaged = undisturbed.ema.ema_model.state_dict()
    assert saved.keys() == averaged.keys()
    for name, value in averaged.items():
        assert torch.equal(saved[name], value.half())
