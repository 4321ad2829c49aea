"""Validate on one's own CT studies: reconstruct from the localisers, score against the CT.

The reconstruction is a batch in ``results``; what the scoring keeps of a study lies in
``cases/<study key>`` and is made once. Nothing holds an identity, and nothing leaves the machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from spider_bundle import __version__
from spider_bundle.batch.options import BatchOptions, sha256_of, site_key
from spider_bundle.batch.outcome import Outcome
from spider_bundle.batch.runner import run_batch
from spider_bundle.cases.scan import Scan, ScanSource, find_scans, read_scan
from spider_bundle.dicom.studies import Study, find_studies
from spider_bundle.errors import CODES, Code, SpiderError
from spider_bundle.evaluation.figures import draw_side_by_side
from spider_bundle.evaluation.tables import comparison_table, write_scores, write_text
from spider_bundle.evaluation.validation import (
    MEAN_CT,
    REGISTERED,
    Comparison,
    axial_series,
    compare_result,
    comparison_record,
    read_result,
    score_mean_ct,
)
from spider_bundle.files import atomic_path, file_sha256
from spider_bundle.logs import is_debugging, silent_pydicom
from spider_bundle.outputs.html_report import ValidationEntry, write_validation_page
from spider_bundle.outputs.nifti import write_ct, write_labels
from spider_bundle.outputs.report import REPORT_FILE
from spider_bundle.outputs.study import is_whole

RESULTS, CASES = "results", "cases"
"""Folders of the reconstructions and of what is kept of the scoring."""
PAGE, TABLE, SCORES = "validation.html", "validation.md", "validation"
RECORD, PICTURE = "record.json", "picture.png"
_TRUTH = ("truth.nii.gz", "truth_label.nii.gz", "measured.nii.gz")


def validate(options: BatchOptions) -> tuple[Outcome, list[dict[str, Any]]]:
    """Reconstruct and score every CT study with a pair of localisers of the head.

    Args:
        options: Input and output of the whole, and how to reconstruct; the rest is as in a batch.

    Returns:
        How the reconstruction ended, and the record of each study, with its code if it was not
        scored.

    Raises:
        SpiderError: As :func:`~spider_bundle.batch.runner.run_batch`.
        OSError: A result cannot be written.
    """
    results = options.output / RESULTS
    outcome = run_batch(replace(options, output=results, kind="localiser"))
    records = []
    for study in find_studies(options.input, key=site_key(options), kind="localiser").studies:
        if is_whole(results, study.key):
            records.append(_scored(study, results / study.key, options.output / CASES / study.key))
    _add_mean_ct(records, options.output / CASES)
    _write_summary(records, options.output)
    return outcome, records


def compare(ct: Path, result: Path, output: Path | None = None) -> str:
    """Compare one result with the CT of the same head.

    Args:
        ct: A folder with a DICOM series, of which the longest is taken, or a volume.
        result: Folder of the result.
        output: Folder for the scores and the pictures, if they are wanted.

    Returns:
        The table of the scores, markdown.

    Raises:
        SpiderError: N07, P01 to P14: one of the two cannot be used.
        OSError: The output cannot be written.
    """
    with silent_pydicom():
        sources = find_scans(ct) if ct.is_dir() else [ScanSource("", "", "", (ct,))]
        usable = sorted((s for s in sources if s.fault is None), key=lambda s: -len(s.files))
        scan = _first_readable([source.files for source in usable])
    comparison = compare_result(read_result(result), scan)
    record = {"case": result.name, **comparison_record(comparison)}
    if output is not None:
        write_comparison(comparison, output)
        with atomic_path(output / RECORD) as path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    rows = {title: [scores] for title, scores in record["scores"].items()}
    fit = f"moved by {record['shift_mm']:.1f} mm and {record['turn_degrees']:.1f} degrees"
    error = record["position_error_mm"]
    where = "" if error is None else f"; position error of bone {error:.1f} mm"
    return f"{comparison_table(rows)}\nregistered: {fit}{where}"


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write the prepared CT on the grid about its isocentre, and the pictures side by side."""
    head = comparison.head
    folder.mkdir(parents=True, exist_ok=True)
    grid = head.grid.moved(head.isocentre)
    write_ct(folder / _TRUTH[0], head.hu, grid)
    write_labels(folder / _TRUTH[1], head.structure, grid)
    write_labels(folder / _TRUTH[2], head.measured.astype(np.uint8), grid)
    draw_side_by_side(head.hu, comparison.registered.hu, folder / PICTURE)


