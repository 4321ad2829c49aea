"""Pages load nothing, run nothing, show what the report says, and cannot be written into."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spider_bundle.outputs import html_report
from spider_bundle.outputs.html_report import IndexEntry, report_page, write_index
from spider_bundle.outputs.report import INTENDED_USE, FileEntry
from spider_bundle.outputs.study import write_study
from spider_bundle.reconstructor import Result
from tests.outputs.programs import program

KEY = "0f3a9c"
FORMATS = {"nifti", "preview"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not match."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def assert_self_contained(text: str) -> Page:
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name == "src":
            assert value is not None
            assert value.startswith("data:image/")
        if name == "href":
            assert value is not None
            assert not re.match(r"\w+:|//|/", value)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes
    assert page.text.count(INTENDED_USE) >= 2
    return page


@pytest.fixture
def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 32), (1, 2, 3)).save(stream, "PNG")
    return stream.getvalue()


def test_page_shows_what_the_report_says(result: Result, png: bytes) -> None:
    files = [FileEntry(name=f"dicom/ct/{n:04d}.dcm", bytes=1000, sha256="c" * 64) for n in range(9)]
    files.append(FileEntry(name="ct.nii.gz", bytes=12345, sha256="d" * 64))
    agreement = {
        "pearson": 0.8125,
        "spearman": float("nan"),
        "gradient_correlation": 0.5,
        "exposed_fraction": 1.0,
    }
    result = replace(result, consistency={"frontal": agreement, "lateral": agreement})
    report = result.report().with_files(files).to_json()
    page = assert_self_contained(report_page(report, png))
    for shown in (
        KEY,
        "1500 mm",
        "from the file: DistanceSourceToDetector",
        "Source to detector (SDD)",
        "Rank correlation",
        "E13 (frontal)",
        "the pitches differ",
        "40 × 30 × 20",
        "1 × 2 × 3 mm",
        "0.8125",
        "not known",
        "intracranial",
        "spider_bundle",
        "ab" * 32,
        "dicom/ct/ (9 files)",
        "9,000",
        "12,345",
        "d" * 64,
        *report["assumptions"],
    ):
        assert shown in page.text, shown
    for label in report["labels"]:
        assert (
            f"{label['volume_ml']:,.1f} ml {label['voxels']:,} {label['mean_hu']:.4g} HU"
            in page.text
        )
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert links == {"preview.png", "ct.nii.gz"}
    (source,) = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert source is not None
    assert base64.b64decode(source.partition(",")[2]) == png


def hostile(value: Any) -> Any:
    """The same structure with hostile text everywhere."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_text_cannot_become_markup(result: Result, png: bytes) -> None:
    report = result.report().with_files([FileEntry(name="a", bytes=1, sha256="b" * 64)])
    page = assert_self_contained(
        report_page({**hostile(report.to_json()), "intended_use": INTENDED_USE}, png)
    )
    assert page.tags.count("img") == 1
    assert EVIL in " ".join(page.words)


def test_index_text_cannot_become_markup(tmp_path: Path) -> None:
    finding = {"code": EVIL, "message": EVIL, "severity": EVIL, "action": EVIL, "role": EVIL}
    path = write_index(tmp_path, [IndexEntry(EVIL, "failed", [finding])])
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    assert "img" not in page.tags
    with pytest.raises(ValueError, match="states are"):
        write_index(tmp_path, [IndexEntry(KEY, EVIL)])


def test_study_with_page(tmp_path: Path, result: Result, read_study: Any) -> None:
    folder = write_study(tmp_path, result, FORMATS | {"html"})
    report = read_study(folder).report
    assert "report.html" in {entry["name"] for entry in report["files"]}
    text = (folder / "report.html").read_text(encoding="utf-8")
    # made again from the files, it is the same page
    assert report_page(report, (folder / "preview.png").read_bytes()) == text
    assert_self_contained(text)
    assert str(tmp_path) not in text


def test_index_of_a_batch(tmp_path: Path, result: Result) -> None:
    write_study(tmp_path, replace(result, study_key="aaa"), FORMATS | {"html"})
    write_study(tmp_path, replace(result, study_key="bbb"), FORMATS)
    refusal = {"code": "E11", "message": "no distance", "role": "frontal", "action": "state it"}
    entries = [
        IndexEntry("aaa", "done", seconds=12.34),
        IndexEntry("bbb", "done"),
        IndexEntry("ccc", "refused", [refusal]),
        IndexEntry("", "failed", [{"code": "R01", "message": "disk full"}]),
        IndexEntry("lost", "done"),
    ]
    run = {"Run of": "today", "Spacing": "2 mm"}
    path = write_index(tmp_path, entries, run)
    assert path == tmp_path / "index.html"
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    for shown in (
        *("3 done", "1 refused", "1 failed", "12.3 s", "E11 (frontal)", "To do: state it"),
        *("disk full", "not read", "no longer in its folder", "ab" * 32, "Frontal PA"),
    ):
        assert shown in page.text, shown
    links = [value for _, name, value in page.attributes if name == "href"]
    files = ["aaa/report.html", "aaa/preview.png", "aaa/report.json"]
    assert sorted(set(links)) == sorted([*files, "bbb/preview.png", "bbb/report.json"])
    # what needs somebody comes first
    found = [page.text.index(word) for word in ("disk full", "no distance", "aaa", "bbb", "lost")]
    assert found == sorted(found)
    assert "Run of today · Spacing 2 mm" in page.text
    assert all((tmp_path / str(link)).is_file() for link in links)
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(pictures) == 2
    with Image.open(io.BytesIO(base64.b64decode(str(pictures[0]).partition(",")[2]))) as picture:
        assert picture.width == 480
    assert path.read_bytes() == write_index(tmp_path, entries, run).read_bytes()


