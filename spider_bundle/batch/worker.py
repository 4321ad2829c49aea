"""The worker process: reads, reconstructs and writes one study after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from spider_bundle.batch.job import Job
from spider_bundle.batch.records import State
from spider_bundle.errors import Code, SpiderError, StudyError, finding, root_cause
from spider_bundle.files import DISK_FULL, reason
from spider_bundle.logs import debug

if TYPE_CHECKING:
    from spider_bundle.reconstructor import Result

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
    """The three stages of a study; tests put others in place of the network."""

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
class StudyDone:
    """A study has ended.

    Attributes:
        study_key: Key of the study.
        state: How it ended.
        findings: Warnings of a study that is done, otherwise the errors.
        seconds: Time of each stage.
        disk_full: Whether the disk had no more space.
        device_error: Whether the worker must be replaced: it is lost, or its device or a lack of
            memory may be the cause.
    """

    study_key: str
    state: State
    findings: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    disk_full: bool = False
    device_error: bool = False


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


def load(settings: WorkerSettings) -> Callable[[Job], StudyDone]:
    """Load the network in the worker process; return what does a study.

    Raises:
        Exception: See :class:`InferencePipeline`.
    """
    return partial(run_study, (settings.pipeline or InferencePipeline)(settings))


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
            return _failed(job.study_key, name, root_cause(error), seconds)
        seconds[name] = time.perf_counter() - start
        if name == "read":
            provenance = getattr(item.get("image"), "meta", {}).get("provenance")
            found = provenance.findings if provenance is not None else ()
            warnings = [warning.facts() for warning in found]
    return StudyDone(job.study_key, State.DONE, warnings, seconds)


def _failed(
    study_key: str, stage: str, cause: BaseException, seconds: Mapping[str, float]
) -> StudyDone:
    """Return the end of a study; most errors give their kind only, as the text may name files."""
    if isinstance(cause, SpiderError):
        refusal = [found.facts() for found in cause.findings]
        return StudyDone(study_key, State.REFUSED, refusal, seconds)
    code, message = Code.STUDY_FAILED, f"{stage}: {type(cause).__name__}"
    if isinstance(cause, StudyError):
        code, message = Code.WRITE_FAILED, str(cause)
    elif isinstance(cause, OSError):
        code = Code.WRITE_FAILED if stage == "write" else Code.STUDY_FAILED
        message = f"{stage}: {reason(cause)}"
    return StudyDone(
        study_key,
        State.FAILED,
        [finding(code, "batch", message).facts()],
        seconds,
        disk_full=isinstance(cause, OSError) and cause.errno in DISK_FULL,
        device_error=stage != "read"
        and isinstance(cause, _DEVICE_ERRORS)
        and not isinstance(cause, StudyError),
    )
