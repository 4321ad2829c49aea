"""A batch on a Ray cluster of two nodes on this machine: the same results, whatever is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from spider_bundle.batch.cluster import Cluster, ClusterOptions, _Actor, _facts
from spider_bundle.batch.finder import StudyFinder
from spider_bundle.batch.job import Job
from spider_bundle.batch.options import BatchOptions
from spider_bundle.batch.outcome import Outcome
from spider_bundle.batch.pool import WorkerPool
from spider_bundle.batch.records import Manifest
from spider_bundle.batch.runner import run_batch
from spider_bundle.batch.worker import WorkerSettings
from spider_bundle.demo import write_demo_pair
from spider_bundle.errors import SpiderError
from spider_bundle.files import file_sha256
from spider_bundle.networks import SPIDER
from tests.batch.conftest import TINY, strays
from tests.batch.lossy import SEEN, Lossy, seen
from tests.batch.pipelines import RESULT, StandIn
from tests.batch.test_pool import is_alive
from tests.batch.test_runner import behave, key_of, states, wait_for
from tests.tiny import TINY_NETWORK, UNTRAINED

Spool = Callable[..., Path]
SIZE = {"object_store_memory": 80 << 20, "include_dashboard": False, "node_ip_address": "127.0.0.1"}


pytestmark = pytest.mark.skipif(
    not os.environ.get("SPIDER_CLUSTER_TESTS"),
    reason="set SPIDER_CLUSTER_TESTS=1 and run them alone: Ray starts a dozen processes",
)


@pytest.fixture(scope="module")
def cluster(bundle_root: Path) -> Iterator[Any]:
    """Two nodes with one core each; every port is on the loopback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else loopback is not enough
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("PYTHONPATH", str(bundle_root))
        pytest.importorskip("ray", reason="needs the extra cluster")
        from ray.cluster_utils import Cluster

        folder = tempfile.mkdtemp(prefix="ray-")  # short, for the names of its sockets
        # the address of the cluster is kept in the usual folder, which may not exist yet
        Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
        nodes = Cluster(initialize_head=True, head_node_args={"temp_dir": folder, **SIZE})
        nodes.add_node(**SIZE)
        yield nodes
        nodes.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def batch(cluster: Any, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a batch on the cluster."""
    (tmp_path / SEEN).mkdir()

    def run(source: Path, **options: Any) -> Outcome:
        place = ClusterOptions(cluster.address)
        given = {"cluster": place, "jobs": 2, "pipeline": Lossy, "device": "cpu", **options}
        return run_batch(BatchOptions(source, tmp_path / "out", **given))

    return run


def test_lost_actor_is_made_good_and_a_hang_is_not(
    spool: Spool, tmp_path: Path, batch: Callable[..., Outcome]
) -> None:
    source, output = spool(5), tmp_path / "out"
    behave(tmp_path, s0="lose", s1="hang")
    outcome = batch(source, jobs=1, time_limit=8.0)
    wanted = {key_of(f"s{number}"): ("done", list[str]()) for number in (0, 2, 3, 4)}
    assert states(output) == {**wanted, key_of("s1"): ("failed", ["R05"])}
    assert (outcome.done, outcome.failed, outcome.exit_code) == (4, 1, 1)
    for name in ("s0", "s2", "s3", "s4"):
        result = (output / key_of(name) / RESULT).read_text()
        assert result == file_sha256(source / name / "frontal.dcm")
    assert strays(output) == []
    assert len(seen(tmp_path, key_of("s0"))) == 2
    # nothing that hung or was lost is left behind
    for _, actor in seen(tmp_path):
        wait_for(lambda process=actor: not is_alive(process), 20.0)


def test_results_are_those_of_one_machine(tmp_path: Path, batch: Callable[..., Outcome]) -> None:
    for name in ("s0", "s1"):
        write_demo_pair(tmp_path / "in" / name, name=name, shape=(160, 160), pitch=1.8)
    torch.manual_seed(0)
    network = SPIDER(**{name.split("::")[1]: value for name, value in TINY_NETWORK.items()})
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "tiny.json").write_text(json.dumps(TINY_NETWORK | UNTRAINED))
    options: dict[str, Any] = {
        "weights": tmp_path / "weights.pt",
        "config_files": [tmp_path / "tiny.json"],
        "spacing": 8.0,
        "shape": 32,
        "precision": "float32",
        "device": "cpu",
    }
    alone = run_batch(BatchOptions(tmp_path / "in", tmp_path / "alone", **options))
    assert alone.done == 2
    assert batch(tmp_path / "in", jobs=1, pipeline=None, **options).done == 2
    here, there = Manifest(tmp_path / "alone").entries, Manifest(tmp_path / "out").entries
    assert set(here) == set(there) == {key_of("s0"), key_of("s1")}
    for key, entry in here.items():
        other = there[key]
        assert (entry.state, entry.fingerprint, entry.codes) == (
            other.state,
            other.fingerprint,
            other.codes,
        )
        for file in ("ct.nii.gz", "label.nii.gz"):
            ours, theirs = (nibabel.load(tmp_path / o / key / file) for o in ("alone", "out"))
            np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
            np.testing.assert_array_equal(ours.affine, theirs.affine)


@pytest.mark.slow
def test_batch_survives_a_node(
    spool: Spool, tmp_path: Path, cluster: Any, batch: Callable[..., Outcome]
) -> None:
    """The worker that is to replace the lost one finds no room; the other one does the rest."""
    source, output = spool(8), tmp_path / "out"
    behave(tmp_path, seconds=0.5)
    extra = next(iter(cluster.worker_nodes))
    raylet = extra.all_processes["raylet"][0].process.pid

    def remove() -> None:
        while raylet not in {node for node, _ in seen(tmp_path)}:
            time.sleep(0.05)
        cluster.remove_node(extra, allow_graceful=False)

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    outcome = batch(source)
    thread.join()
    assert (outcome.done, outcome.failed, outcome.exit_code) == (8, 0, 0)
    assert [state for state, _ in states(output).values()] == ["done"] * 8
    assert len(seen(tmp_path)) > 8
    assert strays(output) == []
    cluster.add_node(**SIZE)


def settings(tmp_path: Path, **values: Any) -> WorkerSettings:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")
    config = {"output_dir": str(tmp_path / "out"), "weights": str(weights), **values}
    return WorkerSettings(config=config, pipeline=StandIn)


def job(tmp_path: Path) -> Job:
    """A study whose two files are not there."""
    write_demo_pair(tmp_path / "s0", name="s0", **TINY)
    found = StudyFinder(tmp_path / "s0", tmp_path, "key").find()
    shutil.rmtree(tmp_path / "s0")
    return found.jobs[0]


def codes(pool: WorkerPool, job: Job) -> list[Any]:
    """Codes of a study when it has ended."""
    pool.submit(job)
    for _ in range(1000):
        if done := pool.poll():
            return [facts["code"] for facts in done.findings]
    pytest.fail("it never ended")


def test_unreachable_cluster_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra cluster")
    with socket.socket() as bound:  # but nobody listens
        bound.bind(("127.0.0.1", 0))
        cluster = ClusterOptions(f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(SpiderError, match="R10 the cluster cannot be reached"):
            Cluster(settings(tmp_path), cluster, "cpu").new_worker().start()


def test_a_mute_cluster_is_not_waited_for(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra cluster")
    # in a process of its own: what Ray began to wait for goes on in the background
    script = """
import sys
from spider_bundle.batch.runner import BatchOptions, run_batch
from spider_bundle.batch.cluster import ClusterOptions
cluster = ClusterOptions(sys.argv[3], start_seconds=2)
try:
    run_batch(BatchOptions(sys.argv[1], sys.argv[2], cluster=cluster, device="cpu"))
except Exception as error:
    print(error)
"""
    write_demo_pair(tmp_path / "in", name="s0", **TINY)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        arguments = [str(tmp_path / "in"), str(tmp_path / "out"), address]
        path = tmp_path / "run.py"
        path.write_text(f"if __name__ == '__main__':\n{textwrap.indent(script, '    ')}")
        command = [sys.executable, str(path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.startswith("R10 no worker could start within 2 s"), done.stderr


def test_cluster_without_room_is_told(tmp_path: Path, cluster: Any) -> None:
    options = ClusterOptions(cluster.address, cpus=99, start_seconds=1.0)
    engine = Cluster(settings(tmp_path), options, "cpu")
    pool = WorkerPool(engine.new_worker, 1, 600.0, options.start_seconds, engine.late)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SpiderError, match="R10 no worker could start within 1 s"):
        codes(pool, job(tmp_path))
    # Ray's own handler would end the runner at the first SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler
    pool.close()
    engine.close()


def test_node_looks_at_itself_before_it_works(tmp_path: Path) -> None:
    told, locks = settings(tmp_path), tmp_path / "out" / ".locks"
    locks.mkdir(parents=True)
    token = locks / "cluster"
    facts = _facts(told)

    def answer(told: WorkerSettings, facts: dict[str, str]) -> str:
        message = _Actor().start(told, "this run", facts)
        return str(message).partition(". To do")[0] if isinstance(message, SpiderError) else ""

    assert answer(told, facts).startswith("R09 a node cannot write to the output folder")
    token.write_text("another run")
    assert answer(told, facts).startswith("R09")
    token.write_text("this run")
    assert answer(told, {**facts, "torch": "0.1"}) == "R11 a node has not the same: torch"
    (tmp_path / "weights.pt").write_bytes(b"other weights")
    assert answer(told, facts) == "R11 a node has not the same: the weights"
    (tmp_path / "weights.pt").unlink()
    assert answer(told, facts) == "R11 a node has not the same: the weights"
    assert [path.name for path in locks.iterdir()] == [token.name]


def test_node_without_the_input_ends_the_batch_but_a_vanished_study_does_not(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor sees no study; this machine sees it the first time only."""
    engine = Cluster(settings(tmp_path), ClusterOptions(cluster.address), "cpu")
    pool, study = WorkerPool(engine.new_worker, 1, 600.0), job(tmp_path)
    monkeypatch.setattr("spider_bundle.batch.cluster._is_there", lambda path: path.exists())
    assert codes(pool, study) == ["R07"]
    monkeypatch.setattr("spider_bundle.batch.cluster._is_there", lambda path: True)
    with pytest.raises(SpiderError, match="R09 a node does not see the files"):
        codes(pool, study)
    pool.close()
    engine.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "auto"},
        {"address": "ray://head:10001"},
        {"address": "head:6379", "cpus": 0},
        {"address": "head:6379", "gpus": -1.0},
        {"address": "head:6379", "gpus": 1.5},
    ],
)
def test_options_that_cannot_be_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|must|greater than 0"):
        ClusterOptions(**wrong)
