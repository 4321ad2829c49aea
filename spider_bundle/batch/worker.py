"""The worker process: reads, reconstructs and writes one study after the other."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from spider_bundle.batch.job import Job
from spider_bundle.batch.records import State
from spider_bundle.batch.sandbox import isolate_process
from spider_bundle.errors import Code, SpiderError, finding
from spider_bundle.logs import debug

if TYPE_CHECKING:
    from spider_bundle.reconstructor import Result

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DEVICE_ERRORS = (RuntimeError, MemoryError)
"""What PyTorch raises for errors of a device, and a lack of memory."""


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to know; sent to it once.

    Attributes:
        pipeline: Builds the :class:`Pipeline`, in the worker process.
        config: Values of the inference config by id.
        config_files: Configs layered on top of ``configs/inference.json``.
        root: See :func:`spider_bundle.bundle.bundle_root`.
        threads: CPU threads of the network and of numpy's matrix products; the defaults of
            PyTorch and numpy if 0.
    """

    config: Mapping[str, Any] = field(repr=False)
    config_files: Sequence[str] = ()
    root: str | None = None
    threads: int = 0
    pipeline: Callable[[WorkerSettings], Pipeline] | None = None


class Pipeline(Protocol):
    """The three stages of a study."""

    def read(self, job: Job) -> dict[Hashable, Any]:
        """Read the radiographs.

        Raises:
            SpiderError: They cannot be used.
        """

    def reconstruct(self, item: dict[Hashable, Any]) -> Any:
        """Run the network."""

    def write(self, result: Any) -> None:
        """Write the study's folder."""


@dataclass(frozen=True)
class Ready:
    """The worker has loaded the network."""


@dataclass(frozen=True)
class StartFailed:
    """The worker could not load the network.

    Attributes:
        reason: Kind of the error.
        error: The error, if it has a code; another start would end in the same way.
    """

    reason: str
    error: SpiderError | None = None


@dataclass(frozen=True)
class StudyDone:
    """A study has ended.

    Attributes:
        study_key: Key of the study.
        state: How it ended.
        findings: Warnings of a study that is done, otherwise the errors.
        seconds: Time of each stage.
        disk_full: Whether the disk had no more space.
        device_error: Whether the device or a lack of memory may be the cause, so that the worker
            must be replaced.
    """

    study_key: str
    state: State
    findings: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    disk_full: bool = False
    device_error: bool = False


Message = Ready | StartFailed | StudyDone


class InferencePipeline:
    """The stages with the network of ``configs/inference.json``.

    Args:
        settings: See :class:`WorkerSettings`.

    Attributes:
        reconstructor: The network.

    Raises:
        Exception: The config or the weights are not valid.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        import torch
        from threadpoolctl import threadpool_limits

        from spider_bundle.reconstructor import Reconstructor

        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._output_dir = settings.config["output_dir"]
        self.reconstructor = Reconstructor.from_config(
            settings.root, settings.config_files, **settings.config
        )
        if settings.threads:
            # Threads of the other workers would spin on the same cores; known once all is loaded.
            threadpool_limits(settings.threads, user_api="blas")

    def read(self, job: Job) -> dict[Hashable, Any]:
        """Read the pair into the network's image."""
        return self.reconstructor.read(job.pair)

    def reconstruct(self, item: dict[Hashable, Any]) -> Result:
        """Run the network."""
        return self.reconstructor.run(item)

    def write(self, result: Result) -> None:
        """Write the study's folder."""
        from spider_bundle.outputs.study import write_study

        write_study(self._output_dir, result, self.reconstructor.formats)


def serve(connection: Connection, settings: WorkerSettings) -> None:
    """Run a worker until its connection ends; the target of the worker process.

    Args:
        connection: Receives jobs one by one; sends :data:`Message`.
        settings: See :class:`WorkerSettings`.
    """
    isolate_process()
    message, pipeline = load_pipeline(settings)
    connection.send(message)
    if pipeline is None:
        return
    with suppress(EOFError):
        while True:
            connection.send(run_study(pipeline, connection.recv()))


def load_pipeline(settings: WorkerSettings) -> tuple[Ready | StartFailed, Pipeline | None]:
    """Load the network; return how that went, and the stages unless it failed."""
    try:
        return Ready(), (settings.pipeline or InferencePipeline)(settings)
    except Exception as error:
        debug(error)
        coded = error if isinstance(error, SpiderError) else None
        return StartFailed(type(error).__name__, coded), None


def run_study(
    pipeline: Pipeline, job: Job, on_stage: Callable[[str], None] | None = None
) -> StudyDone:
    """Read, reconstruct and write one study; no error is raised.

    Args:
        pipeline: The stages.
        job: The study.
        on_stage: Called with the name of each stage before it starts.
    """
    seconds: dict[str, float] = {}
    warnings: Sequence[Mapping[str, Any]] = ()
    item: Any = job
    for name in ("read", "reconstruct", "write"):
        start = time.perf_counter()
        if on_stage is not None:
            on_stage(name)
        try:
            item = getattr(pipeline, name)(item)
        except Exception as error:
            debug(error)
            seconds[name] = time.perf_counter() - start
            return _failed(job.study_key, name, _cause(error), seconds)
        seconds[name] = time.perf_counter() - start
        if name == "read":
            provenance = getattr(item.get("image"), "meta", {}).get("provenance")
            found = provenance.findings if provenance is not None else ()
            warnings = [warning.facts() for warning in found]
    return StudyDone(job.study_key, State.DONE, warnings, seconds)


def _cause(error: BaseException) -> BaseException:
    """Return the original error; MONAI's Compose wraps what its transforms raise."""
    while not isinstance(error, SpiderError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _failed(
    study_key: str, stage: str, cause: BaseException, seconds: Mapping[str, float]
) -> StudyDone:
    """Return the end of a study; most errors give their kind only, as the text may name files."""
    from spider_bundle.outputs.study import StudyError  # heavy, and loaded by now

    if isinstance(cause, SpiderError):
        refusal = [found.facts() for found in cause.findings]
        return StudyDone(study_key, State.REFUSED, refusal, seconds)
    code, message = Code.STUDY_FAILED, f"{stage}: {type(cause).__name__}"
    if isinstance(cause, StudyError):
        code, message = Code.WRITE_FAILED, str(cause)
    elif isinstance(cause, OSError):
        code = Code.WRITE_FAILED if stage == "write" else Code.STUDY_FAILED
        message = f"{stage}: {cause.strerror or type(cause).__name__}"
    return StudyDone(
        study_key,
        State.FAILED,
        [finding(code, "batch", message).facts()],
        seconds,
        disk_full=isinstance(cause, OSError) and cause.errno in _DISK_FULL,
        device_error=stage != "read"
        and isinstance(cause, _DEVICE_ERRORS)
        and not isinstance(cause, StudyError),
    )