def altered(**values: Any) -> Callable[[bytes], bytes]:
    """A report that is whole but for these entries."""
    return lambda content: json.dumps({**json.loads(content), **values}).encode()


def index_with_one_changed(
    out: Path, result: Result, name: str, change: Callable[[bytes], bytes | None]
) -> Page:
    """Index of a whole study, one whose file was changed or taken away, and a refused one."""
    shutil.copytree(write_study(out, replace(result, study_key="whole"), FORMATS), out / "changed")
    path = out / "changed" / name
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    entries = [IndexEntry("changed", "done", seconds=1.0), IndexEntry("whole", "done")]
    page = write_index(out, [*entries, IndexEntry("other", "refused")])
    return assert_self_contained(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:500],
        lambda content: b"",
        lambda content: b"\xff\xfe" + content,
        lambda content: b"[" * 100_000,
        lambda content: b"[]",
        lambda content: b"{}",
        altered(views=[{}]),
        altered(findings=[1]),
        altered(reprojection={"frontal": {"pearson": "high"}}),
        altered(software=["torch"]),
        altered(study_key=1, weights_sha256=[], views=None),
    ],
)
def test_a_damaged_report_concerns_its_row_only(
    change: Callable[[bytes], bytes], tmp_path: Path, result: Result
) -> None:
    page = index_with_one_changed(tmp_path, result, "report.json", change)
    assert "1 done , 1 refused , 0 failed , 1 damaged" in page.text
    assert "changed damaged" in page.text
    assert "the result is damaged" in page.text
    assert "run the batch again with the study's radiographs" in page.text
    # the other study has all it has alone, and is told from the damaged one
    assert page.tags.count("img") == 1
    links = [value for _, name, value in page.attributes if name == "href"]
    assert set(links) == {"whole/preview.png", "whole/report.json"}
    assert "ab" * 32 in page.text


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:5000],
        lambda content: content[:30],
        lambda content: b"",
        lambda content: b"no picture",
        lambda content: None,
    ],
)
def test_a_damaged_picture_concerns_its_row_only(
    change: Callable[[bytes], bytes | None], tmp_path: Path, result: Result
) -> None:
    page = index_with_one_changed(tmp_path, result, "preview.png", change)
    assert "1 done , 1 refused , 0 failed , 1 damaged" in page.text
    assert "the result is damaged: its picture cannot be read" in page.text
    assert page.tags.count("img") == 1
    # what the report says is shown all the same
    assert page.text.count("Frontal PA") == 2
    links = [value for _, name, value in page.attributes if name == "href"]
    assert {"changed/report.json", "whole/report.json", "whole/preview.png"} <= set(links)


def test_an_index_shows_what_is_no_text(tmp_path: Path, result: Result) -> None:
    finding = {"code": "E01", "message": "half \ud800 a pair", "severity": "warning"}
    page = index_with_one_changed(tmp_path, result, "report.json", altered(findings=[finding]))
    assert "half \\ud800 a pair" in page.text
    assert "2 done" in page.text


def test_a_damaged_line_of_the_manifest_concerns_its_row_only(tmp_path: Path) -> None:
    odd: dict[str, Any] = {"findings": [1], "seconds": "soon"}
    entries = [IndexEntry("odd", "refused", **odd), IndexEntry("even", "failed")]
    page = assert_self_contained(write_index(tmp_path, entries).read_text(encoding="utf-8"))
    assert "odd damaged" in page.text
    assert "even failed" in page.text


def test_long_index_stays_light(
    tmp_path: Path, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path, replace(result, study_key="aaa"), FORMATS)
    monkeypatch.setattr(html_report, "MAXIMUM_PICTURES", 2)
    path = write_index(tmp_path, [IndexEntry("aaa", "done")] * 5)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.tags.count("img") == 2
    assert page.tags.count("a") == 2 + 5 * 2  # two pictures; picture and data of each


@pytest.mark.integration
def test_browser_shows_it_without_complaint(tmp_path: Path, result: Result) -> None:
    folder = write_study(tmp_path, result, FORMATS | {"html"})
    write_index(tmp_path, [IndexEntry(KEY, "done")])
    for number, path in enumerate((folder / "report.html", tmp_path / "index.html")):
        picture = tmp_path / f"{number}.png"
        command = [
            *(program("chromium", "chromium"), "--headless", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1400"),
            *("--enable-logging=stderr", f"--screenshot={picture}", path.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert "CONSOLE" not in done.stderr  # such as a broken security policy
        with Image.open(picture) as shown:
            colours = shown.convert("RGB").getcolors(2**24)
        assert colours is not None
        # the notice's red frame, and the dark picture
        assert (179, 38, 30) in {colour for _, colour in colours}
        assert sum(n for n, colour in colours if max(colour) < 40) > 10_000
