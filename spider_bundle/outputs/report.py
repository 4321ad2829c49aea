"""The machine-readable account of one reconstruction: ``report.json``.

It names what was assumed, where every geometric value came from and what was found, and nothing
that identifies a patient: no names, dates, paths or UIDs.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spider_bundle import __version__
from spider_bundle.dicom.provenance import ViewProvenance
from spider_bundle.files import atomic_path, file_sha256
from spider_bundle.geometry import Grid
from spider_bundle.intensity import HU_FILE_RANGE, HU_WINDOW
from spider_bundle.labels import LABEL_COLOURS, LABEL_NAMES

SCHEMA_VERSION = "1.0"
REPORT_FILE = "report.json"
"""Written last; a folder without it is not a finished study."""

INTENDED_USE = "Research use only. Never for diagnosis, treatment planning or patient management."

ISOCENTRIC = (
    "isocentric: the central rays of both views are taken to meet at the origin of patient space"
)
NO_COMMON_FRAME = (
    "no common frame of reference: the radiographs do not say where they lie relative to each "
    "other; their relation follows from the nominal geometry"
)

_PACKAGES = ("torch", "monai", "pydicom", "numpy")


@dataclass(frozen=True)
class FindingFacts:
    """Something noticed while the study was read, paired or reconstructed.

    Attributes:
        code: Stable code.
        severity: ``info``, ``warning`` or ``error``.
        message: What was found, without any value that could identify a patient.
        role: What it concerns: ``frontal``, ``lateral``, ``pair`` or ``radiograph``.
        attribute: DICOM keyword concerned.
        action: What was done, or what the user can do.
    """

    code: str
    severity: Literal["info", "warning", "error"]
    message: str
    role: str | None = None
    attribute: str | None = None
    action: str | None = None


@dataclass(frozen=True)
class RunFacts:
    """What the run knows that the volumes do not show.

    ``findings`` may be mappings with the keys of :class:`FindingFacts`.

    Attributes:
        device: Device of the network, e.g. ``cpu``.
        weights_sha256: SHA-256 of the weights file; None for untrained weights.
        views: The radiographs.
        assumptions: Notes, e.g. :data:`ISOCENTRIC`.
        findings: What was noticed.
        timings: Seconds by step.
    """

    device: str
    weights_sha256: str | None
    views: Sequence[ViewProvenance]
    assumptions: Sequence[str] = ()
    findings: Sequence[FindingFacts | Mapping[str, object]] = ()
    timings: Mapping[str, float] = field(default_factory=dict)


def build_report(
    study_key: str,
    facts: RunFacts,
    grid: Grid,
    files: Sequence[Mapping[str, object]] = (),
    reprojection: Mapping[str, Mapping[str, float]] | None = None,
    software: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Assemble the report, which satisfies :data:`~spider_bundle.outputs.schema.REPORT_SCHEMA`.

    Args:
        study_key: Keyed hash of the study.
        facts: What the run knows.
        grid: Grid of the volumes (LPS mm; reported as RAS affine).
        files: Entries of :func:`describe_files`.
        reprojection: Numbers of
            :func:`~spider_bundle.outputs.consistency.reprojection_consistency` by view role.
        software: Versions; :func:`software_versions` if not given.

    Returns:
        JSON values only, keys in a fixed order, no NaN or infinity (null instead).

    Raises:
        TypeError: A value has no place in a report, e.g. a path.
    """
    low, high = HU_WINDOW
    report = {
        "schema_version": SCHEMA_VERSION,
        "intended_use": INTENDED_USE,
        "study_key": study_key,
        "software": _plain(software_versions() if software is None else software),
        "weights_sha256": facts.weights_sha256,
        "device": facts.device,
        "views": _plain(facts.views),
        "assumptions": _plain(facts.assumptions),
        "findings": _plain(facts.findings),
        "grid": {
            "shape": _plain(grid.shape),
            "spacing_mm": _plain(grid.spacing),
            "affine_ras": _plain(grid.ras_affine),
        },
        "intensity": {
            "unit": "HU",
            "window": _plain(HU_WINDOW),
            "file_range": _plain(HU_FILE_RANGE),
            "note": (
                f"The network saturates at {high:.0f} HU: denser bone, enamel and metal are "
                f"written as at most {high:.0f} HU, and air as {low:.0f} HU."
            ),
        },
        "labels": [
            {"value": value, "name": name, "colour": _plain(LABEL_COLOURS[value])}
            for value, name in sorted(LABEL_NAMES.items())
        ],
        "reprojection": _plain(reprojection),
        "timings_s": _plain(facts.timings),
        "files": _plain(files),
    }
    return report


def write_report(path: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Write a report as UTF-8 JSON, atomically.

    Args:
        path: File to write.
        report: Result of :func:`build_report`.

    Raises:
        ValueError: The report holds NaN or infinity.
        OSError: The file cannot be written.
    """
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def describe_files(folder: Path) -> list[dict[str, object]]:
    """Name, size in bytes and SHA-256 of every file below a folder, sorted by name.

    Args:
        folder: The study folder; names are relative to it, with forward slashes.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {
            "name": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in paths
    ]


def software_versions() -> dict[str, str | None]:
    """Versions of the bundle, of Python and of the packages that shape the result.

    A package that is not installed is reported as None.
    """
    versions: dict[str, str | None] = {
        "spider_bundle": __version__,
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def warning_codes(findings: Iterable[FindingFacts | Mapping[str, object]]) -> list[str]:
    """Codes of the findings that are not mere information, in order, each once."""
    plain = [_plain(finding) for finding in findings]
    codes = (str(finding["code"]) for finding in plain if finding["severity"] != "info")
    return list(dict.fromkeys(codes))


def _plain(value: object) -> Any:
    """JSON form of a value: sorted mappings, lists, numbers; None for NaN and infinity."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None  # + 0.0 turns -0.0 into 0.0
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in value]
    raise TypeError(f"a report cannot hold a {type(value).__name__}")
