"""How long a MONAI Label server with the bundle's app takes to answer.

Runs in the environment of spider_bundle/label_app/requirements.txt:

    python -m benchmarks.label_server

It prints the seconds from the start of the server to its first result, those of the first request
alone, and those of further requests, and beside them the processor seconds that the server used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import requests
import torch

from spider_bundle.demo import write_demo_pair

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 600.0


def main() -> None:
    """Start a server, ask it, stop it, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--spacing", type=float, default=2.0, help="mm")
    parser.add_argument("--shape", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--content", default="label", choices=["label", "ct", "all"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the server")
    parser.add_argument("--repeats", type=int, default=5, help="requests after the first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_demo_pair(folder / "study")
        (folder / "app").mkdir()
        (folder / "studies").mkdir()
        shutil.copy(ROOT / "spider_bundle" / "label_app" / "main.py", folder / "app")
        began = time.perf_counter()
        port = free_port()
        process = start(folder, port, options.threads)
        try:
            url = f"http://127.0.0.1:{port}"
            wait(url, process, folder / "log")
            server = psutil.Process(process.pid)
            ready, ready_cpu = time.perf_counter() - began, processor_seconds(server)
            first, size = ask(url, folder / "study", options)
            cold, cold_cpu = time.perf_counter() - began, processor_seconds(server)
            warm = [ask(url, folder / "study", options)[0] for _ in range(options.repeats)]
            warm_cpu = (processor_seconds(server) - cold_cpu) / options.repeats
        finally:
            process.terminate()
            process.wait()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}, {options.threads} threads, {options.device}; "
        f"{options.shape}^3 voxels of {options.spacing:g} mm, answer of {size} bytes"
    )
    row("server ready after its start", ready, ready_cpu)
    row("cold: first result after the start", cold, cold_cpu)
    row("first request alone", first, cold_cpu - ready_cpu)
    row(f"warm: median of {len(warm)} further requests", statistics.median(warm), warm_cpu)


def row(what: str, seconds: float, processor: float) -> None:
    """Print a line of the result."""
    print(f"{what:<38} {seconds:6.1f} s, {processor:6.1f} s of processor time")


def processor_seconds(process: psutil.Process) -> float:
    """Processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def start(folder: Path, port: int, threads: int) -> subprocess.Popen[bytes]:
    """Start the server; its home is the folder."""
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
    command += ["--app", str(folder / "app"), "--studies", str(folder / "studies")]
    command += ["--port", str(port), "--conf", "bundle", str(ROOT), "--conf", "images", str(folder)]
    environment = {**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": str(threads)}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)


def wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server ended:\n{log.read_text()[-2000:]}")
        try:
            requests.get(f"{url}/info/", timeout=PATIENCE_S).raise_for_status()
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    sys.exit("the server does not answer")


def ask(url: str, study: Path, options: argparse.Namespace) -> tuple[float, int]:
    """Seconds of a request, and the bytes of its answer."""
    wanted = {
        "device": options.device,
        "spacing": options.spacing,
        "shape": options.shape,
        "result_content": options.content,
    }
    began = time.perf_counter()
    answer = requests.post(
        f"{url}/infer/spider",
        params={"image": str(study), "output": "image"},
        data={"params": json.dumps(wanted)},
        timeout=PATIENCE_S,
    )
    answer.raise_for_status()
    return time.perf_counter() - began, len(answer.content)


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
