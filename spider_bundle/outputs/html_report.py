"""Pages for people: one report for each study, and an index of a batch.

A page is one file. It loads nothing and runs no script; a content security policy says so to the
browser as well. The templates escape every text. Equal reports give equal bytes.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from spider_bundle import __version__
from spider_bundle.files import write_text
from spider_bundle.outputs.preview import PREVIEW_FILE
from spider_bundle.outputs.report import INTENDED_USE, REPORT_FILE

HTML_FILE = "report.html"
INDEX_FILE = "index.html"

STATES: tuple[str, ...] = ("done", "refused", "failed")
"""How a study of a batch can end."""

DAMAGED = "damaged"
"""Shown in place of the state of a study whose result cannot be read."""

_ORDER = ("failed", DAMAGED, "refused", "done")

MAXIMUM_PICTURES = 500
"""Studies of an index that are shown with a picture; more would make the page slow."""

_THUMBNAIL_WIDTH = 480


@dataclass(frozen=True)
class IndexEntry:
    """One study of a batch.

    Attributes:
        study_key: Keyed hash of the study; empty if it could not be read so far.
        state: One of :data:`STATES`.
        findings: Findings of a refusal or failure, with ``code``, ``message`` and perhaps
            ``severity`` and ``action``; those of a study that is done come from its report.
        seconds: How long it took, if known.
    """

    study_key: str
    state: str
    findings: Sequence[Mapping[str, Any]] = ()
    seconds: float | None = None


def report_page(report: Mapping[str, Any], preview: bytes) -> str:
    """Return the page of one study.

    Args:
        report: Content of ``report.json``.
        preview: The preview picture, PNG.
    """
    files: list[Mapping[str, Any]] = []
    series: dict[PurePosixPath, list[int]] = {}
    for entry in report["files"]:
        name = PurePosixPath(entry["name"])
        if name.name == HTML_FILE:  # it cannot hold its own hash
            continue
        if len(name.parts) > 2:  # the slices of a series are one row
            series.setdefault(name.parent, []).append(entry["bytes"])
        else:
            files.append(entry)
    picture = _data_url("image/png", preview)
    return _render(
        "report.html",
        report=report,
        preview=picture,
        picture=PREVIEW_FILE,
        files=files,
        series=series,
    )


def write_index(
    folder: str | os.PathLike[str],
    entries: Iterable[IndexEntry],
    run: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write ``index.html`` of a batch into its output folder, atomically.

    A study whose result cannot be read, or is no result, is shown as :data:`DAMAGED`; it does not
    concern the others. Studies that need somebody come first.

    Args:
        folder: Output folder, which holds a folder for each study that is done.
        entries: The studies.
        run: What to tell about the last run, e.g. its date and settings.

    Returns:
        The page.

    Raises:
        ValueError: A state is none of :data:`STATES`.
        OSError: The page cannot be written.
    """
    listed = list(entries)
    unknown = {entry.state for entry in listed} - set(STATES)
    if unknown:
        raise ValueError(f"states are {', '.join(STATES)}, got {', '.join(sorted(unknown))}")
    rows: list[dict[str, Any]] = []
    for entry in listed:
        with_picture = sum(bool(row.get("picture")) for row in rows) < MAXIMUM_PICTURES
        rows.append(_row(Path(folder), entry, with_picture))
    counts = Counter(row["state"] for row in rows)
    versions = {text for row in rows for text in row.get("software", ())}
    page = _render(
        "index.html",
        rows=[row["html"] for row in sorted(rows, key=lambda row: _ORDER.index(row["state"]))],
        counts={name: counts[name] for name in (*STATES, *[DAMAGED][: counts[DAMAGED]])},
        run=run,
        software=sorted(versions) or [f"spider_bundle {__version__}"],
        weights=sorted({row["weights"] for row in rows if row.get("weights")}),
    )
    target = Path(folder, INDEX_FILE)
    # JSON can hold half a surrogate pair, which is no text
    write_text(target, page, errors="backslashreplace")
    return target


