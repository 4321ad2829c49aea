"""What a batch adds to the network: one run over simulated studies, and its memory.

The studies are random head phantoms as DICOM pairs. First the network alone reconstructs each of
them, in two ways: one after the other with all cores for each, and in as many processes at once as
the batch has workers, with as many threads each. Then the batch does everything. The overhead is
the time of the batch, from the first study that a worker reads to the last that is on disk, over
the time of the network alone (its sum, divided by the number of processes), less one. All are wall
times, so nothing else may run meanwhile. Memory is the resident set of runner and workers
together.

    python -m benchmarks.batch --studies 100 --folder batch_benchmark
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

from spider_bundle.batch.options import BatchOptions, worker_count
from spider_bundle.batch.records import read_lines
from spider_bundle.batch.runner import run_batch
from spider_bundle.bundle import inference_workflow
from spider_bundle.demo import write_demo_pair
from spider_bundle.inferers import predict
from spider_bundle.phantom import HeadPhantom
from spider_bundle.resources import available_cores

HEADS = 4
"""Different heads; the studies take turns."""


def main() -> None:
    """Measure, and print two markdown tables."""
    options = parse_options()
    if options.part is not None:
        print(network_seconds(options))
        return
    source, output = inputs(options), options.folder / "out"
    write_studies(source, options)
    shutil.rmtree(output, ignore_errors=True)
    load = os.getloadavg()[0]
    batch_options = BatchOptions(
        source, output, shape=options.shape, spacing=options.spacing, jobs=options.jobs
    )
    workers = worker_count(batch_options)
    network = {parts: alone(options, parts) for parts in sorted({1, workers})}
    memory: list[tuple[float, float]] = []
    watching = threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(memory, watching), daemon=True)
    watcher.start()
    outcome = run_batch(batch_options)
    watching.set()
    watcher.join()
    if outcome.done != options.studies:
        raise SystemExit(f"only {outcome.done} of {options.studies} studies are done")
    events = read_lines(output / "audit" / "run-000001.jsonl")[0]
    ended = [e for e in events if e["event"] == "study"]
    first = min(e["elapsed_s"] - sum(e["seconds"].values()) for e in ended)
    batch = ended[-1]["elapsed_s"] - first
    print(
        f"{available_cores()} CPU cores, torch {torch.__version__}, "
        f"Python {platform.python_version()}; "
        f"{options.studies} studies of {options.pixels} x {options.pixels} pixels, "
        f"{options.shape} voxels of {options.spacing} mm along each axis; "
        f"{workers} workers; "
        f"load before the first measurement {load:.1f}\n"
    )
    print(
        "| network alone, processes | network alone, s per study | batch, s per study | overhead |"
    )
    print("|---|---|---|---|")
    for parts, seconds in network.items():
        ratio = batch / len(ended) / seconds - 1
        print(f"| {parts} | {seconds:.2f} | {batch / len(ended):.2f} | {ratio:+.1%} |")
    print(f"\nstart and checks before the first study: {first:.1f} s")
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
    for name in ("--part", "--parts"):  # of the studies, for the network alone
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
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


def alone(options: argparse.Namespace, parts: int) -> float:
    """Seconds of the network for a study, in some other processes at once."""
    names = ("folder", "studies", "pixels", "shape", "spacing")
    same = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
    command = [sys.executable, __file__, *same, "--parts", str(parts)]
    processes = [
        subprocess.Popen([*command, "--part", str(part)], stdout=subprocess.PIPE, text=True)
        for part in range(parts)
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("the network alone failed")
    seconds = [float(word) for text in printed for word in text.split()]
    return float(np.mean(seconds)) / parts


def network_seconds(options: argparse.Namespace) -> str:
    """Seconds of the network for each study of a part, from images that are in memory."""
    torch.set_num_threads(max(1, available_cores() // options.parts))
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
    chosen = range(options.part, options.studies, options.parts)
    for number, study in enumerate([options.part, *chosen]):
        item = dataset[study]
        predict(item, network, inferer, device)
        if number:  # the first one warms up
            seconds.append(item["image"].meta["network_seconds"])
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
