"""Does loading keep up with the network: cases prepared against cases trained per second.

The training pipeline of ``configs/train.json`` runs on random head phantoms, which need no data,
with several numbers of loading processes; the network trains on one batch that stays on the device.
Both are measured alone. Where the ratio is above 1, loading prepares more cases than the network
takes.

    python -m benchmarks.loading --workers 0 1 2 4 8
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from spider_bundle.resources import available_cores

ROOT = Path(__file__).resolve().parents[1]
HEADS = 4


def main() -> None:
    """Measure, and print one markdown table."""
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    parser = training_parser(options, workers=0)
    loader = parser.get_parsed_content("train::dataloader")
    parameters = sum(p.numel() for p in parser.get_parsed_content("network").parameters())
    taken = options.batch_size / step_seconds(parser, next(iter(loader)), options.steps)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}, {available_cores()} CPU cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}; "
        f"{parameters / 1e6:.2f} M parameters, batches of "
        f"{options.batch_size} cases\n"
    )
    print("| loading processes | cases prepared/s | cases trained/s | ratio |")
    print("|---|---|---|---|")
    for workers in options.workers:
        # one loader lives at a time
        loader = training_parser(options, workers).get_parsed_content("train::dataloader")
        prepared = options.batch_size / loading_seconds(loader, timed_steps(options, workers))
        ratio = prepared / taken
        print(f"| {workers} | {prepared:.2f} | {taken:.2f} | {ratio:.2f} |", flush=True)
        del loader


def parse_options() -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="where the network trains")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="to compare")
    parser.add_argument("--batch-size", type=int, default=4, help="cases per step")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    return parser.parse_args()


def training_parser(options: argparse.Namespace, workers: int) -> ConfigParser:
    """Return the training config with random head phantoms."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "train.json"))
    parser.update(
        {
            "bundle_root": str(ROOT),
            "device": options.device,
            "tensorboard": False,
            "train::data": [{"case": f"phantom_{n}", "phantom": n} for n in range(HEADS)],
            "batch_size": options.batch_size,
            # each process prepares two batches ahead; so many are not timed
            "iterations_per_epoch": timed_steps(options, workers) + max(1, 2 * workers),
            "num_workers": workers,
        }
    )
    set_determinism(seed=0)
    return parser


def timed_steps(options: argparse.Namespace, workers: int) -> int:
    """Batches to time, several of each loading process."""
    return max(options.steps, 5 * workers)


def loading_seconds(loader: Any, steps: int) -> float:
    """Seconds per batch once the loading processes work at their pace."""
    batches = iter(loader)
    # what they prepared while they started up is not counted
    for _ in range(len(loader) - steps):
        next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - start) / steps


def step_seconds(parser: ConfigParser, batch: dict[str, Any], steps: int) -> float:
    """Seconds per training step on a batch that is on the device already."""
    network = parser.get_parsed_content("network").train()
    loss = parser.get_parsed_content("loss")
    optimizer = parser.get_parsed_content("optimizer")
    inferer = parser.get_parsed_content("train::inferer")
    device = torch.device(parser.get_parsed_content("device"))
    ready = {name: value.to(device) for name, value in batch.items()}

    def step() -> None:
        optimizer.zero_grad()
        prediction = inferer(ready["image"], network, ready["projection"], ready["points"])
        loss(prediction, ready["label"]).backward()
        optimizer.step()

    for _ in range(3):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
