"""From a folder of CT scans to head cases on disk, with report, preview and datalist.

A scan's outputs lie in ``cases/<id>/``; its ``case.json`` is written last and marks it as done, so
that a run can be cut at any time and continued. Names are keyed hashes; no file holds an identity.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tqdm import tqdm

from spider_bundle import __version__
from spider_bundle.cases.case import MANDIBLE_CONTOUR, load_case
from spider_bundle.cases.contact_sheet import write_sheets, write_tile
from spider_bundle.cases.prepare import MEASURED_SHARE, PreparedHead, moved, prepare_head
from spider_bundle.cases.quality import CHECKS, Verdict
from spider_bundle.cases.resampling import resample
from spider_bundle.cases.scan import Scan, ScanSource, find_scans, read_scan
from spider_bundle.cases.volume import read_volume
from spider_bundle.dicom.studies import PUBLIC_KEY
from spider_bundle.errors import CODES, Code, SpiderError
from spider_bundle.files import atomic_path
from spider_bundle.logs import is_debugging, silent_pydicom
from spider_bundle.outputs.nifti import write_ct, write_labels
from spider_bundle.pseudonym import pseudonym

_log = logging.getLogger(__name__)

DATALIST = "datalist.json"
REPORT = "report.json"
_CASE = "case.json"
_CASES = "cases"
_SHOWN_OPTIONS = {"spacing", "size", "validation_share"}
_FINE_MARGIN_MM = 2.0  # of a segmentation, if the voxels are not larger


class PrepareOptions(BaseModel):
    """Options of the preparation of scans.

    Attributes:
        spacing: Voxel size of the cases, mm.
        size: Side of the cube, mm.
        validation_share: Share of the patients that validate, 0 to 1.
        contours: Name of the mandible's segmentation (see :func:`~.scan.find_scans`).
        patient_pattern: Regular expression of the patient in the paths of volumes.
        key: Secret of the site for all hashes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    spacing: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    size: float = Field(default=256.0, ge=64, le=1024)
    validation_share: float = Field(default=0.15, ge=0, le=1)
    contours: str = "{stem}_mandible.nii.gz"
    patient_pattern: str | None = None
    key: str = Field(default=PUBLIC_KEY, repr=False)

    @model_validator(mode="after")
    def _fits_memory(self) -> Self:
        if self.size / self.spacing > 1024:
            raise ValueError("the spacing is too fine: at most 1024 voxels along the cube")
        return self


@dataclass(frozen=True)
class PreparedCases:
    """Result of a run.

    Attributes:
        prepared: Ids of the cases that are ready, old ones included.
        rejected: Codes by id of the scans that are not.
        skipped: How many of both were done before.
        paths: Volume, or folder of the series, of each scan by its id; only for who named them.
    """

    prepared: tuple[str, ...]
    rejected: Mapping[str, Code]
    skipped: int
    paths: Mapping[str, Path] = field(default_factory=dict, repr=False)

    @property
    def failed(self) -> int:
        """Number of scans that failed unexpectedly."""
        return sum(code == Code.PREPARATION_FAILED for code in self.rejected.values())


def prepare_folder(
    folder: str | Path,
    output: str | Path,
    options: PrepareOptions | None = None,
    *,
    isocentres: Mapping[str, Sequence[float]] | None = None,
    progress: bool = False,
    isolated: bool = False,
) -> PreparedCases:
    """Prepare every scan below a folder.

    Args:
        folder: Any tree of DICOM series and volumes (see :func:`~.scan.find_scans`).
        output: Folder for the results; may lie below ``folder`` and is then not searched.
        options: See :class:`PrepareOptions`.
        isocentres: LPS mm in the space of a scan, by its path below the folder (a volume, or
            the folder of a series), by its SeriesInstanceUID or by its case id.
        progress: Show a progress bar.
        isolated: Prepare in a child process, so that a file that crashes a decoder costs no scan
            but its own. The main module must be importable (see :mod:`multiprocessing`).

    Raises:
        ValueError: An option is wrong, or an isocentre belongs to no scan.
        NotADirectoryError: There is no such folder.
        OSError: The results cannot be written.
    """
    options = options or PrepareOptions()
    root, out = Path(folder), Path(output)
    if not root.is_dir():
        raise NotADirectoryError("the folder of scans does not exist")
    with silent_pydicom():  # what DICOM readers say may quote identifiers
        sources = find_scans(
            root,
            contours=options.contours,
            patient_pattern=options.patient_pattern,
            leave_out=out,
        )
    stated = _stated(sources, isocentres or {}, options.key)
    (out / _CASES).mkdir(parents=True, exist_ok=True)
    records = []
    skipped = 0
    with _Preparer(isolated) as prepare:
        for source in tqdm(sources, unit="scan", disable=not progress):
            case = case_id(source, options.key)
            target = out / _CASES / case
            fingerprint = _fingerprint(source, options, stated.get(case))
            record = _finished(target, fingerprint)
            if record is None:
                record = prepare(source, target, options, stated.get(case))
                record["fingerprint"] = fingerprint
                _write_json(target / _CASE, record)
            else:
                skipped += 1
            records.append(record)
    records.sort(key=lambda record: record["case"])
    _write_lists(out, records, options)
    ready = tuple(r["case"] for r in records if r["code"] is None)
    rejected = {r["case"]: Code(r["code"]) for r in records if r["code"] is not None}
    for case, code in rejected.items():
        _log.error("scan %s rejected: %s %s", case, code.value, CODES[code].condition)
    paths = {case_id(source, options.key): root / source.name for source in sources}
    return PreparedCases(ready, rejected, skipped, paths)


