"""Workers on several machines: actors of a Ray cluster, each with one study at a time.

Ray (https://docs.ray.io) places the actors on nodes with room and reports lost ones. All nodes
share the file systems of the input and the output folder; an actor checks that and its software
before it takes a study.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from spider_bundle import __version__
from spider_bundle.batch.job import Job
from spider_bundle.batch.pool import Worker
from spider_bundle.batch.records import State
from spider_bundle.batch.sandbox import silence_process
from spider_bundle.batch.worker import (
    Message,
    Pipeline,
    StudyDone,
    WorkerSettings,
    load_pipeline,
    run_study,
)
from spider_bundle.bundle import bundle_root
from spider_bundle.errors import Code, SpiderError, finding
from spider_bundle.files import file_sha256
from spider_bundle.outputs.optional_dependencies import require_extra

_REACH_SECONDS = 10.0
_JOIN_SECONDS = 180.0
_LOCKS = ".locks"
_TOKEN = "cluster-"
_ABSENT = "absent"


@dataclass(frozen=True, config=ConfigDict(extra="forbid", hide_input_in_errors=True))
class ClusterOptions:
    """The cluster of a batch.

    Attributes:
        address: ``HOST:PORT`` of the head node.
        cpus: CPU cores of a worker; its network uses as many threads.
        gpus: GPUs, or the fraction of one, of a worker if the device is a GPU.
        start_seconds: Time without any worker ready after which the batch gives up, seconds.

    Raises:
        ValueError: A value is not possible.
    """

    address: str
    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=1.0, gt=0)
    start_seconds: float = Field(default=600.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        host, _, port = self.address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise ValueError("the address of the cluster must be HOST:PORT")
        if any(amount > 1 and amount % 1 for amount in (self.cpus, self.gpus)):
            raise ValueError("more than one CPU or GPU must be a whole number")
        return self


class _Actor:
    """The worker on a node; its methods are called one by one."""

    _pipeline: Pipeline | None = None

    def start(
        self, settings: WorkerSettings, token: Path, facts: Mapping[str, str]
    ) -> Message | SpiderError:
        """Load the network if the node is fit."""
        silence_process()
        if error := _unfit(settings, token, facts):
            return error
        message, self._pipeline = load_pipeline(settings)
        return message

    def run(self, job: Job) -> StudyDone | None:
        """Return how a study ended, or None if the node does not see its files."""
        if not all(map(_is_there, job.paths)):
            return None
        assert self._pipeline is not None
        return run_study(self._pipeline, job)


class ClusterWorker:
    """An actor as the pool sees it.

    Args:
        actor: Handle of an :class:`_Actor`, which need not be placed yet.
        start: Reference to the answer of its start.

    Attributes:
        answer: Reference to the answer that is waited for.
    """

    def __init__(self, actor: Any, start: Any) -> None:
        self._actor = actor
        self._job: Job | None = None
        self.answer: Any = start

    def submit(self, job: Job) -> None:
        """Send a study to an idle worker."""
        self._job = job
        self.answer = self._actor.run.remote(job)

    def receive(self) -> Message | None:
        """Return the next message, or None if there is none yet.

        Raises:
            EOFError: The actor is dead or cannot be reached.
            SpiderError: R09 or R11, its node cannot work for this batch.
        """
        import ray

        if self.answer is None or not ray.wait([self.answer], timeout=0)[0]:
            return None
        try:
            answer: Message | SpiderError | None = ray.get(self.answer)
        except ray.exceptions.RayTaskError as error:
            if self._job is not None:
                raise EOFError from None
            reason = f"a node cannot run this software ({type(error.cause).__name__})"
            raise SpiderError(Code.NODE_DIFFERS, reason) from None
        except ray.exceptions.RayError:
            raise EOFError from None
        self.answer = None
        if isinstance(answer, SpiderError):
            raise answer
        return answer or self._unseen()

    def kill(self) -> None:
        """End the worker at once."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.kill(self._actor)

    def _unseen(self) -> StudyDone:
        """Return the end of a study whose files have vanished, unless only the node lacks them."""
        assert self._job is not None
        if all(map(_is_there, self._job.paths)):
            raise SpiderError(
                Code.NODE_LACKS_FOLDERS, "a node does not see the files of the input folder"
            )
        facts = finding(Code.STUDY_FAILED, "batch", "read: the files have vanished").facts()
        return StudyDone(self._job.study_key, State.FAILED, [facts], {})


