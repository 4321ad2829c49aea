"""What a worker takes of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import torch
from threadpoolctl import threadpool_info
from spider_bundle.batch.worker import InferencePipeline, WorkerSettings

InferencePipeline(
    WorkerSettings(
        {"output_dir": sys.argv[2]}, root=sys.argv[1], threads=int(sys.argv[3])
    )
)
blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
print(torch.get_num_threads(), *blas)
"""


def test_network_and_matrix_products_keep_to_their_threads(
    bundle_root: Path, tmp_path: Path
) -> None:
    """More threads than a worker's share spin on the cores of the others."""
    counts = {}
    for threads in ("0", "1"):
        command = [sys.executable, "-c", SCRIPT, str(bundle_root), str(tmp_path), threads]
        several = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
        ended = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **several}, check=True
        )
        counts[threads] = ended.stdout.split()
    assert counts == {"0": ["2", "2"], "1": ["1", "1"]}
