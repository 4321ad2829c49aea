"""The machine-readable account of one reconstruction, ``report.json``, and its schema.

It names what was assumed, where every geometric value came from and what was found, and nothing
that identifies a patient: no names, dates, paths or UIDs.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from spider_bundle import __version__
from spider_bundle.errors import Code
from spider_bundle.files import file_sha256, write_text
from spider_bundle.intensity import HU_FILE_RANGE, HU_WINDOW
from spider_bundle.labels import LABEL_COLOURS, LABEL_NAMES

if TYPE_CHECKING:
    from spider_bundle.reconstructor import Result

REPORT_FILE = "report.json"
"""Written last; a folder without it is not a finished study."""

IntendedUse = Literal[
    "Research use only. Never for diagnosis, treatment planning or patient management."
]
INTENDED_USE: str = get_args(IntendedUse)[0]

ISOCENTRIC = (
    "isocentric: the central rays of both views are taken to meet at the origin of patient space"
)
SCANNER_FRAME = (
    "scanner's frame: the results lie in the frame of reference of the localisers, about the "
    "head's centre as it was found in both"
)
NO_COMMON_FRAME = (
    "no common frame of reference: the radiographs do not say where they lie relative to each "
    "other; their relation follows from the nominal geometry"
)

_PACKAGES = ("torch", "monai", "pydicom", "numpy")


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON cannot hold, by None, and -0.0 by 0.0."""
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None
    return value


Real = Annotated[float, BeforeValidator(_finite)]
RealOrNull = Annotated[float | None, BeforeValidator(_finite)]
Correlation = Annotated[float | None, Field(ge=-1.000001, le=1.000001), BeforeValidator(_finite)]
Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0)]
Seconds = Annotated[float | None, Field(ge=0), BeforeValidator(_finite)]
Byte = Annotated[int, Field(ge=0, le=255)]
Row = tuple[Real, Real, Real, Real]
T = TypeVar("T")
ByName = Annotated[dict[str, T], AfterValidator(lambda values: dict(sorted(values.items())))]


