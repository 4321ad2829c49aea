"""Pages for people: one report for each study, and an index of a batch.

A page is one file. It loads nothing, from nowhere, and runs no script; a content security policy
says so to the browser as well. Every text is escaped. Equal reports give equal bytes.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from spider_bundle import __version__
from spider_bundle.files import atomic_path
from spider_bundle.outputs.preview import PREVIEW_FILE
from spider_bundle.outputs.report import INTENDED_USE, REPORT_FILE

HTML_FILE = "report.html"
INDEX_FILE = "index.html"

STATES: tuple[str, ...] = ("done", "refused", "failed")
"""How a study of a batch can end."""

DAMAGED = "damaged"
"""What an index says in place of the state of a study whose result cannot be read."""

MAXIMUM_PICTURES = 500
"""Studies of an index that are shown with a picture; more would make the page slow."""

_THUMBNAIL_WIDTH = 480

_STYLE = """
:root { color-scheme: light dark; --line: #c9d1d8; --soft: #f2f5f7; --dim: #55626d;
  --text: #14191d; --page: #fff; --amber: #8a5a00; --red: #b3261e; --green: #1b6b3a; }
@media (prefers-color-scheme: dark) { :root { --line: #35404a; --soft: #1b2229; --dim: #9aa8b4;
  --text: #e6e9ec; --page: #101418; --amber: #f2b84b; --red: #ff8a80; --green: #7ed6a0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--page);
  color: var(--text); font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; }
.notice { border: 2px solid var(--red); color: var(--red); font-weight: 600;
  padding: .5rem .8rem; margin: .8rem 0; border-radius: 4px; }
.dim { color: var(--dim); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left;
  vertical-align: top; }
td ul { margin: 0; padding-left: 1.1em; }
td p { margin: 0; }
td.study { white-space: nowrap; }
th { background: var(--soft); font-weight: 600; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .88em;
  overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; border-radius: 4px; background: #101418; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr));
  gap: 0 2rem; }
.swatch { display: inline-block; width: .9em; height: .9em; border: 1px solid var(--line);
  margin-right: .4em; vertical-align: -.1em; }
.done { color: var(--green); } .warning, .refused { color: var(--amber); }
.error, .failed, .damaged { color: var(--red); }
.state { font-weight: 600; }
td.picture { width: 18rem; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; }
  tr, img { break-inside: avoid; } }
"""


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


@dataclass(frozen=True)
class _Study:
    """What an index shows of a finished study."""

    findings: Sequence[Mapping[str, Any]] = ()
    geometry: str = ""
    agreement: str = ""
    software: Sequence[str] = ()
    weights: str = ""
    picture: str = ""
    link: str = ""
    is_damaged: bool = False


def write_html_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` beside ``report.json`` and ``preview.png``, from these two.

    Args:
        folder: Study folder.

    Returns:
        The page.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: The report is no JSON.
        KeyError: The report is not one of
            :func:`~spider_bundle.outputs.report.build_report`.
    """
    report = json.loads(Path(folder, REPORT_FILE).read_text(encoding="utf-8"))
    return write_report_page(folder, report)


def write_report_page(folder: str | os.PathLike[str], report: Mapping[str, Any]) -> Path:
    """Write ``report.html`` from a report that is not on disk yet; else as above.

    Args:
        folder: Study folder with ``preview.png``.
        report: Result of :func:`~spider_bundle.outputs.report.build_report`.
    """
    target = Path(folder, HTML_FILE)
    preview = Path(folder, PREVIEW_FILE).read_bytes()
    _write(target, report_page(report, preview))
    return target


def report_page(report: Mapping[str, Any], preview: bytes) -> str:
    """The page of one study.

    Args:
        report: Result of :func:`~spider_bundle.outputs.report.build_report`.
        preview: The preview picture, PNG.
    """
    key = report["study_key"]
    picture = base64.b64encode(preview).decode("ascii")
    grid = report["grid"]
    views = "".join(_view(view) for view in report["views"])
    labels = "".join(
        f'<tr><td>{int(label["value"])}</td><td><span class="swatch" '
        f'style="background: rgb({",".join(str(int(c)) for c in label["colour"])})"></span>'
        f"{_text(label['name'])}</td></tr>"
        for label in report["labels"]
    )
    body = f"""<h1>Head CT from two radiographs</h1>
<p class="dim">Study <code>{_text(key)}</code></p>
<p class="notice">{_text(report["intended_use"])}</p>
<img alt="Radiographs, reprojections and planes of the reconstruction, with and without labels"
 src="data:image/png;base64,{picture}">
<h2>Findings</h2>
{_findings(report["findings"])}
<h2>Assumptions</h2>
{_list(report["assumptions"])}
<h2>Geometry</h2>
<div class="columns">{views}</div>
<h2>Agreement with the radiographs</h2>
{_agreement(report["reprojection"])}
<p class="dim">High values are necessary and not sufficient: many heads have the same two
projections.</p>
<h2>Volume</h2>
{
        _table(
            ("", ""),
            [
                ("voxels", " × ".join(map(str, grid["shape"]))),
                ("voxel size", " × ".join(map(_number, grid["spacing_mm"])) + " mm"),
                ("values", report["intensity"]["note"]),
            ],
        )
    }
<h3>Labels</h3>
<table><tr><th>value</th><th>name</th></tr>{labels}</table>
<h2>Software</h2>
{
        _table(
            ("", ""),
            [
                *((name, value or "not installed") for name, value in report["software"].items()),
                ("weights, SHA-256", _code(report["weights_sha256"] or "none: untrained network")),
                ("device", report["device"]),
                *(
                    (f"time to {name}", "not known" if s is None else f"{s:.2f} s")
                    for name, s in report["timings_s"].items()
                ),
            ],
        )
    }
<h2>Files</h2>
{_table(("name", "bytes", "SHA-256"), _files(report["files"]))}"""
    return _page(f"Study {key}", body)


def write_index(folder: str | os.PathLike[str], entries: Iterable[IndexEntry]) -> Path:
    """Write ``index.html`` of a batch into its output folder, atomically.

    A study whose result cannot be read, or is no result, is shown as :data:`DAMAGED`; it does not
    concern the others.

    Args:
        folder: Output folder, which holds a folder for each study that is done.
        entries: The studies in the order to show them.

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
    pictures = 0
    rows, shown, studies = [], [], []
    for entry in listed:
        row, study = _row(Path(folder), entry, pictures < MAXIMUM_PICTURES)
        rows.append(row)
        shown.append(DAMAGED if study.is_damaged else entry.state)
        studies.append(study)
        pictures += bool(study.picture)
    states = [*STATES, DAMAGED] if DAMAGED in shown else STATES
    counts = ", ".join(
        f'<span class="state {state}">{shown.count(state)} {state}</span>' for state in states
    )
    versions = sorted({text for study in studies for text in study.software})
    weights = sorted({study.weights for study in studies if study.weights})
    head = "<tr><th>Picture</th><th>Study</th><th>Geometry, agreement</th><th>Findings</th></tr>"
    body = f"""<h1>Batch of {len(listed)} studies</h1>
<p>{counts}</p>
<p class="notice">{_text(INTENDED_USE)}</p>
<div class="wide"><table>{head}{"".join(rows)}</table></div>
<h2>Software</h2>
<p>{_text(", ".join(versions) or f"spider_bundle {__version__}")}</p>
<p>Weights, SHA-256: {", ".join(_code(w).html for w in weights) or "none"}</p>"""
    target = Path(folder, INDEX_FILE)
    _write(target, _page("Batch", body))
    return target


def _row(folder: Path, entry: IndexEntry, with_picture: bool) -> tuple[str, _Study]:
    """The row of a study, and what it shows; what cannot be read concerns this row only."""
    try:
        study = _Study(findings=entry.findings)
        if entry.state == "done":
            study = _study(folder, entry.study_key, with_picture)
        return _cells(entry, study), study
    except Exception:  # anything may stand in files of earlier runs
        study = _Study(findings=[_damage("what is stored of it")], is_damaged=True)
        return _cells(IndexEntry(entry.study_key, entry.state), study), study


def _damage(subject: str) -> dict[str, str]:
    """A finding about a result that cannot be read."""
    return {
        "severity": "error",
        "message": f"the result is damaged: {subject} cannot be read",
        "action": "run the batch again with the study's radiographs in the input",
    }


def _study(folder: Path, key: str, with_picture: bool) -> _Study:
    """A finished study; one whose report is gone is shown without details.

    Raises:
        Exception: Its report cannot be read, or is no report; of many kinds.
    """
    try:
        report = json.loads((folder / key / REPORT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        gone = {"severity": "error", "message": "the study's report is no longer in its folder"}
        return _Study(findings=[gone])
    views = []
    for view in report["views"]:
        values = view["geometry"]
        distances = [
            f"{name.upper()} {_sourced(values[name])}" for name in ("sod", "sdd") if name in values
        ]
        views.append(" ".join([f"{view['role']} {view['view_position']}:", ", ".join(distances)]))
    agreement = ", ".join(
        f"{role} {_number(values['pearson'])}"
        for role, values in (report["reprojection"] or {}).items()
    )
    link = HTML_FILE if (folder / key / HTML_FILE).is_file() else REPORT_FILE
    findings, picture = list(report["findings"]), ""
    if with_picture:
        try:
            picture = _thumbnail(folder / key / PREVIEW_FILE)
        except Exception:  # Pillow's readers have many kinds of errors
            findings.append(_damage("its picture"))
    return _Study(
        findings=findings,
        geometry="; ".join(views),
        agreement=agreement,
        software=[f"{name} {value}" for name, value in report["software"].items() if value],
        weights=str(report["weights_sha256"] or ""),
        picture=picture,
        link=f"{key}/{link}",
        is_damaged=with_picture and not picture,
    )


def _thumbnail(path: Path) -> str:
    """A small picture as a data URL.

    Raises:
        Exception: It cannot be read; of many kinds.
    """
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_THUMBNAIL_WIDTH, _THUMBNAIL_WIDTH))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _cells(entry: IndexEntry, study: _Study) -> str:
    state = DAMAGED if study.is_damaged else entry.state
    image = f'<img alt="preview" src="{study.picture}">' if study.picture else ""
    name = f"<code>{_text(entry.study_key or 'not read')}</code>"
    linked = f'<a href="{_text(study.link)}">{name}</a>' if study.link else name
    seconds = "" if entry.seconds is None else f"<br>{entry.seconds:.1f} s"
    agreement = f"<br>reprojection {_text(study.agreement)}" if study.agreement else ""
    return (
        f'<tr><td class="picture">{image}</td><td class="study">{linked}<br>'
        f'<span class="state {state}">{state}</span>{seconds}</td>'
        f"<td>{_text(study.geometry)}{agreement}</td><td>{_findings(study.findings)}</td></tr>"
    )


def _view(view: Mapping[str, Any]) -> str:
    rows = [(name, _value(item), _source(item)) for name, item in sorted(view["geometry"].items())]
    title = _text(f"{view['role'].capitalize()}, {view['view_position']}")
    return f"<div><h3>{title}</h3>{_table(('', 'value', 'source'), rows)}</div>"


def _value(item: Mapping[str, Any]) -> str:
    value = item["value"]
    many = value if isinstance(value, list) else [value]
    shown = ", ".join(v if isinstance(v, str) else _number(v) for v in many)
    return f"{shown} {item.get('unit') or ''}".strip()


def _source(item: Mapping[str, Any]) -> str:
    attribute = item.get("attribute")
    return f"{item['source']}: {attribute}" if attribute else str(item["source"])


def _sourced(item: Mapping[str, Any]) -> str:
    return f"{_value(item)} ({item['source']})"


def _agreement(reprojection: Mapping[str, Mapping[str, float]] | None) -> str:
    if not reprojection:
        return '<p class="dim">Not measured.</p>'
    names = list(next(iter(reprojection.values())))
    rows = [(role, *(_number(values[n]) for n in names)) for role, values in reprojection.items()]
    return _table(("", *(name.replace("_", " ") for name in names)), rows)


def _files(entries: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Rows of the files; the slices of a series are one row."""
    rows: list[tuple[object, ...]] = []
    series: dict[str, list[int]] = {}
    for entry in entries:
        name = PurePosixPath(entry["name"])
        if name.name == HTML_FILE:  # it cannot hold its own hash
            continue
        if len(name.parts) > 2:
            series.setdefault(str(name.parent), []).append(entry["bytes"])
        else:
            rows.append((name, f"{entry['bytes']:,}", _code(entry["sha256"])))
    rows += [
        (f"{folder}/ ({len(sizes)} files)", f"{sum(sizes):,}", "in report.json")
        for folder, sizes in series.items()
    ]
    return rows


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return '<p class="dim">None.</p>'
    items = []
    for finding in findings:
        severity = str(finding.get("severity") or "warning")
        style = severity if severity in ("warning", "error") else "dim"
        role = f" ({finding['role']})" if finding.get("role") else ""
        action = finding.get("action")
        todo = f'<br><span class="dim">To do: {_text(action)}</span>' if action else ""
        code = f"{finding.get('code') or ''}{role}".strip()
        items.append(
            f'<li><span class="state {style}">{_text(code)}</span> '
            f"{_text(finding.get('message') or '')}{todo}</li>"
        )
    return f"<ul>{''.join(items)}</ul>"


class _Markup(NamedTuple):
    """A cell that is HTML already."""

    html: str


def _code(text: str) -> _Markup:
    return _Markup(f"<code>{_text(text)}</code>")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    titles = "".join(f"<th>{_text(title)}</th>" for title in head) if any(head) else ""
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td>{cell.html if isinstance(cell, _Markup) else _text(cell)}</td>" for cell in row
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table>{f"<tr>{titles}</tr>" if titles else ""}{lines}</table></div>'


def _list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else '<p class="dim">None.</p>'


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    return escape(str(value), quote=True)


def _page(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{_text(title)} - research use only</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
<p class="notice">{_text(INTENDED_USE)}</p>
</body>
</html>
"""


def _write(path: Path, page: str) -> None:
    with atomic_path(path) as temporary:
        # JSON can hold half a surrogate pair, which is no text
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
