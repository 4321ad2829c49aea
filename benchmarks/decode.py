"""Time and memory of decoding whole grids: plain, folded, and coarse to fine.

The plain path is ``SPIDER.decode`` on the grid's points in chunks, the folded one
``SPIDER.decode_grid``; coarse to fine, the default of an inference, decodes folded where the answer
changes (:mod:`spider_bundle.coarse_to_fine`). Every configuration runs in a fresh process, so that
its peak memory is its own. The shipped network sees the radiographs of the demo. Encoding, about
the same for all, is left out of the first two.

    python -m benchmarks.decode --sizes 64 128 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# only the measured processes import torch: a child's peak memory counts its parent's at the fork

CONFIGURATIONS = [
    ("plain", "float32"),
    ("plain", "bfloat16"),
    ("folded", "float32"),
    ("folded", "bfloat16"),
    ("coarse to fine", "float32"),
    ("coarse to fine", "bfloat16"),
]
EXTENT = 256.0
"""Edge of the cube that every grid spans, mm."""


def main() -> None:
    """Measure all configurations and print one table."""
    options = parse_options()
    header_printed = False
    for size in options.sizes:
        reference = None
        for path, precision in CONFIGURATIONS:
            fraction = 1.0
            if path == "plain" and size >= 256 and not options.plain_256:
                fraction = 1 / 16
            result = measured_apart(options, size, path, precision, fraction)
            if not header_printed:
                print_header(options, result)
                header_printed = True
            if reference is None:
                reference = result
            note = "" if fraction == 1 else f"time of 1/{round(1 / fraction)} of the points, scaled"
            print(
                f"{size:>4}^3  {path:<14} {precision:<9} {result['seconds']:>9.3f}"
                f" {reference['seconds'] / result['seconds']:>9.2f} {result['cpu_seconds']:>9.3f}"
                f" {reference['cpu_seconds'] / result['cpu_seconds']:>9.2f}"
                f" {result['peak_mb']:>9.0f}"
                f" {result['base_mb']:>9.0f} {result['device_mb']:>9.0f}  {note}",
                flush=True,
            )


def parse_options() -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="voxels/edge")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many is reported")
    parser.add_argument(
        "--plain-chunk", type=int, default=8192, help="points at a time in the plain path"
    )
    parser.add_argument(
        "--chunk", type=int, default=131072, help="points at a time at most in the folded path"
    )
    parser.add_argument(
        "--plain-256", action="store_true", help="run the plain path in full from 256^3 on, too"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(**json.loads(options.measure))))
        sys.exit()
    return options


def measured_apart(
    options: argparse.Namespace, size: int, path: str, precision: str, fraction: float
) -> dict[str, Any]:
    """Return the result of :func:`measure` in a fresh process."""
    arguments = {
        "device": options.device,
        "threads": options.threads,
        "repeats": options.repeats,
        "chunk": options.plain_chunk if path == "plain" else options.chunk,
        "size": size,
        "path": path,
        "precision": precision,
        "fraction": fraction,
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", json.dumps(arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def print_header(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """Machine, versions and the table's columns."""
    print(f"processor {result['processor']}; device {result['device']}")
    print(
        f"torch {result['torch']}, Python {platform.python_version()}, {platform.system()}; "
        f"{result['threads']} threads, best of {options.repeats}; "
        f"AMX or a GPU with bfloat16: {'yes' if result['has_fast_bfloat16'] else 'no'}"
    )
    print(
        f"points at a time: plain {options.plain_chunk}, folded at most {options.chunk} "
        f"(the network takes fewer on CPUs)"
    )
    print(
        "speed: against plain float32, in time passed and in CPU time of all threads (on a machine "
        "that is busy otherwise only the latter, with --threads 1, can be compared)"
    )
    print("peak: resident memory of the process at most; base: before decoding\n")
    print(
        f"{'grid':>6}  {'path':<14} {'precision':<9} {'seconds':>9} {'speed':>9}"
        f" {'CPU s':>9} {'speed':>9}"
        f" {'peak MB':>9} {'base MB':>9} {'GPU MB':>9}"
    )


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def processor_name() -> str:
    """Model of the CPU, where the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure(
    device: str,
    threads: int,
    repeats: int,
    chunk: int,
    size: int,
    path: str,
    precision: str,
    fraction: float,
) -> dict[str, Any]:
    """Time and peak memory of one configuration in this process.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; 0 for torch's choice.
        repeats: Timed runs, of which the best is taken.
        chunk: Points at a time.
        size: Voxels per edge.
        path: ``plain``, ``folded`` or ``coarse to fine``.
        precision: ``float32`` or ``bfloat16``.
        fraction: Share of the points that the plain path decodes; its time is scaled up.
    """
    import torch
    from monai.data import MetaTensor

    from spider_bundle.demo import write_demo_pair
    from spider_bundle.geometry import Grid
    from spider_bundle.inferers import VolumeInferer
    from spider_bundle.precision import autocast, has_fast_bfloat16
    from spider_bundle.reconstructor import Reconstructor

    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        write_demo_pair(folder)
        reconstructor = Reconstructor.from_config(device=torch.device(device))
        read = reconstructor.read(folder)["image"]
    network = reconstructor.network
    axes = Grid.centred(EXTENT / size, size).axes()
    x, y, z = (torch.from_numpy(axis).float().to(device) for axis in axes)
    projection = torch.as_tensor(read.meta["projection"])[None]
    image = read.as_tensor()[None].to(device)
    inferer = VolumeInferer(EXTENT / size, size, chunk, precision, exact=False)
    pair = MetaTensor(image, meta={"projection": projection})

    def folded() -> torch.Tensor:
        return network.decode_grid(maps, projection, x, y, z, chunk)

    def coarse_to_fine() -> torch.Tensor:
        return inferer(pair, network)

    def plain() -> torch.Tensor:
        # fill_ makes the whole result resident also when only a part is decoded
        out = torch.empty(size**3, network.num_classes + 1, device=device).fill_(0.0)
        for start in range(0, round(fraction * size**3), chunk):
            index = torch.arange(start, min(start + chunk, size**3), device=device)
            ix, iy, iz = index // size**2, index // size % size, index % size
            points = torch.stack([x[ix], y[iy], z[iz]], dim=1)
            out[index] = network.decode(maps, projection, points[None])[0].float()
        return out

    def seconds() -> tuple[float, float]:
        start, cpu_start = time.perf_counter(), time.process_time()
        _ = {"plain": plain, "folded": folded, "coarse to fine": coarse_to_fine}[path]()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, time.process_time() - cpu_start

    with torch.inference_mode(), autocast(device, precision):
        maps = network.encode(image)
        base_mb = peak_rss_mb()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        runs = [seconds() for _ in range(repeats)]
    share = fraction if path == "plain" else 1.0
    return {
        "seconds": min(run[0] for run in runs) / share,
        "cpu_seconds": min(run[1] for run in runs) / share,
        "peak_mb": peak_rss_mb(),
        "base_mb": base_mb,
        "device_mb": torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "has_fast_bfloat16": has_fast_bfloat16(device),
    }


if __name__ == "__main__":
    main()