class ReportModel(BaseModel):
    """Part of the report; what does not belong is refused without being quoted."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class SourcedValue(ReportModel):
    """A geometric value and where it came from."""

    value: int | RealOrNull | str | list[RealOrNull]
    source: Literal["attribute", "default", "override", "derived"]
    """Read from the file, assumed, set by the operator, or computed from others."""
    attribute: str | None = None
    """DICOM keyword or setting it came from, or in words from what it was derived."""
    unit: str | None = None


class ViewEntry(ReportModel):
    """One radiograph as it was used."""

    role: Literal["frontal", "lateral"]
    view_position: Literal["AP", "PA", "LL", "RL"]
    geometry: ByName[SourcedValue]
    projection: tuple[Row, Row, Row] | tuple[Row, Row, Row, Row] | None = None
    """LPS mm about the isocentre to (column, row) of the network's image: numerators and their
    denominator, or of a localiser both denominators."""


class FindingEntry(ReportModel):
    """Something noticed while the study was read, paired or reconstructed."""

    code: Text
    severity: Literal["info", "warning", "error"]
    message: Text
    role: str | None = None
    attribute: str | None = None
    action: str | None = None


class GridEntry(ReportModel):
    """Grid of both volumes."""

    shape: tuple[Count, Count, Count]
    spacing_mm: tuple[Length, Length, Length]
    affine_ras: tuple[Row, Row, Row, Row]
    """Voxel index to RAS mm."""
    isocentre_lps_mm: tuple[Real, Real, Real] | None = None
    """Where the isocentre, the origin of ``projection``, lies in the scanner's frame; null where
    the images carry no such frame and the isocentre is the origin."""


class IntensityEntry(ReportModel):
    """What the values of the CT mean."""

    unit: Literal["HU"] = "HU"
    window: tuple[float, float] = HU_WINDOW
    file_range: tuple[int, int] = HU_FILE_RANGE
    note: Text = (
        f"The network saturates at {HU_WINDOW[1]:.0f} HU: denser bone, enamel and metal are "
        f"written as at most {HU_WINDOW[1]:.0f} HU, and air as {HU_WINDOW[0]:.0f} HU."
    )


class LabelEntry(ReportModel):
    """A value of the label map, and what the map and the CT hold of it."""

    value: Byte
    name: Text
    colour: tuple[Byte, Byte, Byte]
    voxels: Annotated[int, Field(ge=0)]
    volume_ml: Annotated[float, Field(ge=0)]
    mean_hu: float | None
    """Null where the label has no voxel."""


class ConsistencyEntry(ReportModel):
    """See :func:`~spider_bundle.outputs.consistency.reprojection_consistency`."""

    pearson: Correlation
    spearman: Correlation
    gradient_correlation: Correlation
    exposed_fraction: Annotated[float, Field(ge=0, le=1)]


class ConsistencyEntries(ReportModel):
    """Agreement of each radiograph with the reprojected CT."""

    frontal: ConsistencyEntry
    lateral: ConsistencyEntry


class FileEntry(ReportModel):
    """A file of the study's folder."""

    name: Annotated[str, Field(pattern=r"^[^/\\.][^\\]*$")]
    """Relative to the folder, with forward slashes."""
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Report(ReportModel):
    """Content of ``report.json``."""

    schema_version: Literal["1.1"] = "1.1"
    intended_use: IntendedUse = INTENDED_USE  # type: ignore[assignment]
    study_key: Annotated[str, Field(pattern="^[0-9A-Za-z][0-9A-Za-z_-]*$")]
    """Keyed hash of the study."""
    software: ByName[str | None]
    weights_sha256: Sha256 | None
    device: Text
    views: tuple[ViewEntry, ViewEntry]
    assumptions: tuple[Text, ...]
    findings: tuple[FindingEntry, ...]
    grid: GridEntry
    intensity: IntensityEntry = IntensityEntry()
    labels: tuple[LabelEntry, ...]
    reprojection: ConsistencyEntries | None
    timings_s: ByName[Seconds]
    files: tuple[FileEntry, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """Codes of the findings that are not mere information, with their names, each once."""
        codes = (found.code for found in self.findings if found.severity != "info")
        return [f"{code} {Code(code).words}" for code in dict.fromkeys(codes)]

    def with_files(self, files: Iterable[FileEntry]) -> Report:
        """Return the report with another list of files."""
        return self.model_copy(update={"files": tuple(files)})

    def to_json(self) -> dict[str, Any]:
        """Return the JSON values, keys in a fixed order."""
        return self.model_dump(mode="json")


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of ``report.json``."""
    schema = Report.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def build_report(result: Result) -> Report:
    """Assemble the report of one study, without its files.

    Raises:
        ValidationError: A value has no place in a report; the text does not quote it.
    """
    provenance, grid = result.provenance, result.grid
    return Report.model_validate(
        {
            "study_key": result.study_key,
            "software": software_versions(),
            "weights_sha256": result.weights_sha256,
            "device": result.device,
            "views": [asdict(view) for view in provenance.views],
            "assumptions": [
                ISOCENTRIC if provenance.isocentre is None else SCANNER_FRAME,
                *[NO_COMMON_FRAME][: provenance.isocentric_assumed],
            ],
            "findings": [found.facts() for found in provenance.findings],
            "grid": {
                "shape": grid.shape,
                "spacing_mm": np.asarray(grid.spacing).tolist(),
                "affine_ras": grid.ras_affine.tolist(),
                "isocentre_lps_mm": provenance.isocentre,
            },
            "labels": _labels(result),
            "reprojection": result.consistency,
            "timings_s": result.timings,
        }
    )


def _labels(result: Result) -> list[LabelEntry]:
    """Measure the volume and the mean HU of each label."""
    voxels, total = np.zeros((2, max(LABEL_NAMES) + 1))
    for labels, hu in zip(result.labels, result.hu, strict=True):  # weights are float64: by slices
        voxels += np.bincount(labels.ravel(), minlength=len(voxels))
        total += np.bincount(labels.ravel(), hu.ravel(), len(voxels))
    voxel_ml = abs(float(np.linalg.det(result.grid.affine[:3, :3]))) / 1000
    return [
        LabelEntry(
            value=value,
            name=name,
            colour=LABEL_COLOURS[value],
            voxels=int(voxels[value]),
            volume_ml=round(float(voxels[value]) * voxel_ml, 3),
            mean_hu=round(float(total[value] / voxels[value]), 1) if voxels[value] else None,
        )
        for value, name in sorted(LABEL_NAMES.items())
    ]


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write a report as UTF-8 JSON, atomically.

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def describe_files(folder: Path) -> list[FileEntry]:
    """Return every file below a folder, sorted by name.

    Args:
        folder: The study folder; names are relative to it.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        FileEntry(
            name=path.relative_to(folder).as_posix(),
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
        )
        for path in paths
    ]


def software_versions() -> dict[str, str | None]:
    """Return the versions of the bundle, of Python and of the packages that shape the result.

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
