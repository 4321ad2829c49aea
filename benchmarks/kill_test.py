"""Kill a batch at random moments until it is done, and compare with an undisturbed run.

    python -m benchmarks.kill_test --kills 30 --studies 50 --folder kill_test

Each kill is SIGKILL, by turns of the runner alone and of the runner and its processes together. It
comes at a random moment before the first study ends (start, search, first studies), or after one or
two more have ended and a random part of the time that a study takes. At the end every study must be
done; voxels, affines, labels, surfaces and all UIDs must be those of the undisturbed run, and
nothing but the results may be left. The extras dicom and mesh must be installed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom

from spider_bundle.batch.records import MANIFEST_FILE, Manifest, State, read_lines
from spider_bundle.demo import write_demo_pair
from spider_bundle.outputs.study import is_whole
from spider_bundle.phantom import HeadPhantom


def main() -> None:
    """Run, kill, resume, compare; ends with exit code 1 if anything differs."""
    options = parse_options()
    source = options.folder / f"in_{options.studies}"
    for number in range(options.studies):
        if not (source / f"{number:03d}" / "lateral.dcm").exists():
            head = HeadPhantom.random(number % 4)
            name, folder = f"kill {number}", source / f"{number:03d}"
            write_demo_pair(folder, head, name=name, shape=(160, 160), pitch=1.8)
    undisturbed, killed = options.folder / "undisturbed", options.folder / "killed"
    for folder in (undisturbed, killed):
        shutil.rmtree(folder, ignore_errors=True)
    begin = time.monotonic()
    first = run(options, source, undisturbed)
    wait_for_studies(first, undisturbed / MANIFEST_FILE, 1)
    start_seconds = time.monotonic() - begin
    if first.wait():
        raise SystemExit("the undisturbed run failed")
    events = read_lines(undisturbed / "audit" / "run-000001.jsonl")[0]
    ended = [event["elapsed_s"] for event in events if event["event"] == "study"]
    study_seconds = (ended[-1] - ended[0]) / max(len(ended) - 1, 1)
    moments = random.Random(options.seed)
    hits = 0
    for number in range(options.kills):
        process = run(options, source, killed)
        # on average one study is done between two kills, so the studies outlast the kills
        studies = moments.choice((0, 0, 1, 1, 2))
        wait_for_studies(process, killed / MANIFEST_FILE, studies)
        time.sleep(moments.uniform(0, study_seconds if studies else start_seconds))
        if process.poll() is None:
            hits += 1
            if number % 2:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if run(options, source, killed).wait():
        raise SystemExit("the resumed run failed")
    faults = compare(undisturbed, killed, options.studies)
    twice = Counter(r["study_key"] for r in read_lines(killed / MANIFEST_FILE)[0])
    print(
        f"{options.studies} studies, {hits} of {options.kills} kills while the batch ran; "
        f"{sum(n > 1 for n in twice.values())} studies done more than once; {len(faults)} faults; "
        f"{time.monotonic() - begin:.0f} s"
    )
    for fault in faults:
        print(fault)
    if faults or hits < options.kills:
        raise SystemExit(1)


def parse_options() -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("kill_test"), help="work folder")
    parser.add_argument("--studies", type=int, default=50, help="how many")
    parser.add_argument("--kills", type=int, default=30, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--shape", type=int, default=32, help="voxels along each axis")
    parser.add_argument("--spacing", type=float, default=8.0, help="voxel size, mm")
    return parser.parse_args()


def run(options: argparse.Namespace, source: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start the batch in a process group of its own."""
    size = ["--shape", str(options.shape), "--spacing", str(options.spacing)]
    command = [sys.executable, "-m", "spider_bundle.cli", "batch", str(source), str(output), *size]
    command += ["--dicom", "--mesh"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def wait_for_studies(process: subprocess.Popen[bytes], manifest: Path, studies: int) -> None:
    """Wait until a run has added so many lines to the manifest, or has ended."""
    wanted = len(read_lines(manifest)[0]) + studies
    while process.poll() is None and len(read_lines(manifest)[0]) < wanted:
        time.sleep(0.02)


def compare(undisturbed: Path, killed: Path, studies: int) -> list[str]:
    """Return what is not as it should be."""
    faults = []
    entries = Manifest(killed).entries
    wanted = Manifest(undisturbed).entries
    if len(entries) != studies or set(entries) != set(wanted):
        faults.append(f"{len(entries)} of {studies} studies in the manifest")
    for key, entry in entries.items():
        expected = wanted.get(key)
        if expected is None or (entry.state, entry.fingerprint) != (
            State.DONE,
            expected.fingerprint,
        ):
            faults.append(f"{key}: {entry.state.value}")
        elif not is_whole(killed, key):
            faults.append(f"{key}: a file is not as its report says")
        else:
            faults += compare_volumes(undisturbed / key, killed / key)
            faults += compare_extras(undisturbed / key, killed / key)
    allowed = {MANIFEST_FILE, "refused.json", "audit", ".locks", *wanted}
    faults += [f"left over: {p.name}" for p in killed.iterdir() if p.name not in allowed]
    for key in wanted:
        names = [
            {str(p.relative_to(folder)) for p in (folder / key).rglob("*")}
            for folder in (undisturbed, killed)
        ]
        if names[0] != names[1]:
            faults.append(f"{key}: other files")
    return faults


def compare_volumes(wanted: Path, found: Path) -> list[str]:
    """Differences of CT and labels."""
    faults = []
    for name in ("ct.nii.gz", "label.nii.gz"):
        one, other = nibabel.load(wanted / name), nibabel.load(found / name)
        if not np.array_equal(np.asanyarray(one.dataobj), np.asanyarray(other.dataobj)):
            faults.append(f"{wanted.name}: other voxels in {name}")
        if not np.array_equal(one.affine, other.affine):
            faults.append(f"{wanted.name}: another affine in {name}")
    return faults


def compare_extras(wanted: Path, found: Path) -> list[str]:
    """Differences of DICOM objects (all UIDs and the pixels) and surfaces."""
    faults = []
    for path in sorted(wanted.rglob("*.dcm")):
        other = found / path.relative_to(wanted)
        if not other.is_file() or identity(path) != identity(other):
            faults.append(f"{wanted.name}: other UIDs or pixels in {path.name}")
    for path in sorted(wanted.rglob("*.stl")):
        other = found / path.relative_to(wanted)
        if not other.is_file() or path.read_bytes() != other.read_bytes():
            faults.append(f"{wanted.name}: another surface in {path.name}")
    return faults


def identity(path: Path) -> tuple[list[str], bytes]:
    """All UIDs of a DICOM object, in sequences too, and its pixels."""
    dataset = pydicom.dcmread(path)
    both = (*dataset.file_meta.iterall(), *dataset.iterall())
    return [f"{e.tag} {e.value}" for e in both if e.VR == "UI"], dataset.PixelData


if __name__ == "__main__":
    main()
