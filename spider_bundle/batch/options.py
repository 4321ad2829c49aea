"""Options of a batch run, and what follows from them for results, log and workers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.dataclasses import dataclass

from spider_bundle import __version__
from spider_bundle.batch.cluster import ClusterOptions
from spider_bundle.batch.profile import Profile, read_profile
from spider_bundle.batch.worker import Pipeline, WorkerSettings
from spider_bundle.bundle import bundle_root
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.studies import PUBLIC_KEY
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import file_sha256
from spider_bundle.pseudonym import check_map, create_key_file, pseudonym, read_key_file
from spider_bundle.resources import available_cores, available_memory

_log = logging.getLogger(__name__)

_MOST_WORKERS = 8
_WORKER_BYTES = 3 << 30
_RESULT = ("spacing", "shape", "precision", "exact", "dicom", "mesh", "html", "keep_identity")
"""Options that the results depend on; the inference config has them under the same names."""
_RUN = ("limit", "stop_on_error", "time_limit", "watch", "min_free_mib")
"""Options for the audit log that no result depends on."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", hide_input_in_errors=True))
class BatchOptions:
    """Options of a batch.

    Attributes:
        input: Folder, zip archive or DICOM file; never written to.
        output: Folder for the results.
        spacing: Voxel size, mm.
        shape: Voxels along each axis; as many as span 256 mm if not given.
        device: Device of the network; the best there is if empty.
        precision: See :func:`spider_bundle.precision.autocast`.
        exact: Decode every voxel; see :class:`spider_bundle.inferers.VolumeInferer`.
        weights: Weights file; the bundle's if not given.
        jobs: Worker processes; each holds the network. See :func:`worker_count` if not given.
        limit: Most studies to take in this run; studies done before do not count.
        stop_on_error: End the batch when a study fails.
        time_limit: Seconds that a study may take.
        kind: ``radiograph`` or ``localiser``, what to take of a study that holds both.
        profile: Overrides of the site, see :mod:`~spider_bundle.batch.profile`.
        key_file: File with the site's key; the environment variable ``SPIDER_SITE_KEY`` and then
            the public key if not given.
        create_key_file: Create ``key_file`` if it is absent.
        map_file: Table of study keys and paths to write, see
            :func:`~spider_bundle.pseudonym.write_map`.
        dry_run: Only find and check the studies.
        watch: Repeat rounds over the input until asked to end.
        quiet_seconds: Seconds for which a study's files must not have changed (``watch``).
        patience: Seconds without a change after which a study that lacks a view is refused
            (``watch``).
        min_free_mib: Free space of the output's disk under which no other study is started, MiB.
        dicom: Also write a DICOM CT series and a segmentation on it.
        mesh: Also write surfaces of bone and mandible.
        html: Also write each report as a page, and an index page.
        keep_identity: DICOM results for the patient and study themselves.
        config_files: Configs layered on top of ``configs/inference.json``.
        config: Values of the inference config by id.
        bundle_root: See :func:`spider_bundle.bundle.bundle_root`.
        cluster: Ray cluster for the workers; this machine if not given.
        pipeline: In place of the network, for tests; see
            :class:`~spider_bundle.batch.worker.WorkerSettings`.

    Raises:
        ValueError: A value is not possible; the text does not quote it.
    """

    input: Path
    output: Path
    spacing: float = Field(default=2.0, gt=0)
    shape: int | None = Field(default=None, gt=0)
    device: str = ""
    precision: str = "auto"
    exact: bool = False
    weights: Path | None = None
    jobs: int | None = Field(default=None, gt=0)
    limit: int | None = Field(default=None, gt=0)
    stop_on_error: bool = False
    time_limit: float = Field(default=600.0, gt=0)
    kind: Literal["", "radiograph", "localiser"] = ""
    profile: Path | None = None
    key_file: Path | None = None
    create_key_file: bool = False
    map_file: Path | None = None
    dry_run: bool = False
    watch: bool = False
    quiet_seconds: float = Field(default=30.0, ge=0)
    patience: float = Field(default=3600.0, ge=0)
    min_free_mib: float = Field(default=512.0, ge=0)
    dicom: bool = False
    mesh: bool = False
    html: bool = False
    keep_identity: bool = False
    config_files: Sequence[Path] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    bundle_root: Path | None = None
    cluster: ClusterOptions | None = None
    pipeline: Callable[[WorkerSettings], Pipeline] | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_empty_path(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "" and info.field_name not in ("device", "precision", "kind"):
            raise ValueError("the path is empty")  # it would be the current folder
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.input.exists():
            raise ValueError("the input does not exist")
        if self.input.resolve() == self.output.resolve():
            raise ValueError("the output folder must not be the input itself")
        check_map(self.map_file, self.output)
        if self.watch and self.dry_run:
            raise ValueError("a dry run does not watch")
        return self


def site_key(options: BatchOptions) -> str:
    """Return the secret of the site: of the key file, the environment, or the public one.

    Raises:
        SpiderError: K01.
    """
    if options.key_file:
        path = options.key_file
        if options.create_key_file and not options.dry_run:
            create_key_file(path)
        return read_key_file(path)
    key = os.environ.get("SPIDER_SITE_KEY")
    if not key:
        _log.warning("no key of the site: anybody who knows a study's UID can compute its key")
    return key or PUBLIC_KEY


def profile_of(options: BatchOptions) -> Profile:
    """Return the site's overrides, with those of the config for every study.

    They are merged here and nowhere else; a study is read with those that it was checked with.
    Expressions in the config are evaluated.

    Raises:
        SpiderError: S01.
        OSError: There is no bundle, or a config cannot be read.
    """
    from spider_bundle.reconstructor import inference_config  # heavy: not for the help

    rules = read_profile(options.profile).rules if options.profile else ()
    settings = worker_settings(options)
    try:
        config = inference_config(settings.root, settings.config_files, **settings.config)
        overrides = config.get_parsed_content("overrides")
    except OSError:
        raise
    except Exception as error:  # each parser has its own; their text quotes the file
        message = f"overrides of the config cannot be read ({type(error).__name__})"
        raise SpiderError(Code.INVALID_PROFILE, message) from None
    try:
        PairOverrides.from_mapping(overrides)
    except ValueError as error:
        raise SpiderError(Code.INVALID_PROFILE, f"overrides of the config: {error}") from None
    base = dict(overrides or {})
    return Profile(rules, {**base, "kind": options.kind} if options.kind else base)


def weights_file(options: BatchOptions) -> Path:
    """Return the weights file.

    Raises:
        FileNotFoundError: There is no bundle.
    """
    if options.weights:
        return options.weights.absolute()
    return bundle_root(options.bundle_root) / "models" / "model.pt"


def device_of(options: BatchOptions) -> str:
    """Return the device of the network."""
    if options.device:
        return options.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def result_settings(options: BatchOptions) -> dict[str, Any]:
    """Return all settings that the results depend on; no path is among them."""
    root = bundle_root(options.bundle_root)
    files = [root / "configs" / "inference.json", *options.config_files]
    description = weights_file(options).with_suffix(".json")
    return _values(options, _RESULT) | {
        "version": __version__,
        "weights_sha256": file_sha256(weights_file(options)),
        "model_sha256": file_sha256(description) if description.exists() else None,
        "config_sha256": [file_sha256(path) for path in files],
        "values_sha256": sha256_of(options.config),
        "device": device_of(options).partition(":")[0],
    }


def run_settings(options: BatchOptions, key: str) -> dict[str, Any]:
    """Return settings for the audit log that no result depends on."""
    return _values(options, _RUN) | {
        "profile_sha256": file_sha256(options.profile) if options.profile else None,
        "key": "file" if options.key_file else "public" if key == PUBLIC_KEY else "environment",
        "key_id": pseudonym(key, "key id")[:16],
        "jobs": worker_count(options),
        "cluster": options.cluster is not None,
    }


def _values(options: BatchOptions, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names}


def worker_settings(options: BatchOptions) -> WorkerSettings:
    """Return the settings of the workers."""
    values = _values(options, _RESULT) | {
        "output_dir": str(options.output.absolute()),
        "weights": str(weights_file(options)),
        "device": device_of(options),
        "site_key": None,  # it stays here: a job carries the name of its study
    }
    jobs = worker_count(options)
    return WorkerSettings(
        config={**values, **options.config},
        config_files=[str(path.absolute()) for path in options.config_files],
        root=str(options.bundle_root) if options.bundle_root else None,
        threads=max(1, available_cores() // jobs) if jobs > 1 else 0,
        pipeline=options.pipeline,
    )


def worker_count(options: BatchOptions) -> int:
    """Return the number of worker processes.

    If ``jobs`` does not say: on a CPU one per core, as a core that has a study to itself waits for
    no other, at most 8 and as many as there are 3 GiB of memory for (limits of a container count);
    one on a GPU, and one on a cluster.
    """
    if options.jobs is not None:
        return options.jobs
    if options.cluster is not None or not device_of(options).startswith("cpu"):
        return 1
    return max(1, min(available_cores(), _MOST_WORKERS, available_memory() // _WORKER_BYTES))


def sha256_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of settings as 64 hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