@dataclass(frozen=True)
class ValidationEntry:
    """One study of a validation.

    Attributes:
        study_key: Keyed hash of the study.
        code: Why it was not scored; empty if it was.
        detail: The same in words.
        scores: Scores after registration by name.
        shift_mm: Length of the translation of the rigid fit.
        turn_degrees: Angle of its rotation.
        picture: CT and reconstruction side by side, PNG.
    """

    study_key: str
    code: str
    detail: str
    scores: Mapping[str, float | None]
    shift_mm: float | None
    turn_degrees: float | None
    picture: Path | None


def write_validation_page(
    path: Path, entries: Sequence[ValidationEntry], table: str, remarks: Sequence[str]
) -> None:
    """Write the page of a validation, atomically.

    Args:
        path: The page.
        entries: The studies.
        table: The table of the means, markdown.
        remarks: What it does not hold, in words.

    Raises:
        OSError: It cannot be written.
    """
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    pictures = [
        _data_url("image/png", entry.picture.read_bytes()) if entry.picture else ""
        for entry in entries[:MAXIMUM_PICTURES]
    ] + [""] * max(0, len(entries) - MAXIMUM_PICTURES)
    page = _render(
        "validation.html",
        entries=list(zip(entries, pictures, strict=True)),
        head=cells[0] if cells else [],
        rows=cells[2:],
        remarks=remarks,
    )
    write_text(path, page, errors="backslashreplace")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("spider_bundle.outputs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "quantity": _quantity}
    return environment


def _render(template: str, **values: Any) -> Markup:
    page = _environment().get_template(template).render(intended_use=INTENDED_USE, **values)
    return Markup(page)


def _row(folder: Path, entry: IndexEntry, with_picture: bool) -> dict[str, Any]:
    """Return what the index shows of a study, with its ``state`` and ``html``; never raises."""
    try:
        study: dict[str, Any] = {"state": entry.state, "findings": entry.findings}
        if entry.state == "done":
            study |= _finished_study(folder, entry.study_key, with_picture)
        return study | {"html": _render("index_row.html", entry=entry, study=study)}
    except Exception:  # anything may stand in files of earlier runs
        study = {"state": DAMAGED, "findings": [_damage("what is stored of it")]}
        plain = IndexEntry(entry.study_key, entry.state)
        return study | {"html": _render("index_row.html", entry=plain, study=study)}


def _damage(subject: str) -> dict[str, str]:
    """Return a finding about a result that cannot be read."""
    return {
        "severity": "error",
        "message": f"the result is damaged: {subject} cannot be read",
        "action": "run the batch again with the study's radiographs in the input",
    }


def _finished_study(folder: Path, key: str, with_picture: bool) -> dict[str, Any]:
    """Read a finished study; one whose report is gone is shown without details.

    Raises:
        Exception: Its report cannot be read, or is no report; of many kinds.
    """
    try:
        report = json.loads((folder / key / REPORT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        gone = {"severity": "error", "message": "the study's report is no longer in its folder"}
        return {"findings": [gone]}
    links = {"report": HTML_FILE, "picture": PREVIEW_FILE, "data": REPORT_FILE}
    study = {
        "findings": list(report["findings"]),
        "views": list(report["views"]),
        "reprojection": report["reprojection"] or {},
        "software": [f"{name} {value}" for name, value in report["software"].items() if value],
        "weights": str(report["weights_sha256"] or ""),
        "links": {
            name: f"{key}/{file}" for name, file in links.items() if (folder / key / file).is_file()
        },
    }
    if with_picture:
        try:
            study["picture"] = _thumbnail(folder / key / PREVIEW_FILE)
        except Exception:  # Pillow's readers have many kinds of errors
            study |= {"state": DAMAGED, "findings": [*study["findings"], _damage("its picture")]}
    return study


def _thumbnail(path: Path) -> str:
    """Return a small picture as a data URL.

    Raises:
        Exception: It cannot be read; of many kinds.
    """
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_THUMBNAIL_WIDTH, _THUMBNAIL_WIDTH))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return _data_url("image/jpeg", stream.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def _quantity(item: Mapping[str, Any]) -> str:
    """Return a sourced value with its unit as text."""
    value = item["value"]
    many = value if isinstance(value, list) else [value]
    shown = ", ".join(v if isinstance(v, str) else _number(v) for v in many)
    return f"{shown} {item.get('unit') or ''}".strip()
