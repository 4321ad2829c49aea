"""The documentation site: its navigation, its pictures, its links, and that it builds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LARGEST_PICTURE = 300_000
"""Bytes; pages should open quickly, and the repository stay small."""


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    """The configuration of the site."""
    pytest.importorskip("sphinx", reason="needs the extra docs")
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("written", "on_the_site"),
    [
        ("[a](docs/data.md)", "[a](../data.md)"),
        ("[a](docs/data.md#x-y)", "[a](../data.md#x-y)"),
        ("![a](docs/images/preview.png)", "![a](../images/preview.png)"),
        ("[a](CHANGELOG.md)", "[a](changes.md)"),
        ("[a](README.md#start) [b](LICENSE)", "[a](overview.md#start) [b](../../LICENSE)"),
        ("[a](#start) [b](https://a.org/docs/)", "[a](#start) [b](https://a.org/docs/)"),
    ],
)
def test_links_of_the_top_folder_lead_to_the_same_places(
    conf: ModuleType, written: str, on_the_site: str
) -> None:
    assert conf.root_page(written) == on_the_site


def test_example_becomes_text_and_code(conf: ModuleType) -> None:
    example = (
        "# ---\n# head: 1\n# ---\n\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\na = 1  # one\n"
    )
    wanted = "# Title\n\nText.\n\n```python\na = 1  # one\n```\n"
    assert conf.example_page(example) == wanted


def test_navigation_has_every_page_once() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL)
    entries = [[e for e in tree.split() if not e.startswith(":")] for tree in trees]
    assert len(trees) == 4  # tutorial, how-to, explanation, reference
    for page in DOCS.glob("*.md"):
        trees_of_page = [tree for tree in entries if any(fnmatch(page.stem, e) for e in tree)]
        assert len(trees_of_page) == (page.stem != "index"), page.name


def test_pictures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in DOCS.glob("images/*.png")}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > LARGEST_PICTURE} == {}


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="needs the extra docs")
    sphinx = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*sphinx, "-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    page = (tmp_path / "html" / "_generated" / "api" / "spider_bundle.geometry.html").read_text()
    assert "spider_bundle.geometry.View.project" in page
    commands = (tmp_path / "html" / "reference_cli.html").read_text()
    assert "--keep-identity" in commands
