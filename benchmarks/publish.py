"""Put the results of an evaluation into the documentation and the metadata.

python -m benchmarks.publish --results eval

No number of the documentation is typed by hand.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from spider_bundle.bundle import bundle_root
from spider_bundle.evaluation.tables import SCORE_NAMES
from spider_bundle.files import atomic_path

_BLOCK = re.compile(r"(<!-- table (?P<name>[\w/.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PICTURE = re.compile(r"!\[[^\]]*\]\((?P<path>images/(?P<name>[\w.-]+\.png))\)")

PROTOCOL = (
    "V1: 11 validation patients, simulated radiographs, 4 mm, window -1000..2000 HU, measured "
    "region only; see docs/results.md"
)
"""What the scores in the bundle's metadata are scores of."""

HEADLINES = (
    "psnr_db",
    "ssim",
    "mae_hu",
    "dice_bone",
    "dice_soft_tissue",
    "dice_intracranial",
    "dice_mandible",
    "hd95_bone_mm",
)
"""Scores of a long table that a page shows; all of them are in a file beside it."""

METADATA_SCORES = (*HEADLINES, "dice_internal_air")
"""Means of protocol V1 that the bundle's metadata carries."""


def main() -> None:
    """Replace every marked table and picture, and the scores in the metadata."""
    root = bundle_root()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=root / "eval")
    options = parser.parse_args()
    for page in publish_tables(options.results, sorted((root / "docs").glob("*.md"))):
        print(f"changed {page.relative_to(root)}")
    publish_metadata(options.results, [root / "metadata.json", root / "configs" / "metadata.json"])


def publish_tables(folder: str | Path, pages: Iterable[Path]) -> list[Path]:
    """Replace the marked tables and the pictures of markdown pages by those of an evaluation.

    A table stands between ``<!-- table v1/comparison.md -->`` and ``<!-- end -->``; the name is a
    file of the evaluation. Of a table of all scores the page shows the :data:`HEADLINES`, and
    links to ``scores/v1_comparison.csv``. A picture ``images/NAME.png`` is replaced if
    ``figures/NAME.png`` exists. What the evaluation does not hold stays as it is.

    Args:
        folder: Output folder of an evaluation.
        pages: Markdown files.

    Returns:
        The pages that changed.
    """
    root = Path(folder)
    changed = []
    for page in pages:

        def table(match: re.Match[str], scores: Path = page.parent / "scores") -> str:
            source = root / match["name"]
            if not source.exists():
                return match[0]
            text = source.read_text(encoding="utf-8").strip()
            shown = _headlines(text, scores / f"{match['name'][:-3].replace('/', '_')}.csv")
            return f"{match[1]}\n{shown}\n\n{match[3]}"

        old = page.read_text(encoding="utf-8")
        for picture in _PICTURE.finditer(old):
            drawn = root / "figures" / picture["name"]
            if drawn.exists():
                (page.parent / "images").mkdir(exist_ok=True)
                with atomic_path(page.parent / picture["path"]) as temporary:
                    shutil.copyfile(drawn, temporary)
        new = _BLOCK.sub(table, old)
        if new != old:
            with atomic_path(page) as temporary:
                temporary.write_text(new, encoding="utf-8")
            changed.append(page)
    return changed


def _headlines(table: str, path: Path) -> str:
    """Return the headlines of a table of all scores with a link to all of it, which is written.

    Args:
        table: Markdown table; one that is not of all scores is returned as it is.
        path: CSV file for all of it, in a folder beside the page.
    """
    if not table.startswith("| measure |"):
        return table
    head, rule, *rows = table.splitlines()
    titles = tuple(f"| {SCORE_NAMES[name]} |" for name in HEADLINES)
    shown = [row for row in rows if row.startswith(titles)]
    path.parent.mkdir(exist_ok=True)
    cells = [row.strip("| ").split(" | ") for row in (head, *rows)]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(cells)
    link = f"[All {len(rows)} scores](scores/{path.name})"
    return "\n".join([head, rule, *shown, "", link])


def publish_metadata(folder: str | Path, files: Iterable[Path]) -> None:
    """Write means of protocol V1, with those of two baselines, into ``eval_metrics``.

    Args:
        folder: Output folder of an evaluation.
        files: The metadata files.
    """
    for file in files:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        metadata["eval_metrics"] = {"protocol": PROTOCOL}
        for method in ("spider", "training_mean_ct", "ridge_regression"):
            source = Path(folder) / "v1" / f"{method}.json"
            scores = json.loads(source.read_text(encoding="utf-8"))["mean"]
            metadata["eval_metrics"][method] = {
                name: round(scores[name], 3) for name in METADATA_SCORES if name in scores
            }
        with atomic_path(file) as temporary:
            text = json.dumps(metadata, indent=4, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
