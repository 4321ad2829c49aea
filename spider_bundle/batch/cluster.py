"""Workers on several machines: actors of a Ray cluster, each with a worker process of its own.

Ray (https://docs.ray.io) places the actors on nodes with room and tells when one is lost. An actor
runs the same worker process as a batch on one machine and passes on what it says, so a study that
crashes or hangs is told from a machine that is gone. All nodes share the file systems of the input
and the output folder; each checks that before it takes a study.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from spider_bundle import __version__
from spider_bundle.batch.codes import BatchCode, BatchError, batch_facts
from spider_bundle.batch.crew import LocalWorker, Worker, WorkerLostError
from spider_bundle.batch.job import Job
from spider_bundle.batch.manifest import State
from spider_bundle.batch.worker import Ended, Message, WorkerSettings
from spider_bundle.bundle import bundle_root
from spider_bundle.files import file_sha256
from spider_bundle.outputs.optional_dependencies import require_extra

_REACH_SECONDS = 10.0
_JOIN_SECONDS = 180.0
_LISTEN_SECONDS = 0.5
_SILENCE_SECONDS = 120.0
"""An actor answers every half second; one that does not for so long is as good as dead."""
_END_SECONDS = 10.0
_LOCKS = ".locks"
_TOKEN = "cluster-"
_ABSENT = "absent"


@dataclass(frozen=True)
class ClusterOptions:
    """The cluster that a batch runs on.

    Attributes:
        address: ``HOST:PORT`` of the head node.
        cpus: CPU cores that a worker asks for; its network uses as many threads.
        gpus: GPUs, or the fraction of one, that a worker asks for if the device is a GPU.
        losses: How often a study that is lost with its machine while it is alone in a worker is
            taken again.
        start_seconds: Seconds without any worker ready after which the batch gives up.

    Raises:
        ValueError: A value is not possible.
    """

    address: str
    cpus: float = 1.0
    gpus: float = 1.0
    losses: int = 2
    start_seconds: float = 600.0

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise ValueError("the address of the cluster must be HOST:PORT")
        for name in ("cpus", "gpus", "start_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive")
        if any(amount > 1 and amount % 1 for amount in (self.cpus, self.gpus)):
            raise ValueError("more than one CPU or GPU must be a whole number")
        if self.losses < 0:
            raise ValueError("losses must not be negative")


@dataclass(frozen=True)
class _Terms:
    """What a node must fulfil to work for a batch.

    Attributes:
        token: A file in the output folder, with its own name in it.
        facts: See :func:`_facts`.
    """

    token: Path = field(repr=False)
    facts: Mapping[str, str]


@dataclass(frozen=True)
class _Report:
    """What has happened in an actor since its last report.

    Attributes:
        messages: What the worker process has said.
        unseen: Keys of studies whose files the node does not see.
        is_dead: Whether the worker process is.
        error: Why the node can do no study at all.
    """

    messages: Sequence[Message] = ()
    unseen: Sequence[str] = ()
    is_dead: bool = False
    error: BatchError | None = None


class _Actor:
    """Runs on a node: a worker process and what it says; the methods are called one by one."""

    def __init__(self) -> None:
        self._worker: LocalWorker | None = None
        self._unseen: list[str] = []

    def start(self, settings: WorkerSettings, terms: _Terms) -> _Report:
        """Look at the node, and start the worker process if it is fit."""
        error = _misfit(settings, terms)
        if error is None:
            self._worker = LocalWorker(settings)
        return _Report(error=error)

    def hand(self, job: Job, is_seen: bool = False) -> None:
        """Pass a study on if its files are there, or should be."""
        if is_seen or all(map(_is_there, job.files)):
            if self._worker is not None:
                self._worker.hand(job)
        else:
            self._unseen.append(job.study_key)

    def listen(self) -> _Report:
        """Wait until the worker process has said something, but not long."""
        if self._worker is None:
            return _Report(is_dead=True)
        unseen, self._unseen = self._unseen, []
        messages: list[Message] = []
        wait([self._worker.connection], timeout=0 if unseen else _LISTEN_SECONDS)
        try:
            messages.extend(self._worker.messages())
        except EOFError:
            return _Report(messages, unseen, is_dead=True)
        return _Report(messages, unseen)

    def end(self, at_once: bool) -> None:
        """End the worker process."""
        if self._worker is not None:
            self._worker.kill() if at_once else self._worker.close()
            self._worker = None


class ClusterWorker:
    """An actor, as the runner sees it.

    Args:
        actor: Handle of an :class:`_Actor`, which need not have a place yet.
        settings: See :class:`WorkerSettings`.
        terms: What its node must fulfil.
    """

    def __init__(self, actor: Any, settings: WorkerSettings, terms: _Terms) -> None:
        self._actor = actor
        self._jobs: dict[str, Job] = {}
        self._is_placed = False
        self._asked = time.monotonic()
        self.report = actor.start.remote(settings, terms)

    def hand(self, job: Job) -> None:
        """Give the worker another study; whether it still lives shows later."""
        job = replace(
            job,
            frontal=job.frontal.absolute(),
            lateral=job.lateral.absolute(),
            files=[path.absolute() for path in job.files],
        )
        self._jobs[job.study_key] = job
        self._actor.hand.remote(job)

    def messages(self) -> Iterator[Message]:
        """What the worker has said since the last call.

        Raises:
            EOFError: The worker process is dead and has nothing more to say.
            WorkerLostError: The actor is gone, or cannot be reached.
            BatchError: R09 or R11, its node cannot work for this batch.
        """
        import ray

        if not ray.wait([self.report], timeout=0)[0]:
            if self._is_placed and time.monotonic() - self._asked > _SILENCE_SECONDS:
                raise WorkerLostError
            return
        try:
            report: _Report = ray.get(self.report)
        except ray.exceptions.RayTaskError as error:
            if self._is_placed:
                raise WorkerLostError from None
            reason = f"a node cannot run this software ({type(error.cause).__name__})"
            raise BatchError(BatchCode.R11, reason) from None
        except ray.exceptions.RayError:
            raise WorkerLostError from None
        if report.error is not None:
            raise report.error
        self._is_placed, self._asked = True, time.monotonic()
        self.report = self._actor.listen.remote()
        for message in report.messages:
            if isinstance(message, Ended):
                self._jobs.pop(message.study_key, None)
            yield message
        for study_key in report.unseen:
            yield self._judge_unseen(self._jobs.pop(study_key))
        if report.is_dead:
            raise EOFError

    def kill(self) -> None:
        """End the worker whatever it does."""
        self._end(at_once=True)

    def close(self) -> None:
        """Let the worker end; it must have no study."""
        self._end(at_once=False)

    def _end(self, at_once: bool) -> None:
        import ray

        with suppress(ray.exceptions.RayError):
            if self._is_placed:  # a worker process that hangs would outlive its actor
                ray.wait([self._actor.end.remote(at_once)], timeout=_END_SECONDS)
            ray.kill(self._actor)

    def _judge_unseen(self, job: Job) -> Ended:
        """Tell a study that has vanished from a node that does not see it."""
        if all(map(_is_there, job.files)):
            raise BatchError(BatchCode.R09, "a node does not see the files of the input folder")
        facts = batch_facts(BatchCode.R07, "read: the files have vanished")
        return Ended(job.study_key, State.FAILED, [facts], {})


class ClusterWorkplace:
    """A Ray cluster; connected to when the first worker is wanted.

    Args:
        settings: For every worker.
        options: The cluster.
        device: Device of the network; workers ask for a GPU if it is one.

    Attributes:
        losses: See :class:`ClusterOptions`.

    Raises:
        MissingExtraError: R03, Ray is not installed.
    """

    def __init__(self, settings: WorkerSettings, options: ClusterOptions, device: str) -> None:
        require_extra("cluster")
        self.losses = options.losses
        self._options = options
        self._gpus = 0.0 if device.partition(":")[0] == "cpu" else options.gpus
        weights = str(Path(settings.config["weights"]).absolute())
        self._settings = replace(
            settings,
            config={**settings.config, "weights": weights},
            root=str(bundle_root(settings.root).absolute()) if settings.root else None,
            threads=max(1, int(options.cpus)),
        )
        self._terms: _Terms | None = None
        self._is_ours = False

    def recruit(self) -> ClusterWorker:
        """Ask Ray for another actor.

        Raises:
            BatchError: R10, the cluster cannot be reached.
            OSError: The output folder cannot be written to.
        """
        import ray

        if self._terms is None:
            self._connect()
            folder = Path(self._settings.config["output_dir"]) / _LOCKS
            self._terms = _Terms(_write_token(folder), _facts(self._settings))
        actor = (
            ray.remote(_Actor)
            .options(
                num_cpus=self._options.cpus,
                num_gpus=self._gpus,
                max_restarts=0,
                scheduling_strategy="SPREAD",
            )
            .remote()
        )
        return ClusterWorker(actor, self._settings, self._terms)

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Wait until a worker has said something, but not longer."""
        import ray

        reports = [worker.report for worker in workers if isinstance(worker, ClusterWorker)]
        ray.wait(reports, num_returns=1, timeout=seconds)

    def check_start(self, seconds: float) -> None:
        """Judge for how long workers have been starting and none has been ready.

        Raises:
            BatchError: R10, too long.
        """
        if seconds > self._options.start_seconds:
            limit = self._options.start_seconds
            raise BatchError(BatchCode.R10, f"no worker could start within {limit:g} s")

    def close(self) -> None:
        """Leave the cluster; what the caller connected stays connected."""
        import ray

        if self._terms is not None:
            self._terms.token.unlink(missing_ok=True)
            self._terms = None
        if self._is_ours:
            self._is_ours = False
            ray.shutdown()

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        address = self._options.address
        host, _, port = address.rpartition(":")
        try:
            # Ray itself would try for minutes if nobody answers there
            socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
            _join(address)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = f"the cluster cannot be reached ({type(error).__name__})"
            raise BatchError(BatchCode.R10, reason) from None
        self._is_ours = True


