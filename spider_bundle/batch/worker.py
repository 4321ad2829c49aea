"""The worker process: reads, reconstructs and writes studies, with the network loaded once.

While the network works on one study, a thread reads the next one and another thread writes the
last one. What a study does to this process, be it a crash, a hang or an exhausted memory, stays
here: the runner sees it and starts another worker.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from spider_bundle.batch.child import debug, isolate
from spider_bundle.batch.codes import BatchCode, batch_facts
from spider_bundle.batch.job import Job
from spider_bundle.batch.manifest import State
from spider_bundle.bundle import bundle_root
from spider_bundle.dicom.errors import RadiographError, finding_facts

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MACHINE_ERRORS = (RuntimeError, MemoryError)
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
    """The three stages of a study; each is called from a thread of its own."""

    def read(self, job: Job) -> dict[str, Any]:
        """Read the radiographs.

        Raises:
            RadiographError: They cannot be used.
        """

    def reconstruct(self, item: dict[str, Any]) -> dict[str, Any]:
        """Run the network."""

    def write(self, item: dict[str, Any]) -> None:
        """Write the study's folder."""


@dataclass(frozen=True)
class Ready:
    """The worker has loaded the network."""


@dataclass(frozen=True)
class Broken:
    """The worker could not load the network.

    Attributes:
        reason: Kind of the error.
    """

    reason: str


@dataclass(frozen=True)
class Stage:
    """A study enters a stage, or leaves it to wait for the next one.

    Attributes:
        study_key: Which.
        seconds: How long it was in the stage that it leaves; None if it enters one. The runner
            may hear of both at once, and late.
    """

    study_key: str
    seconds: float | None = None


@dataclass(frozen=True)
class Ended:
    """A study has ended.

    Attributes:
        study_key: Which.
        state: How.
        findings: Warnings of a study that is done, else what stands behind the errors.
        seconds: Time of each stage.
        disk_full: Whether the disk had no more space.
    """

    study_key: str
    state: State
    findings: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    disk_full: bool = False


@dataclass(frozen=True)
class Spoiled:
    """A study failed in a way that may make all later ones fail; the worker process ends itself.

    Attributes:
        ended: How the study ends if that happens to it again.
    """

    ended: Ended


Message = Ready | Broken | Stage | Ended | Spoiled


@dataclass
class _Clock:
    """Time of the network for the study that is written, seconds."""

    seconds: float = 0.0


def inference_config(settings: WorkerSettings) -> ConfigParser:
    """The inference config with all layers and values; nothing of it is instantiated.

    Raises:
        FileNotFoundError: There is no bundle.
        Exception: A config cannot be read.
    """
    from monai.bundle import ConfigParser  # heavy: not for the command line's help

    root = bundle_root(settings.root)
    parser = ConfigParser()
    parser.read_config([str(root / "configs" / "inference.json"), *settings.config_files])
    values = {"bundle_root": str(root), "writer::keep_going": False, **settings.config}
    parser.update(values)
    return parser


class InferencePipeline:
    """The stages as ``configs/inference.json`` defines them.

    Args:
        settings: See :class:`WorkerSettings`.

    Raises:
        Exception: The config or the weights are not valid.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        import torch
        from threadpoolctl import threadpool_limits

        from spider_bundle.weights import load_weights

        if settings.threads:
            torch.set_num_threads(settings.threads)
        parser = inference_config(settings)
        self._device = parser.get_parsed_content("device")
        self._network = parser.get_parsed_content("network")
        load_weights(self._network, parser.get_parsed_content("weights"))
        self._network.eval()
        self._inferer = parser.get_parsed_content("inferer")
        # the inferer tells the time of its last study, which is not the one that is written
        self._clock = _Clock()
        parser.get_parsed_content("writer").clock = self._clock
        self._postprocessing = parser.get_parsed_content("postprocessing")
        self._preprocessing = parser.get_parsed_content("preprocessing")
        if settings.threads:
            # Threads of the other workers would spin on the same cores; known once all is loaded.
            threadpool_limits(settings.threads, user_api="blas")

    def read(self, job: Job) -> dict[str, Any]:
        """Read the pair into the network's image."""
        from spider_bundle.dicom.overrides import PairOverrides
        from spider_bundle.dicom.transforms import BiplanarRadiographsd

        stated = PairOverrides.from_mapping(job.overrides)
        for transform in self._preprocessing.transforms:
            if isinstance(transform, BiplanarRadiographsd):
                transform.overrides = stated
        item = self._preprocessing(
            {"image": {"frontal": str(job.frontal), "lateral": str(job.lateral)}}
        )
        # the manifest and the folder must name one study, whatever the reader made of it
        item["image"].meta["study_key"] = job.study_key
        return item

    def reconstruct(self, item: dict[str, Any]) -> dict[str, Any]:
        """Run the network; adds ``pred`` ``(K + 1, X, Y, Z)`` and the seconds it took."""
        from monai.data import MetaTensor

        image = item["image"]
        batch = MetaTensor(image.as_tensor()[None].to(self._device), meta=image.meta)
        prediction = self._inferer(batch, self._network)[0]
        return {**item, "pred": prediction, "seconds": self._inferer.seconds}

    def write(self, item: dict[str, Any]) -> None:
        """Make CT and labels and write them."""
        self._clock.seconds = item["seconds"]
        self._postprocessing(item)


