"""Workers on several machines: actors of a Ray cluster, each with one study at a time.

Ray (https://docs.ray.io) places the actors on nodes with room and reports lost ones. All nodes
share the file systems of the input and the output folder; an actor checks that and its software
before it takes a study.
"""

from __future__ import annotations

import logging
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from spider_bundle import __version__
from spider_bundle.batch.job import Job
from spider_bundle.batch.records import State
from spider_bundle.batch.sandbox import CallError, DeathError, SlowError, silence_process
from spider_bundle.batch.worker import StudyDone, WorkerSettings, load
from spider_bundle.bundle import bundle_root
from spider_bundle.errors import Code, SpiderError, finding
from spider_bundle.files import file_sha256
from spider_bundle.logs import debug
from spider_bundle.outputs.optional_dependencies import require_extra

_REACH_SECONDS = 10.0
_TOKEN = ".locks/cluster"
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

    _do: Callable[[Job], StudyDone]

    def start(
        self, settings: WorkerSettings, token: str, facts: Mapping[str, str]
    ) -> SpiderError | CallError | None:
        """Load the network; return why that cannot be, if so."""
        silence_process()
        if error := _unfit(settings, token, facts):
            return error
        try:
            self._do = load(settings)
        except SpiderError as error:
            return error
        except Exception as error:
            debug(error)
            return CallError(f"it failed unexpectedly ({type(error).__name__})")
        return None

    def call(self, job: Job) -> StudyDone | SpiderError:
        """Return how a study ended, or R09 if the node does not see its files."""
        if all(map(_is_there, job.paths)):
            return self._do(job)
        message = "a node does not see the files of the input folder"
        return SpiderError(Code.NODE_LACKS_FOLDERS, message)


class ClusterWorker:
    """An actor as the pool sees it; see :class:`~spider_bundle.batch.pool.Worker`.

    Args:
        new_actor: Returns the handle of an :class:`_Actor`, which need not be placed yet, and the
            reference to the answer of its start.
    """

    def __init__(self, new_actor: Callable[[], tuple[Any, Any]]) -> None:
        self._new_actor = new_actor
        self._actor: Any = None

    def start(self) -> None:
        """Return when the actor has a place and has loaded the network.

        Raises:
            CallError: It could not load the network, or has died.
            SpiderError: R09 or R11, its node cannot work for this batch; R10.
        """
        import ray

        self._actor, answer = self._new_actor()
        try:
            _get(answer)
        except ray.exceptions.RayTaskError as error:
            reason = f"a node cannot run this software ({type(error.cause).__name__})"
            raise SpiderError(Code.NODE_DIFFERS, reason) from None

    def call(self, job: Job, *, seconds: float) -> StudyDone:
        """Return how a study ended; one that had died before is not told from one that dies of it.

        Raises:
            DeathError: The actor died or cannot be reached.
            SlowError: It took longer.
            SpiderError: R09, the node does not see the files and this machine does.
        """
        import ray

        try:
            done: StudyDone = _get(self._actor.call.remote(job), seconds)
        except ray.exceptions.RayTaskError:
            raise DeathError("it failed") from None
        except SpiderError:
            if all(map(_is_there, job.paths)):
                raise
            facts = finding(Code.STUDY_FAILED, "batch", "read: the files have vanished").facts()
            return StudyDone(job.study_key, State.FAILED, [facts], {})
        return done

    def kill(self) -> None:
        """End the actor at once."""
        import ray

        with suppress(ray.exceptions.RayError):
            if self._actor is not None:
                ray.kill(self._actor)


def _get(answer: Any, seconds: float | None = None) -> Any:
    """Return an actor's answer; raise it if it is an error."""
    import ray

    try:
        value = ray.get(answer, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        raise SlowError("it took too long") from None
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError:
        raise DeathError("it died") from None
    if isinstance(value, Exception):
        raise value
    return value


class Cluster:
    """A Ray cluster; connected to when the first worker starts.

    Args:
        settings: Settings of every worker.
        options: The cluster.
        device: Device of the network; workers ask for a GPU if it is one.

    Attributes:
        late: What to raise if no worker could start in time.

    Raises:
        SpiderError: R03, Ray is not installed.
    """

    def __init__(self, settings: WorkerSettings, options: ClusterOptions, device: str) -> None:
        require_extra("cluster")
        reason = f"no worker could start within {options.start_seconds:g} s"
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
        self._lock = threading.Lock()
        self._told: tuple[str, Mapping[str, str]] | None = None

    def new_worker(self) -> ClusterWorker:
        """Return another worker."""
        return ClusterWorker(self._new_actor)

    def close(self) -> None:
        """Leave the cluster; all workers have ended."""
        import ray

        if self._told is not None:
            ray.shutdown()

    def _new_actor(self) -> tuple[Any, Any]:
        """Ask Ray for another actor; see :class:`ClusterWorker`.

        Raises:
            SpiderError: R10, the cluster cannot be reached.
            OSError: The output folder cannot be written to.
        """
        import ray

        with self._lock:
            if self._told is None:
                _connect(self._options.address)
                self._told = _write_token(self._settings), _facts(self._settings)
        options = {"num_cpus": self._options.cpus, "num_gpus": self._gpus, "max_restarts": 0}
        actor = ray.remote(_Actor).options(scheduling_strategy="SPREAD", **options).remote()
        return actor, actor.start.remote(self._settings, *self._told)


def _connect(address: str) -> None:
    """Join a cluster.

    ``ray.init`` can wait without end for a cluster that accepts connections and does not answer.
    In a thread of the pool it can be left behind, and does not replace the runner's signal
    handlers.

    Raises:
        SpiderError: R10.
    """
    import ray

    host, _, port = address.rpartition(":")
    # it warns that it sets no signal handlers in a thread, which is what is wanted
    log = logging.getLogger("ray._private.worker")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        # Ray itself would try for minutes if nobody answers there
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = f"the cluster cannot be reached ({type(error).__name__})"
        raise SpiderError(Code.CLUSTER_UNAVAILABLE, reason) from None
    finally:
        log.setLevel(level)


def _write_token(settings: WorkerSettings) -> str:
    """Write and return what a node must find in the output folder; it stays, as locks do."""
    path = Path(settings.config["output_dir"], _TOKEN)
    path.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(8)
    path.write_text(token, encoding="ascii")
    return token


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


def _unfit(settings: WorkerSettings, token: str, facts: Mapping[str, str]) -> SpiderError | None:
    """Return why this node cannot work for a batch, if so (R09, R11)."""
    path = Path(settings.config["output_dir"], _TOKEN)
    is_shared = False
    with suppress(OSError, UnicodeError):
        if _is_there(path) and path.read_text("ascii") == token:
            tempfile.TemporaryFile(dir=path.parent).close()
            is_shared = True
    if not is_shared:
        message = "a node cannot write to the output folder of this run"
        return SpiderError(Code.NODE_LACKS_FOLDERS, message)
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
