"""The documentation says what the code does: codes, ids, options, labels, fields and links."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import monai.bundle
import pytest
import typer
import typer.core
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from pydantic import BaseModel

from docs import tables
from spider_bundle.batch.records import Entry, State
from spider_bundle.cases.quality import CHECKS
from spider_bundle.cli import EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE, app
from spider_bundle.dicom.film import EQUIPMENT
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.evaluation.tables import SCORE_NAMES
from spider_bundle.exit_status import EXIT_UNFINISHED
from spider_bundle.labels import LABEL_NAMES
from spider_bundle.outputs.dicom_seg import SEGMENT_CODES
from spider_bundle.outputs.report import ConsistencyEntry, FindingEntry, Report, ViewEntry

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
CONFIGS = (
    "train",
    "multi_gpu_train",
    "evaluate",
    "inference",
)
SYSTEM = (
    "apt-get ",
    "crontab ",
    "curl ",
    "docker ",
    "MONAI_ZOO_SOURCE=",
    "monai-deploy ",
    "monailabel ",
    "podman ",
    "python -m pip ",
    "ray ",
    "systemctl ",
    "useradd ",
)
COMMANDS = ("run", "verify_metadata", "verify_net_in_out", "ckpt_export")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def section(page: str, heading: str) -> str:
    """Text of a page from a heading to the next one of the same or a higher level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_table(text: str) -> list[list[str]]:
    """Cells of the first table of a text, without its head."""
    lines = text[text.index("|") :].splitlines()
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table[2:]


def code_of(text: str) -> Iterator[str]:
    """Blocks and spans of code of a page, blocks with their continued lines joined."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def options_of(code: str) -> list[str]:
    """Names of the options in a piece of code, nested ids by their first part."""
    return [
        name.replace("#", "::").split("::")[0] for name in re.findall(r"--([a-z][\w:#-]*)", code)
    ]


def spider_options(only: str = "") -> set[str]:
    group = typer.main.get_command(app)
    names = {"help"}
    assert isinstance(group, typer.core.TyperGroup)
    for name, command in {"": group, **group.commands}.items():
        if only and name != only:
            continue
        for parameter in command.params:
            names |= {o.removeprefix("--") for o in (*parameter.opts, *parameter.secondary_opts)}
    return names


def config_ids(name: str) -> list[str]:
    return list(json.loads((ROOT / "configs" / f"{name}.json").read_text(encoding="utf-8")))


def bundle_options() -> set[str]:
    """Options of ``python -m monai.bundle``: its parameters and the ids that can be overridden."""
    names = {p for c in COMMANDS for p in inspect.signature(getattr(monai.bundle, c)).parameters}
    names |= set(DEFAULT_MLFLOW_SETTINGS["configs"])
    return names | {i.split("::")[0] for name in CONFIGS for i in config_ids(name)}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_id_is_described_in_the_order_of_the_file(name: str) -> None:
    rows = first_table(section("reference_configs.md", f"## {name}.json"))
    assert [row[0].strip("`") for row in rows] == config_ids(name)
    assert all(len(row) == 3 and row[1] for row in rows)


def test_label_tables_are_those_of_the_files() -> None:
    rows = first_table(section("reference_outputs.md", "## Labels"))
    assert {int(value): name for value, name in rows} == LABEL_NAMES
    in_short = ", ".join(f"{value} {name}" for value, name in sorted(LABEL_NAMES.items()))
    assert in_short in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("## report.json", Report),
        ("### views", ViewEntry),
        ("### findings", FindingEntry),
        ("### reprojection", ConsistencyEntry),
    ],
)
def test_report_fields_are_those_of_the_models(heading: str, model: type[BaseModel]) -> None:
    rows = first_table(section("reference_outputs.md", heading))
    assert [row[0].strip("`") for row in rows] == list(model.model_fields)


def test_every_override_is_described() -> None:
    rows = first_table(
        section("howto_own_radiographs.md", "### Two more statements, in the config").partition(
            "All names"
        )[2]
    )
    assert [row[0].strip("`") for row in rows] == [item.name for item in fields(Overrides)]


def test_every_score_is_described() -> None:
    rows = first_table(section("howto_train.md", "## Evaluate").partition("Only measured")[2])
    assert [n for row in rows for n in re.findall(r"`(\w+)`", row[0])] == list(SCORE_NAMES)


def test_exit_codes_are_those_of_the_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = first_table(text[text.index("| exit code") :])
    assert [int(row[0]) for row in rows] == [0, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED]


@every_page
def test_options_exist(page: Path) -> None:
    for code in code_of(page.read_text(encoding="utf-8")):
        if code.startswith(("mlflow ", "tensorboard ", *SYSTEM)):
            continue
        code = re.sub(r"^torchrun .*?-m ", "", code)
        if code.startswith("spider "):
            allowed = spider_options()
        elif "monai.bundle" in code:
            allowed = bundle_options()
        elif script := re.search(r"-m benchmarks\.(\w+)", code):
            source = (ROOT / f"benchmarks/{script[1]}.py").read_text(encoding="utf-8")
            allowed = set(re.findall(r'add_argument\("--([\w-]+)"', source))
        else:
            allowed = spider_options() | bundle_options()
        assert set(options_of(code)) <= allowed, code


def test_every_option_of_a_radiograph_is_described() -> None:
    rows = first_table(section("howto_own_radiographs.md", "## State what is missing"))
    described = {option for row in rows for option in options_of(row[0])}
    general = {"help", "output", "-o", "spacing", "shape", "device", "precision", "exact"}
    general |= {"weights", "map"}
    general |= optional_outputs()
    shown = {o for o in spider_options("infer") if not o.startswith("no-")}
    assert described == shown - general - {"bundle-root", "inputs"}


def optional_outputs() -> set[str]:
    """Options of the outputs' page."""
    rows = first_table(section("reference_outputs.md", "## DICOM, meshes, HTML"))
    return {option for row in rows for option in options_of(row[0])}