def serve(connection: Connection, settings: WorkerSettings) -> None:
    """Run a worker until its connection ends; the target of the worker process.

    Args:
        connection: Jobs come in, without their ``files``, and None for the end; a
            :data:`Message` goes out whenever something happens.
        settings: See :class:`WorkerSettings`.
    """
    isolate()
    sending = threading.Lock()

    def send(message: Message) -> None:
        with sending:
            connection.send(message)

    try:
        pipeline = (settings.pipeline or InferencePipeline)(settings)
    except Exception as error:
        debug(error)
        send(Broken(type(error).__name__))
        return
    send(Ready())
    _Stages(pipeline, send).run(connection)


@dataclass
class _Item:
    """A study on its way through the stages."""

    study_key: str
    content: dict[str, Any] = field(default_factory=dict)
    warnings: list[Mapping[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    has_ended: bool = False


class _Stages:
    """Three threads, one per stage; each hands a study on to the next.

    A queue holds one study at most, so memory does not grow with the batch.
    """

    def __init__(self, pipeline: Pipeline, send: Callable[[Message], None]) -> None:
        self._pipeline = pipeline
        self._send = send
        self._to_network: queue.Queue[_Item | None] = queue.Queue(1)
        self._to_writer: queue.Queue[_Item | None] = queue.Queue(1)

    def run(self, connection: Connection) -> None:
        threads = [
            threading.Thread(target=self._read, args=(connection,), daemon=True),
            threading.Thread(target=self._write, daemon=True),
        ]
        for thread in threads:
            thread.start()
        while (item := self._to_network.get()) is not None:
            with self._stage(item, "reconstruct"):
                item.content = self._pipeline.reconstruct(item.content)
            if not item.has_ended:
                self._to_writer.put(item)
        self._to_writer.put(None)
        for thread in threads:
            thread.join()

    def _read(self, connection: Connection) -> None:
        while True:
            try:
                job = connection.recv()
            except EOFError:
                job = None
            if job is None:
                self._to_network.put(None)
                return
            item = _Item(job.study_key)
            with self._stage(item, "read"):
                item.content = self._pipeline.read(job)
                image = item.content.get("image")
                provenance = getattr(image, "meta", {}).get("provenance")
                found = provenance.findings if provenance is not None else ()
                item.warnings = [finding_facts(warning) for warning in found]
            if not item.has_ended:
                self._to_network.put(item)

    def _write(self) -> None:
        while (item := self._to_writer.get()) is not None:
            with self._stage(item, "write"):
                self._pipeline.write(item.content)
            if not item.has_ended:
                self._end(item, State.DONE, item.warnings)

    @contextmanager
    def _stage(self, item: _Item, name: str) -> Iterator[None]:
        """Tell when a stage begins, time it, and end the study if it fails."""
        self._send(Stage(item.study_key))
        start = time.perf_counter()
        try:
            yield
            item.seconds[name] = time.perf_counter() - start
            self._send(Stage(item.study_key, item.seconds[name]))
        except Exception as error:
            item.seconds[name] = time.perf_counter() - start
            debug(error)
            cause = _cause(error)
            if isinstance(cause, RadiographError):
                facts = [finding_facts(found) for found in cause.findings]
                self._end(item, State.REFUSED, facts)
                return
            failure = _failure(name, cause)
            if _is_of_the_machine(name, cause):
                # a CUDA context that an error has broken fails all studies that come to it
                self._send(Spoiled(Ended(item.study_key, State.FAILED, [failure], item.seconds)))
                os._exit(1)
            self._end(item, State.FAILED, [failure], _is_full(cause))

    def _end(
        self,
        item: _Item,
        state: State,
        findings: Sequence[Mapping[str, Any]],
        disk_full: bool = False,
    ) -> None:
        item.has_ended = True
        item.content = {}
        self._send(Ended(item.study_key, state, findings, item.seconds, disk_full))


def _cause(error: BaseException) -> BaseException:
    """What was raised at first; MONAI's Compose wraps what its transforms raise."""
    while not isinstance(error, RadiographError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _failure(stage: str, cause: BaseException) -> Mapping[str, Any]:
    """A failure as a finding; most errors are told by their kind, for their text may name files."""
    from spider_bundle.outputs.study import StudyError  # heavy, and loaded by now

    if isinstance(cause, StudyError):
        return batch_facts(BatchCode.R01, str(cause))
    if isinstance(cause, OSError):
        code = BatchCode.R01 if stage == "write" else BatchCode.R07
        return batch_facts(code, f"{stage}: {cause.strerror or type(cause).__name__}")
    return batch_facts(BatchCode.R07, f"{stage}: {type(cause).__name__}")


def _is_of_the_machine(stage: str, cause: BaseException) -> bool:
    """Whether a failure may be the doing of the device or of studies before, and go on.

    Errors of a GPU show late: that of one study may be raised where the one before is written.
    """
    from spider_bundle.outputs.study import StudyError  # heavy, and loaded by now

    is_written = isinstance(cause, StudyError)
    return stage != "read" and isinstance(cause, _MACHINE_ERRORS) and not is_written


def _is_full(cause: BaseException) -> bool:
    return isinstance(cause, OSError) and cause.errno in _FULL
