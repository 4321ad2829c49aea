"""What a batch adds to the network: one run over simulated studies, and its memory.

The studies are random analytic heads as DICOM pairs. First the network alone reconstructs each of
them, one after the other, in a process of its own; then the batch does everything. The overhead is
the time of the batch, from the first study that a worker reads to the last that is on disk, over
the sum of the network's times, less one. Both are wall times, so nothing else may run meanwhile.
The network alone has all cores for each study; the workers of the batch share them. Memory is the
resident set of runner and workers together.

    python benchmarks/batch.py --studies 100 --folder batch_benchmark
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from spider_bundle.batch.jsonlines import read_lines
from spider_bundle.batch.options import BatchOptions, worker_count
from spider_bundle.batch.runner import run_batch
from spider_bundle.bundle import inference_workflow
from spider_bundle.demo import write_demo_pair
from spider_bundle.phantom import HeadPhantom

HEADS = 4
"""Different heads; the studies take turns."""


def main() -> None:
    """Measure, and print two markdown tables."""
    options = parse_options()
    if options.network_alone:
        print(network_seconds(options))
        return
    source, output = inputs(options), options.folder / "out"
    write_studies(source, options)
    shutil.rmtree(output, ignore_errors=True)
    load = os.getloadavg()[0]
    network = [float(x) for x in alone(options).split()]
    memory: list[tuple[float, float]] = []
    watching = threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(memory, watching), daemon=True)
    watcher.start()
    batch_options = BatchOptions(
        source, output, shape=options.shape, spacing=options.spacing, jobs=options.jobs
    )
    outcome = run_batch(batch_options)
    watching.set()
    watcher.join()
    if outcome.done != options.studies:
        raise SystemExit(f"only {outcome.done} of {options.studies} studies are done")
    events = read_lines(output / "audit" / "run-000001.jsonl")[0]
    ended = [e for e in events if e["event"] == "study"]
    first = min(e["elapsed_s"] - sum(e["seconds"].values()) for e in ended)
    batch = ended[-1]["elapsed_s"] - first
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{cores} CPU cores, torch {torch.__version__}, Python {platform.python_version()}; "
        f"{options.studies} studies of {options.pixels} x {options.pixels} pixels, "
        f"{options.shape} voxels of {options.spacing} mm along each axis; "
        f"{worker_count(batch_options)} workers; "
        f"load before the first measurement {load:.1f}\n"
    )
    print("| network alone, s per study | batch, s per study | overhead | start and checks, s |")
    print("|---|---|---|---|")
    alone_s = sum(network)
    print(
        f"| {alone_s / len(network):.2f} | {batch / len(ended):.2f} "
        f"| {batch / alone_s - 1:+.1%} | {first:.1f} |\n"
    )
    stages = {n: np.mean([e["seconds"][n] for e in ended]) for n in ended[0]["seconds"]}
    print("stages: " + ", ".join(f"{name} {value:.2f} s" for name, value in stages.items()) + "\n")
    print("| part of the run | memory at most, MiB |")
    print("|---|---|")
    start = memory[0][0]
    bounds = np.linspace(start + first, memory[-1][0], 6)
    for number, (low, high) in enumerate(pairwise(bounds), 1):
        peak = max((m for t, m in memory if low <= t <= high), default=float("nan"))
        print(f"| {number} of 5 | {peak:.0f} |")


def parse_options() -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("batch_benchmark"), help="work folder")
    parser.add_argument("--studies", type=int, default=100, help="how many")
    parser.add_argument("--pixels", type=int, default=1024, help="rows and columns of a film")
    parser.add_argument("--shape", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel size, mm")
    parser.add_argument("--jobs", type=int, help="workers of the batch; as the batch chooses")
    parser.add_argument("--network-alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def inputs(options: argparse.Namespace) -> Path:
    """Folder of exactly these studies, which later runs find there."""
    return Path(options.folder) / f"in_{options.studies}_{options.pixels}"


def write_studies(source: Path, options: argparse.Namespace) -> None:
    """Write the studies that are not there yet."""
    for number in range(options.studies):
        folder = source / f"{number:03d}"
        if not (folder / "lateral.dcm").exists():
            head = HeadPhantom.random(number % HEADS)
            size = (options.pixels, options.pixels)
            pitch = 300.0 / options.pixels
            write_demo_pair(folder, head, name=f"batch {number}", pitch=pitch, shape=size)


def alone(options: argparse.Namespace) -> str:
    """Run the network alone in another process, with the same arguments."""
    names = ("folder", "studies", "pixels", "shape", "spacing")
    same = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    command = [sys.executable, __file__, "--network-alone", *same]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def network_seconds(options: argparse.Namespace) -> str:
    """Seconds of the network for each study, from images that are in memory."""
    workflow = inference_workflow(
        {
            "dataset_dir": str(inputs(options)),
            "output_dir": str(options.folder / "alone"),
            "shape": options.shape,
            "spacing": options.spacing,
        }
    )
    parser = workflow.parser
    network = parser.get_parsed_content("network")
    inferer = parser.get_parsed_content("inferer")
    dataset = parser.get_parsed_content("dataset")
    device = parser.get_parsed_content("device")
    network.eval()
    seconds = []
    for number, item in enumerate([dataset[0], *dataset]):
        image = item["image"].to(device)[None]
        image.meta = item["image"].meta
        inferer(image, network)
        if number:  # the first one warms up
            seconds.append(inferer.seconds)
    return " ".join(f"{value:.4f}" for value in seconds)


def watch_memory(memory: list[tuple[float, float]], ended: threading.Event) -> None:
    """Record time and resident memory (MiB) of this process and its children."""
    start = time.monotonic()
    while not ended.wait(0.2):
        memory.append((time.monotonic() - start, resident(os.getpid())))


def resident(process: int) -> float:
    """Resident memory of a process and all below it, MiB (Linux)."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    except OSError:
        return 0.0
    own = next((int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS")), 0)
    return own / 1024 + sum(resident(int(child)) for child in children.split())


if __name__ == "__main__":
    main()