def test_every_optional_output_is_described() -> None:
    assert (
        optional_outputs() == {"dicom", "mesh", "html", "keep-identity"} <= spider_options("infer")
    )
    rows = first_table(section("reference_outputs.md", "### Segments"))
    wanted = [
        [str(label.value), LABEL_NAMES[label], code.kind[0], code.kind[1], code.category[1]]
        for label, code in SEGMENT_CODES.items()
    ]
    assert rows == wanted


def test_batch_is_described_as_it_is() -> None:
    page = "howto_batch.md"
    own = {
        option for row in first_table(section(page, "## Options")) for option in options_of(row[0])
    }
    named = set(options_of(section(page, "## Options").partition("And in Python")[0]))
    assert own <= named == spider_options("batch") - {"help", "source", "output"}
    exits = [int(row[0]) for row in first_table(section(page, "## Exit codes"))]
    assert exits == [0, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_UNFINISHED]
    fields_named = [row[0].strip("`") for row in first_table(section(page, "### The manifest"))]
    assert fields_named == list(Entry("key", State.DONE, "").record())
    site = section(page, "## Overrides of a site")
    assert all(f"`{name}`" in site for name in EQUIPMENT)


def test_preparing_is_described_as_it_is() -> None:
    page = "howto_prepare.md"
    options = first_table((DOCS / page).read_text(encoding="utf-8"))
    described = [o for row in options for o in options_of(row[0])]
    assert set(described) == spider_options("prepare") - {"help", "folder", "output"}
    checks = [
        [f"`{name}`", limits.meaning, range_text(limits.good), range_text(limits.possible)]
        for name, limits in CHECKS.items()
    ]
    assert first_table(section(page, "## Checks")) == checks


def range_text(limits: tuple[float, float]) -> str:
    low, high = limits
    if math.isinf(high):
        return "any" if math.isinf(low) else f"from {low:g}"
    return f"{low:g} to {high:g}"


@every_page
def test_make_targets_exist(page: Path) -> None:
    phony = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony
    for code in code_of(page.read_text(encoding="utf-8")):
        if code.startswith("make "):
            assert code.split()[1] in phony.group(1).split(), code


@every_page
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\s*\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_relative_to(ROOT), target
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, target


@every_page
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    mine = {
        "configs/batch.json",  # gone; the changelog says so
        "configs/site.json",
        "configs/mine.json",
        "configs/structure_1.json",
        "docs/_build/html/index.html",
    }  # the reader's own, or made by a command
    folders = r"(?:configs|contrib|docs|models|spider_bundle|tests|benchmarks)"
    for code in code_of(page.read_text(encoding="utf-8")):
        for name in re.findall(rf"(?<![\w/.]){folders}/[\w./-]*\w", code):
            assert name in mine or (ROOT / name).exists(), name


@every_page
def test_pages_name_no_place_of_a_machine_and_hold_no_pictographs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:work|home|root|Users|tmp)/", text)
    assert all(ord(character) < 0x2600 for character in text)


def test_index_links_every_page() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


def test_changelog_has_the_version_of_the_package() -> None:
    from spider_bundle import __version__

    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", tables.PAGES)
def test_tables_of_codes_are_written_anew_by_make_docs(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert re.search("<!-- (codes|accuracy) ", text)
    assert tables.updated(text) == text