class ClusterBackend:
    """A Ray cluster; connected to when the first worker starts.

    Args:
        settings: Settings of every worker.
        options: The cluster.
        device: Device of the network; workers ask for a GPU if it is one.

    Raises:
        SpiderError: R03, Ray is not installed.
    """

    def __init__(self, settings: WorkerSettings, options: ClusterOptions, device: str) -> None:
        require_extra("cluster")
        self.start_seconds = options.start_seconds
        reason = f"no worker could start within {self.start_seconds:g} s"
        self.late = SpiderError(Code.CLUSTER_UNAVAILABLE, reason)
        self._options = options
        self._gpus = 0.0 if device.partition(":")[0] == "cpu" else options.gpus
        weights = str(Path(settings.config["weights"]).absolute())
        self._settings = replace(
            settings,
            config={**settings.config, "weights": weights},
            root=str(bundle_root(settings.root).absolute()) if settings.root else None,
            threads=max(1, int(options.cpus)),
        )
        self._token: Path | None = None
        self._facts: Mapping[str, str] = {}
        self._is_ours = False

    def start_worker(self) -> ClusterWorker:
        """Ask Ray for another actor.

        Raises:
            SpiderError: R10, the cluster cannot be reached.
            OSError: The output folder cannot be written to.
        """
        import ray

        if self._token is None:
            self._is_ours = _connect(self._options.address)
            self._token = _write_token(Path(self._settings.config["output_dir"]) / _LOCKS)
            self._facts = _facts(self._settings)
        options = {"num_cpus": self._options.cpus, "num_gpus": self._gpus, "max_restarts": 0}
        actor = ray.remote(_Actor).options(scheduling_strategy="SPREAD", **options).remote()
        return ClusterWorker(actor, actor.start.remote(self._settings, self._token, self._facts))

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Wait until a worker has a message, for a limited time."""
        import ray

        answers = [w.answer for w in workers if isinstance(w, ClusterWorker) and w.answer]
        if answers:
            ray.wait(answers, num_returns=1, timeout=seconds)
        else:
            time.sleep(seconds)

    def close(self) -> None:
        """Leave the cluster, unless the caller had joined it before."""
        import ray

        if self._token is not None:
            self._token.unlink(missing_ok=True)
            self._token = None
        if self._is_ours:
            self._is_ours = False
            ray.shutdown()


def _connect(address: str) -> bool:
    """Join a cluster; return whether this process had not joined one before.

    Raises:
        SpiderError: R10.
    """
    import ray

    if ray.is_initialized():
        return False
    host, _, port = address.rpartition(":")
    try:
        # Ray itself would try for minutes if nobody answers there
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
        _join(address)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = f"the cluster cannot be reached ({type(error).__name__})"
        raise SpiderError(Code.CLUSTER_UNAVAILABLE, reason) from None
    return True


def _join(address: str) -> None:
    """Connect this process to a cluster.

    ``ray.init`` can wait without end for a cluster that accepts connections and does not answer.
    In a thread it can be left behind, and does not replace the runner's signal handlers.

    Raises:
        TimeoutError: It took too long.
    """
    import ray

    failures: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except BaseException as error:  # raised where the caller waits
            failures.append(error)

    # it warns that it sets no signal handlers there, which is what is wanted
    log = logging.getLogger("ray._private.worker")
    level = log.level
    log.setLevel(logging.ERROR)
    thread = threading.Thread(target=join, name="join Ray", daemon=True)
    thread.start()
    thread.join(_JOIN_SECONDS)
    log.setLevel(level)
    if thread.is_alive():
        raise TimeoutError(f"no connection within {_JOIN_SECONDS:g} s")
    if failures:
        raise failures[0]


def _write_token(folder: Path) -> Path:
    """Write a file by which a node recognises this output folder; it holds its own name.

    Those of killed runs are removed; this run holds the lock of the output folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{_TOKEN}*"):
        old.unlink(missing_ok=True)
    name = f"{_TOKEN}{secrets.token_hex(8)}"
    (folder / name).write_text(name, encoding="ascii")
    return folder / name


def _facts(settings: WorkerSettings) -> dict[str, str]:
    """Return versions and hashes on this machine that the results depend on."""
    weights = settings.config["weights"]
    files = {"the weights": weights, "their model.json": Path(weights).with_suffix(".json")}
    with suppress(FileNotFoundError):
        root = bundle_root(settings.root)
        files["configs/inference.json"] = root / "configs" / "inference.json"
    files |= {f"config file {n}": path for n, path in enumerate(settings.config_files, 1)}
    facts = {"spider-bundle": __version__, "torch": version("torch")}
    for name, path in files.items():
        try:
            facts[name] = file_sha256(Path(path))
        except OSError:
            facts[name] = _ABSENT
    return facts


def _unfit(settings: WorkerSettings, token: Path, facts: Mapping[str, str]) -> SpiderError | None:
    """Return why this node cannot work for a batch, if so (R09, R11)."""
    is_shared = False
    with suppress(OSError, UnicodeError):
        if _is_there(token) and token.read_text("ascii") == token.name:
            probe = token.with_name(f"{token.name}-{secrets.token_hex(8)}")
            probe.touch()
            probe.unlink()
            is_shared = True
    if not is_shared:
        return SpiderError(
            Code.NODE_LACKS_FOLDERS, "a node cannot write to the output folder of this run"
        )
    here = _facts(settings)
    other = [name for name, value in facts.items() if here.get(name, _ABSENT) != value]
    if other:
        return SpiderError(Code.NODE_DIFFERS, f"a node has not the same: {', '.join(other)}")
    return None


def _is_there(path: Path) -> bool:
    """Return whether a file exists; listing its folder refreshes a network file system."""
    with suppress(OSError):
        for _ in path.parent.iterdir():
            break
    return path.is_file()
