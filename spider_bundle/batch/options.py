"""What a batch is told, and what follows from it for its results, its log and its workers."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spider_bundle import __version__
from spider_bundle.batch.cluster import ClusterOptions
from spider_bundle.batch.profile import Profile, read_profile
from spider_bundle.batch.site_key import create_key_file, read_key_file
from spider_bundle.batch.worker import Pipeline, WorkerSettings, inference_config
from spider_bundle.bundle import bundle_root
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.studies import PUBLIC_KEY
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import file_sha256
from spider_bundle.resources import available_cores, available_memory

_log = logging.getLogger(__name__)

_MOST_WORKERS = 8
_WORKER_BYTES = 3 << 30


@dataclass(frozen=True)
class BatchOptions:
    """What a batch is told.

    Attributes:
        input: Folder, zip archive or DICOM file; never written to.
        output: Folder for the results.
        spacing: Voxel size, mm.
        shape: Voxels along each axis.
        device: Device of the network; the best there is if empty.
        precision: See :func:`spider_bundle.precision.autocast`.
        weights: Weights file; the bundle's if not given.
        jobs: Worker processes; each holds the network. See :func:`worker_count` if not given.
        limit: Most studies to take in this run; studies done before do not count.
        stop_on_error: End the batch when a study fails.
        time_limit: Seconds that a study may take.
        profile: The site's statements about its apparatus, see
            :mod:`~spider_bundle.batch.profile`.
        key_file: File with the site's key; the environment variable ``SPIDER_SITE_KEY`` and then
            the public key if not given.
        create_key_file: Create ``key_file`` if it is absent.
        dry_run: Only find and check the studies.
        watch: Go on looking for new studies until told to stop.
        quiet_seconds: Seconds for which a study's files must not have changed (``watch``).
        patience: Seconds without a change after which a study that lacks a view is refused
            (``watch``).
        min_free_mib: Free space of the output's disk under which no other study is started, MiB.
        dicom: Also write a DICOM CT series and a segmentation on it.
        mesh: Also write surfaces of bone and mandible.
        html: Also write each report as a page, and an index page.
        keep_identity: DICOM results for the patient and study themselves.
        config_files: Configs layered on top of ``configs/inference.json``.
        config: Values of the inference config by id, such as arguments of the writer.
        bundle_root: See :func:`spider_bundle.bundle.bundle_root`.
        cluster: Ray cluster for the workers; this machine if not given.
        pipeline: In place of the network, for tests; see
            :class:`~spider_bundle.batch.worker.WorkerSettings`.
    """

    input: str | os.PathLike[str]
    output: str | os.PathLike[str]
    spacing: float = 2.0
    shape: int = 128
    device: str = ""
    precision: str = "auto"
    weights: str | os.PathLike[str] | None = None
    jobs: int | None = None
    limit: int | None = None
    stop_on_error: bool = False
    time_limit: float = 600.0
    profile: str | os.PathLike[str] | None = None
    key_file: str | os.PathLike[str] | None = None
    create_key_file: bool = False
    dry_run: bool = False
    watch: bool = False
    quiet_seconds: float = 30.0
    patience: float = 3600.0
    min_free_mib: float = 512.0
    dicom: bool = False
    mesh: bool = False
    html: bool = False
    keep_identity: bool = False
    config_files: Sequence[str | os.PathLike[str]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    bundle_root: str | os.PathLike[str] | None = None
    cluster: ClusterOptions | None = None
    pipeline: Callable[[WorkerSettings], Pipeline] | None = None

    def __post_init__(self) -> None:
        for name in ("spacing", "shape", "jobs", "time_limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive")
        if not Path(self.input).exists():
            raise ValueError("the input does not exist")
        if Path(self.input).resolve() == Path(self.output).resolve():
            raise ValueError("the output folder must not be the input itself")
        if self.watch and self.dry_run:
            raise ValueError("a dry run does not watch")


def site_key(options: BatchOptions) -> str:
    """Secret of the site: of the key file, the environment, or the public one.

    Raises:
        SpiderError: K01.
    """
    if options.key_file:
        path = Path(options.key_file)
        if options.create_key_file and not options.dry_run:
            create_key_file(path)
        return read_key_file(path)
    key = os.environ.get("SPIDER_SITE_KEY")
    if not key:
        _log.warning("no key of the site: anybody who knows a study's UID can compute its key")
    return key or PUBLIC_KEY


def profile_of(options: BatchOptions) -> Profile:
    """The site's statements, with those of the config for every study.

    They are put together here and nowhere else, so that the workers read every study with the very
    statements that it was checked with.

    Raises:
        SpiderError: S01.
        FileNotFoundError: There is no bundle, or a config is not there.
    """
    rules = read_profile(Path(options.profile)).rules if options.profile else ()
    return Profile(rules, _overrides_of_config(options))


def _overrides_of_config(options: BatchOptions) -> Mapping[str, Any]:
    """``overrides`` of the inference config with all its layers; expressions are evaluated.

    Raises:
        SpiderError: S01.
        OSError: A config cannot be read.
    """
    settings = worker_settings(options)
    try:
        overrides = inference_config(settings).get_parsed_content("overrides")
    except OSError:
        raise
    except Exception as error:  # each parser has its own; their text quotes the file
        message = f"overrides of the config cannot be read ({type(error).__name__})"
        raise SpiderError(Code.INVALID_PROFILE, message) from None
    try:
        PairOverrides.from_mapping(overrides)
    except ValueError as error:
        raise SpiderError(Code.INVALID_PROFILE, f"overrides of the config: {error}") from None
    return dict(overrides or {})


def weights_file(options: BatchOptions) -> Path:
    """Weights of the network.

    Raises:
        FileNotFoundError: There is no bundle.
    """
    if options.weights:
        return Path(options.weights).absolute()
    return bundle_root(options.bundle_root) / "models" / "model.pt"


def device_of(options: BatchOptions) -> str:
    """Device of the network."""
    if options.device:
        return options.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def result_settings(options: BatchOptions) -> dict[str, Any]:
    """All settings that the results depend on; no path is among them."""
    root = bundle_root(options.bundle_root)
    files = [root / "configs" / "inference.json", *map(Path, options.config_files)]
    return {
        "version": __version__,
        "weights_sha256": file_sha256(weights_file(options)),
        "config_sha256": [file_sha256(path) for path in files],
        "values_sha256": sha256_of(options.config),
        "spacing": options.spacing,
        "shape": options.shape,
        "precision": options.precision,
        "device": device_of(options).partition(":")[0],
        **_outputs(options),
    }


def _outputs(options: BatchOptions) -> dict[str, bool]:
    """The optional outputs, by their ids in the inference config."""
    return {name: getattr(options, name) for name in ("dicom", "mesh", "html", "keep_identity")}


def run_settings(options: BatchOptions, key: str) -> dict[str, Any]:
    """Settings for the audit log that no result depends on."""
    origin = "file" if options.key_file else "public" if key == PUBLIC_KEY else "environment"
    return {
        "profile_sha256": file_sha256(Path(options.profile)) if options.profile else None,
        "key": origin,
        "key_id": hmac.new(key.encode(), b"key id", hashlib.sha256).hexdigest()[:16],
        "jobs": worker_count(options),
        "cluster": options.cluster is not None,
        "limit": options.limit,
        "stop_on_error": options.stop_on_error,
        "time_limit": options.time_limit,
        "watch": options.watch,
        "min_free_mib": options.min_free_mib,
    }


def worker_settings(options: BatchOptions) -> WorkerSettings:
    """What the workers are told."""
    # the key stays here: the worker is told the name of each study
    values = {
        "output_dir": str(Path(options.output).absolute()),
        "weights": str(weights_file(options)),
        "device": f"$torch.device({device_of(options)!r})",
        "precision": options.precision,
        "spacing": options.spacing,
        "shape": options.shape,
        "site_key": None,
        **_outputs(options),
    }
    jobs = worker_count(options)
    return WorkerSettings(
        config={**values, **options.config},
        config_files=[str(Path(path).absolute()) for path in options.config_files],
        root=str(options.bundle_root) if options.bundle_root else None,
        threads=max(1, available_cores() // jobs) if jobs > 1 else 0,
        pipeline=options.pipeline,
    )


def worker_count(options: BatchOptions) -> int:
    """Worker processes of a batch, where ``jobs`` does not say.

    On a CPU one per core, for a core that has a study to itself waits for no other: at most 8, and
    as many as there are 3 GiB of memory for. Limits of a container count, see
    :mod:`~spider_bundle.resources`. One on a GPU, and one on a cluster.
    """
    if options.jobs is not None:
        return options.jobs
    if options.cluster is not None or not device_of(options).startswith("cpu"):
        return 1
    return max(1, min(available_cores(), _MOST_WORKERS, available_memory() // _WORKER_BYTES))


def sha256_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of settings as 64 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