def _join(address: str) -> None:
    """Connect this process to a cluster.

    ``ray.init`` can wait without end for a cluster that accepts connections and says nothing. In a
    thread of its own it can be left behind, and does not take over the runner's signals.

    Raises:
        TimeoutError: It took too long.
    """
    import ray

    failures: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except BaseException as error:  # it is raised where the caller waits
            failures.append(error)

    # that it sets no handlers of signals there is what is wanted, and no news for an operator
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
    """A file by which a node shows that it sees this output folder and no other.

    Those of killed runs are removed; this run has the output folder to itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{_TOKEN}*"):
        old.unlink(missing_ok=True)
    name = f"{_TOKEN}{secrets.token_hex(8)}"
    (folder / name).write_text(name, encoding="ascii")
    return folder / name


def _facts(settings: WorkerSettings) -> dict[str, str]:
    """What results depend on beside the study, as it is on this machine: versions and hashes."""
    files = {"the weights": settings.config["weights"]}
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


def _misfit(settings: WorkerSettings, terms: _Terms) -> BatchError | None:
    """Why this node cannot work for a batch, if so."""
    try:
        is_shared = _is_there(terms.token) and terms.token.read_text("ascii") == terms.token.name
        probe = terms.token.with_name(f"{terms.token.name}-{secrets.token_hex(8)}")
        if is_shared:
            probe.touch()
            probe.unlink()
    except (OSError, UnicodeError):
        is_shared = False
    if not is_shared:
        return BatchError(BatchCode.R09, "a node cannot write to the output folder of this run")
    here = _facts(settings)
    other = [name for name, value in terms.facts.items() if here.get(name, _ABSENT) != value]
    if other:
        return BatchError(BatchCode.R11, f"a node has not the same: {', '.join(other)}")
    return None


def _is_there(path: Path) -> bool:
    """Whether a file is there; a network file system is made to look again, not to remember."""
    with suppress(OSError):
        for _ in path.parent.iterdir():
            break
    return path.is_file()
