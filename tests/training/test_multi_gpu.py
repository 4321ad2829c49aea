"""Two processes train one network: equal weights, averaged gradients, one resumable checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from spider_bundle.training.sampling import SharedRandomSampler, loading_workers
from tests.tiny import PHANTOMS, TINY_NETWORK

ITERATIONS = 2
SETTINGS: dict[str, Any] = {
    **TINY_NETWORK,
    "image_size": 64,
    "pixel_size": 4.8,
    "points_per_case": 256,
    "batch_size": 1,
    "iterations_per_epoch": ITERATIONS,
    "val_interval": 2,
    "device": "cpu",
    "precision": "float32",
    "train::data": PHANTOMS,
    "validate::data": PHANTOMS[:1],
}


@pytest.fixture(autouse=True)
def in_bundle(monkeypatch: pytest.MonkeyPatch, bundle_root: Path) -> None:
    monkeypatch.chdir(bundle_root)


def indices(rank: int, epoch: int, processes: int = 3) -> list[int]:
    sampler = SharedRandomSampler(range(10), 4, processes, rank, seed=5)
    sampler.set_epoch(epoch)
    assert len(sampler) == 4
    return list(sampler)


def test_processes_share_one_draw() -> None:
    shares = [indices(rank, epoch=1) for rank in range(3)]
    alone = SharedRandomSampler(range(10), 12, 1, 0, seed=5)
    alone.set_epoch(1)
    # step by step, the cases of all processes are those that one alone would take
    assert [shares[i % 3][i // 3] for i in range(12)] == list(alone)


def test_draw_depends_on_the_epoch_alone() -> None:
    assert indices(0, epoch=1) == indices(0, epoch=1)
    assert indices(0, epoch=1) != indices(0, epoch=2)


def test_draws_are_uniform_with_replacement() -> None:
    drawn = list(SharedRandomSampler(range(4), 8000, 2, 1, seed=0))
    counts = torch.bincount(torch.tensor(drawn), minlength=4)
    # four standard deviations of a binomial count with p = 1/4
    assert (counts - 2000).abs().max() < 4 * (8000 * 0.25 * 0.75) ** 0.5


def test_loading_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spider_bundle.training.sampling.available_cores", lambda: 24)
    assert loading_workers("cpu") == 0
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loading_workers("cuda") == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loading_workers(torch.device("cuda", 1)) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "48")
    assert loading_workers("cuda") == 1


class Processes:
    """Two processes that trained one epoch, were started again, and trained the second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "run" / "checkpoint.pt"
        self.first = self._train(epochs=1)
        self.saved = torch.load(self.checkpoint, weights_only=True)
        self.second = self._train(epochs=2)

    def _train(self, epochs: int) -> list[dict[str, Any]]:
        values = {**SETTINGS, "epochs": epochs, "ckpt_dir": str(self.folder / "run")}
        command = [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run"),
            *("--standalone", "--nproc-per-node", "2", "tests/training/training_process.py"),
            *(str(self.folder), json.dumps(values)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return [torch.load(self.folder / f"rank_{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory, bundle_root: Path) -> Processes:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(bundle_root)
        return Processes(tmp_path_factory.mktemp("processes"))


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.slow
def test_all_processes_hold_the_same_weights(processes: Processes) -> None:
    for zero, one in (processes.first, processes.second):
        assert_equal(zero["start"], one["start"])
        assert_equal(zero["end"], one["end"])
        assert_equal(zero["averaged"], one["averaged"])
        moved = [n for n, value in zero["end"].items() if not torch.equal(value, zero["start"][n])]
        assert moved
        assert torch.tensor(zero["losses"] + one["losses"]).isfinite().all()


@pytest.mark.slow
def test_processes_see_different_cases_and_only_the_first_validates(processes: Processes) -> None:
    zero, one = processes.first
    assert not torch.equal(zero["batch"]["projection"], one["batch"]["projection"])
    assert (zero["validates"], one["validates"]) == (True, False)


@pytest.mark.slow
def test_gradients_are_the_mean_over_the_processes(processes: Processes) -> None:
    records = processes.first
    workflow = ConfigWorkflow("configs/train.json", logging_file=False, **SETTINGS)
    network = workflow.parser.get_parsed_content("network")
    loss = workflow.parser.get_parsed_content("loss")
    network.load_state_dict(records[0]["start"])
    own = []
    for record in records:
        batch = record["batch"]
        network.zero_grad()
        prediction = network(batch["image"], batch["projection"], batch["points"])
        value = loss(prediction, batch["label"])
        assert value.item() == pytest.approx(record["losses"][0], rel=1e-5)
        value.backward()
        own.append([p.grad.clone() for p in network.parameters()])
    largest = max(float(g.abs().max()) for g in own[0])
    assert any(not torch.allclose(a, b, atol=0.01 * largest) for a, b in zip(*own, strict=True))
    for record in records:
        for mean, a, b in zip(record["gradients"], *own, strict=True):
            assert torch.allclose(mean, (a + b) / 2, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.slow
def test_checkpoint_does_not_depend_on_the_number_of_processes(
    processes: Processes, tmp_path: Path
) -> None:
    saved = processes.saved
    assert (saved["epoch"], saved["iteration"]) == (1, ITERATIONS)
    assert_equal(saved["network"], processes.first[0]["end"])
    assert_equal(saved["ema"], processes.first[0]["averaged"])
    # two processes went on from it: they trained the second epoch only
    assert [len(record["losses"]) for record in processes.second] == [ITERATIONS] * 2
    now = torch.load(processes.checkpoint, weights_only=True)
    assert (now["epoch"], now["iteration"]) == (2, 2 * ITERATIONS)
    # and one process goes on from theirs
    (tmp_path / "checkpoint.pt").write_bytes(processes.checkpoint.read_bytes())
    values = {**SETTINGS, "epochs": 3, "ckpt_dir": str(tmp_path), "tensorboard": False}
    workflow = ConfigWorkflow("configs/train.json", logging_file=False, **values)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    workflow.run()
    assert (trainer.state.epoch, trainer.state.iteration) == (3, 3 * ITERATIONS)
    alone = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert alone["network"].keys() == now["network"].keys()
    # AdamW's steps are counted over both trainings
    assert alone["optimizer"]["state"][0]["step"] == 3 * ITERATIONS
