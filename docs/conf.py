"""Sphinx configuration of the documentation site; ``make docs`` builds it into ``docs/_build``.

The pages are the Markdown files beside this one, which can be read without the site too. The rest
is made while it is built, in ``docs/_generated``: the API reference from the docstrings, the
reference of the ``spider`` command from its own help, pages of the examples, and copies of the
README and the changelog. Nothing is loaded from the network, neither by the build nor by the
finished pages.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

from spider_bundle import __version__

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
GENERATED = DOCS / "_generated"

ROOT_PAGES = {"README.md": "overview.md", "CHANGELOG.md": "changes.md"}
"""Pages of the repository's top folder and their names in the generated folder."""

project = "SPIDER bundle"
author = "SPIDER bundle developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_generated/cli.md", "_templates"]
templates_path = ["_templates"]
myst_heading_anchors = 4
highlight_language = "text"

autosummary_generate = True
# stacks that live in environments of their own
autodoc_mock_imports = ["monailabel", "monai.deploy", "ray"]
# besides, a module that runs the command when it is imported
autosummary_mock_imports = [*autodoc_mock_imports, "spider_bundle.cli.__main__"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
maximum_signature_line_length = 88
nitpicky = True
# only names of this package must resolve: those of others would need their sites; Scalar is a
# type variable, which no page describes
nitpick_ignore_regex = [("py:.*", r"(?!\.|spider_bundle).*"), ("py:class", r".*\.Scalar")]
# signatures on mocked bases name Reconstructor without its module, and the API has a subclass
# of the same name; names without a target warn under other types
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"SPIDER bundle {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "announcement": (
        "Research use only. Never for diagnosis, treatment planning or patient management."
    ),
}


def write_if_new(path: Path, text: str) -> None:
    """Write a page unless it is there already, so that an unchanged page is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def root_page(text: str) -> str:
    """Text of a page of the top folder with its links as seen from the generated folder."""

    def moved(match: re.Match[str]) -> str:
        target = match.group(1)
        path, hash_sign, anchor = target.partition("#")
        if not path or "://" in target:
            return match.group()
        if path in ROOT_PAGES:
            return f"]({ROOT_PAGES[path]}{hash_sign}{anchor})"
        if path.startswith("docs/"):
            return f"](../{target.removeprefix('docs/')})"
        return f"](../../{target})"

    return re.sub(r"\]\(([^)\s]+)\)", moved, text)


def example_page(text: str) -> str:
    """Page of an example in jupytext's percent format: its text cells and its code."""
    _, *cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    parts = []
    for cell in cells:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def command_reference() -> str:
    """Return the reference of the ``spider`` command in Markdown, as typer writes it."""
    typer = [sys.executable, "-m", "typer", "spider_bundle.cli", "utils", "docs"]
    done = subprocess.run(
        [*typer, "--name", "spider"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    _, _, commands = done.stdout.partition("\n## ")
    return f"## {commands}"


def generate_pages(app: Sphinx) -> None:
    """Write the pages that are copies or come from the command's help."""
    write_if_new(GENERATED / "cli.md", command_reference())


def link_made_pages(app: Sphinx, name: str, content: list[str]) -> None:
    """Let links to the README, the changelog and the examples lead to their pages on the site."""
    if name.startswith("_generated/"):
        return
    content[0] = re.sub(r"\]\((examples/\w+)\.py\)", r"](_generated/\1.md)", content[0])
    for source, page in ROOT_PAGES.items():
        content[0] = content[0].replace(f"](../{source}", f"](_generated/{page}")


def skip_imported(
    app: Sphinx, kind: str, name: str, item: object, skip: bool, options: object
) -> bool | None:
    """Leave out functions of other packages that a module imports."""
    home = getattr(item, "__module__", None) or ""
    foreign = inspect.isfunction(item) and home.partition(".")[0] != "spider_bundle"
    return True if kind == "module" and foreign else None


def setup(app: Sphinx) -> None:
    """Connect what this file adds to Sphinx."""
    # before the files are searched
    for source, name in ROOT_PAGES.items():
        write_if_new(GENERATED / name, root_page((ROOT / source).read_text(encoding="utf-8")))
    for example in DOCS.glob("examples/*.py"):
        page = GENERATED / "examples" / f"{example.stem}.md"
        write_if_new(page, example_page(example.read_text(encoding="utf-8")))
    app.connect("builder-inited", generate_pages)
    app.connect("source-read", link_made_pages)
    app.connect("autodoc-skip-member", skip_imported)