def case_id(source: ScanSource, key: str = PUBLIC_KEY) -> str:
    """Return the name of a scan in files and reports: 16 hexadecimal digits of HMAC-SHA256."""
    return pseudonym(key, f"scan:{source.uid}")[:16]


def subject_id(source: ScanSource, key: str = PUBLIC_KEY) -> str:
    """Return the name of a patient in files and reports: 16 hexadecimal digits of HMAC-SHA256."""
    return pseudonym(key, f"patient:{source.patient}")[:16]


def is_validation(subject: str, share: float) -> bool:
    """Tell whether a patient validates, by its id alone: patients never change sides.

    Args:
        subject: See :func:`subject_id`.
        share: Share of the patients that validate; a larger one only adds patients.
    """
    digest = hashlib.sha256(f"split:{subject}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def read_isocentres(path: str | Path) -> dict[str, tuple[float, float, float]]:
    """Read stated isocentres.

    Args:
        path: JSON ``{scan: [x, y, z]}``, or CSV with the columns scan, x, y, z; LPS mm.

    Raises:
        ValueError: The file is neither.
        OSError: The file cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        if Path(path).suffix.lower() == ".json":
            rows = [(name, *values) for name, values in json.loads(text).items()]
        else:
            table = csv.DictReader(text.splitlines(), skipinitialspace=True)
            rows = [(row["scan"], row["x"], row["y"], row["z"]) for row in table]
        found = {str(name): (float(x), float(y), float(z)) for name, x, y, z in rows}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("isocentres are JSON {scan: [x, y, z]} or CSV scan,x,y,z") from error
    if not np.isfinite(list(found.values())).all():
        raise ValueError("isocentres must be finite")
    return found


def _stated(
    sources: Sequence[ScanSource], isocentres: Mapping[str, Sequence[float]], key: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Return isocentres by case id."""
    left = set(isocentres)
    stated = {}
    for source in sources:
        case = case_id(source, key)
        names = {source.name, source.uid.split("|")[0], case} & set(isocentres)
        if names:
            stated[case] = np.asarray(isocentres[min(names)], dtype=np.float64)
            left -= names
    if left:
        raise ValueError(f"{len(left)} stated isocentres belong to no scan")
    return stated


def _fingerprint(
    source: ScanSource, options: PrepareOptions, isocentre: npt.NDArray[np.float64] | None
) -> str:
    """Return a keyed hash of everything that the outputs of a scan depend on."""
    files = [*source.files, *([source.contours] if source.contours else [])]
    # of a link that leads nowhere, the link itself
    status = [(path.name, path.stat() if path.exists() else path.lstat()) for path in files]
    stats = [(name, one.st_size, one.st_mtime_ns) for name, one in status]
    where = None if isocentre is None else isocentre.tolist()
    facts = [__version__, options.spacing, options.size, where, source.patient, stats]
    return pseudonym(options.key, f"inputs:{json.dumps(facts)}")


def _finished(target: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the record of a scan whose outputs are complete and up to date."""
    try:
        record: dict[str, Any] = json.loads((target / _CASE).read_text(encoding="utf-8"))
        complete = all((target / n).stat().st_size == size for n, size in record["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return record if complete and record.get("fingerprint") == fingerprint else None


class _Preparer:
    """Prepares scans, in a child process if they are isolated; a dead child is replaced."""

    def __init__(self, isolated: bool) -> None:
        self._isolated = isolated
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __call__(
        self,
        source: ScanSource,
        target: Path,
        options: PrepareOptions,
        isocentre: npt.NDArray[np.float64] | None,
    ) -> dict[str, Any]:
        """Prepare a scan; return its record."""
        if not self._isolated:
            return _prepare(source, target, options, isocentre)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        try:
            return self._pool.submit(_prepare, source, target, options, isocentre).result()
        except BrokenProcessPool:
            self.__exit__()
            record = _new_record(source, target, options)
            return _rejected(record, Code.PREPARATION_FAILED, "the process died")


def _prepare(
    source: ScanSource,
    target: Path,
    options: PrepareOptions,
    isocentre: npt.NDArray[np.float64] | None,
) -> dict[str, Any]:
    """Prepare a scan and write its files; return its record."""
    record = _new_record(source, target, options)
    try:
        scan = read_scan(source)
        head = prepare_head(
            scan.hu,
            scan.measured,
            scan.grid,
            spacing=options.spacing,
            size=options.size,
            isocentre=isocentre,
            gantry_tilt=scan.gantry_tilt,
        )
        record["checks"] = {
            name: {"value": None if value is None else round(value, 4), "verdict": verdict.value}
            for (name, value), verdict in zip(
                head.checks.items(), head.verdicts.values(), strict=True
            )
        }
        record["verdict"] = head.verdict.value
        record["isocentre"] = {
            "source": "stated" if isocentre is not None else "analytic head",
            "scan_lps_mm": [round(float(v), 3) for v in head.isocentre],
        }
        bad = [name for name, verdict in head.verdicts.items() if verdict == Verdict.REJECT]
        if bad:
            raise SpiderError(Code.QUALITY_CHECK_FAILED, ", ".join(bad))
        margin = _write_case(source, scan, head, target)
    except SpiderError as error:
        return _rejected(record, error.code, error.detail)
    except OSError:
        raise
    except Exception as error:  # whatever it is, it must not take other scans down
        if is_debugging():
            raise
        # its text may name files
        return _rejected(record, Code.PREPARATION_FAILED, type(error).__name__)
    if margin is not None:
        record["contour_margin"] = margin
    record["files"] = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
    return record


def _new_record(source: ScanSource, target: Path, options: PrepareOptions) -> dict[str, Any]:
    """Return the record of a scan of which nothing is known yet, and empty its folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return {
        "case": target.name,
        "subject": subject_id(source, options.key),
        "code": None,
        "detail": "",
        "verdict": Verdict.REJECT.value,
        "checks": {},
        "isocentre": None,
        "files": {},
    }


def _rejected(record: dict[str, Any], code: Code, detail: str) -> dict[str, Any]:
    return record | {"code": code.value, "detail": detail, "verdict": Verdict.REJECT.value}


def _write_case(source: ScanSource, scan: Scan, head: PreparedHead, target: Path) -> float | None:
    """Write the files of a case; return the margin of its contours, mm, if it has any."""
    entry: dict[str, Any] = {"ct": target / "ct.nii.gz", "valid": target / "valid.nii.gz"}
    write_ct(entry["ct"], head.hu, head.grid)
    write_labels(entry["valid"], head.measured.astype(np.uint8), head.grid)
    if source.contours is not None:
        try:
            segmentation, grid = read_volume(source.contours)
        except SpiderError as error:
            raise SpiderError(error.code, "segmentation") from error
        share, _ = resample(
            segmentation > 0,
            np.ones(grid.shape, dtype=bool),
            grid,
            moved(head.grid, head.isocentre),
        )
        mandible = (share >= MEASURED_SHARE) & head.measured
        if mandible.any():
            entry["contours"] = target / "contours.nii.gz"
            entry["contour_margin"] = max(_FINE_MARGIN_MM, *scan.grid.spacing, *head.grid.spacing)
            write_labels(entry["contours"], np.where(mandible, MANDIBLE_CONTOUR, 0), head.grid)
    warned = [name for name, verdict in head.verdicts.items() if verdict == Verdict.WARN]
    title = f"{target.name}  {head.verdict.value}" + (": " if warned else "") + ", ".join(warned)
    write_tile(target / "preview.png", load_case(entry), title)
    margin = entry.get("contour_margin")
    return None if margin is None else float(margin)


def _write_lists(out: Path, records: Sequence[Mapping[str, Any]], options: PrepareOptions) -> None:
    """Write datalist, report and preview sheets over all scans."""
    datalist: dict[str, Any] = {
        "name": "prepared head cases",
        "modality": {"0": "CT"},
        "spacing_mm": options.spacing,
        "size_mm": options.size,
        "validation_share": options.validation_share,
        "training": [],
        "validation": [],
        "rejected": [],
    }
    tiles = []
    for record in records:
        if record["code"] is not None:
            keys = ("case", "subject", "code", "detail")
            datalist["rejected"].append({key: record[key] for key in keys})
            continue
        folder = f"{_CASES}/{record['case']}"
        entry = {
            "case": record["case"],
            "subject": record["subject"],
            "ct": f"{folder}/ct.nii.gz",
            "valid": f"{folder}/valid.nii.gz",
        }
        if "contour_margin" in record:
            entry["contours"] = f"{folder}/contours.nii.gz"
            entry["contour_margin"] = record["contour_margin"]
        side = is_validation(record["subject"], options.validation_share)
        datalist["validation" if side else "training"].append(entry)
        tiles.append(out / folder / "preview.png")
    hidden = ("fingerprint", "files")
    report = {
        "version": __version__,
        "options": options.model_dump(include=_SHOWN_OPTIONS),
        "site_key": "public" if options.key == PUBLIC_KEY else "secret",
        "checks": {name: limits.meaning for name, limits in CHECKS.items()},
        "counts": {
            "prepared": len(tiles),
            "rejected": len(records) - len(tiles),
            "patients": len({record["subject"] for record in records}),
        },
        "scans": [{k: v for k, v in record.items() if k not in hidden} for record in records],
    }
    _write_json(out / REPORT, report)
    write_sheets(out, tiles)
    _write_json(out / DATALIST, datalist)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")