def _scored(study: Study, result: Path, folder: Path) -> dict[str, Any]:
    """Return the record of a study; it is scored if that is not done."""
    series = axial_series(study)
    facts = [__version__, file_sha256(result / REPORT_FILE)]
    for path in (path for files in series for path in files):
        status = path.stat()
        facts += [path.name, str(status.st_size), str(status.st_mtime_ns)]
    fingerprint = sha256_of({"facts": facts})
    record = _finished(folder, fingerprint)
    if record is not None:
        return record
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record = {"case": study.key, "fingerprint": fingerprint}
    try:
        comparison = compare_result(read_result(result), _first_readable(series))
        write_comparison(comparison, folder)
        record |= comparison_record(comparison)
    except SpiderError as error:
        record |= {"code": error.code.value, "detail": error.message}
    except OSError:
        raise
    except Exception as error:  # whatever it is, it must not take other studies down
        if is_debugging():
            raise
        record |= {"code": Code.STUDY_FAILED.value, "detail": type(error).__name__}
    with atomic_path(folder / RECORD) as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _finished(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = () if record.get("code") else (*_TRUTH, PICTURE)
    is_complete = all((folder / name).is_file() for name in names)
    return record if is_complete and record.get("fingerprint") == fingerprint else None


def _first_readable(series: Sequence[tuple[Path, ...]]) -> Scan:
    """Return the first series that is a usable scan.

    Raises:
        SpiderError: P08, there is none; or why the largest cannot be used.
    """
    first: SpiderError | None = None
    for files in series:
        try:
            with silent_pydicom():
                return read_scan(ScanSource("", "", "", files))
        except SpiderError as error:
            first = first or error
    raise first or SpiderError(
        Code.SCAN_TOO_SMALL, "no axial slices of the head in the localisers' frame"
    )


def _truth(folder: Path) -> list[np.ndarray]:
    return [np.asarray(nibabel.load(folder / name).dataobj) for name in _TRUTH]


def _add_mean_ct(records: Sequence[dict[str, Any]], cases: Path) -> None:
    """Score the mean CT of the other studies, where there are at least two."""
    scored = [record for record in records if not record["code"]]
    if len(scored) < 2:
        return
    shapes = [nibabel.load(cases / record["case"] / _TRUTH[0]).shape for record in scored]
    scored = [r for r, shape in zip(scored, shapes, strict=True) if shape == shapes[0]]
    total = sum(_truth(cases / record["case"])[0].astype(np.float64) for record in scored)
    for record in scored:
        image = nibabel.load(cases / record["case"] / _TRUTH[0])
        hu, labels, measured = _truth(cases / record["case"])
        mean = ((total - hu) / (len(scored) - 1)).astype(np.float32)
        spacing = tuple(float(v) for v in image.header.get_zooms()[:3])
        scores = score_mean_ct(
            hu.astype(np.float32), labels.astype(np.uint8), measured > 0, mean, spacing
        )
        record["scores"] = {**record["scores"], MEAN_CT: scores}


def _write_summary(records: Sequence[dict[str, Any]], output: Path) -> None:
    """Write the scores, the table and the page."""
    scored = [record for record in records if not record["code"]]
    rows: dict[str, list[dict[str, Any]]] = {}
    for record in scored:
        for title, scores in record["scores"].items():
            rows.setdefault(title, []).append({"case": record["case"], **scores})
    for title, these in rows.items():
        write_scores(output, f"{SCORES}_{title.replace(' ', '_')}", these, {})
    table = comparison_table(rows) if rows else ""
    lines = [table, *(f"{line}\n" for line in _remarks(records))]
    write_text(output / TABLE, "\n".join(lines))
    entries = [
        ValidationEntry(
            record["case"],
            record["code"] or "",
            record.get("detail") or (CODES[Code(record["code"])].action if record["code"] else ""),
            record.get("scores", {}).get(REGISTERED, {}),
            record.get("shift_mm"),
            record.get("turn_degrees"),
            (output / CASES / record["case"] / PICTURE) if not record["code"] else None,
        )
        for record in records
    ]
    write_validation_page(output / PAGE, entries, table, list(_remarks(records)))


def _remarks(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return what the table does not hold, in words."""
    scored = [record for record in records if not record["code"]]
    yield f"{len(scored)} studies scored, {len(records) - len(scored)} not."
    errors = [record["position_error_mm"] for record in scored]
    if errors:
        yield (
            "Position error (translation of the best rigid fit of bone above 250 HU): "
            f"{np.mean(errors):.1f} mm in the mean, {max(errors):.1f} mm at most."
        )
