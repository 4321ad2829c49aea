"""Published tables come from the evaluation and touch nothing else."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from benchmarks.publish import HEADLINES, publish_metadata, publish_tables
from spider_bundle.evaluation.tables import SCORE_NAMES, comparison_table

PAGE = """# Results

<!-- table v1/comparison.md -->
old
<!-- end -->

Text stays.

<!-- table unknown.md -->
kept
<!-- end -->

![All cases](images/psnr.png) ![Other](images/other.png)
"""


def test_marked_tables_and_pictures_are_replaced(tmp_path: Path) -> None:
    results, docs = tmp_path / "eval", tmp_path / "docs"
    (results / "v1").mkdir(parents=True)
    (results / "figures").mkdir()
    (results / "v1" / "comparison.md").write_text("| new |\n")
    (results / "figures" / "psnr.png").write_bytes(b"png")
    docs.mkdir()
    (docs / "results.md").write_text(PAGE)
    (docs / "plain.md").write_text("nothing to do\n")
    pages = sorted(docs.glob("*.md"))
    assert publish_tables(results, pages) == [docs / "results.md"]
    text = (docs / "results.md").read_text()
    assert text == PAGE.replace("old\n", "\n| new |\n\n")
    assert (docs / "images" / "psnr.png").read_bytes() == b"png"
    assert not (docs / "images" / "other.png").exists()
    assert publish_tables(results, pages) == []  # again: nothing changes


def test_a_table_of_all_scores_shows_the_headlines(tmp_path: Path) -> None:
    results, docs = tmp_path / "eval", tmp_path / "docs"
    (results / "v1").mkdir(parents=True)
    docs.mkdir()
    rows = [{name: float(number) for number, name in enumerate(SCORE_NAMES)}]
    table = comparison_table({"SPIDER": rows, "mean, CT": rows})
    (results / "v1" / "comparison.md").write_text(table)
    (docs / "results.md").write_text(PAGE)
    for _ in range(2):
        publish_tables(results, [docs / "results.md"])
    lines = (docs / "results.md").read_text().splitlines()
    shown = [line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")]
    assert shown == ["measure", *(SCORE_NAMES[name] for name in HEADLINES)]
    assert f"[All {len(SCORE_NAMES)} scores](scores/v1_comparison.csv)" in lines
    with (docs / "scores" / "v1_comparison.csv").open(newline="") as file:
        read = list(csv.reader(file))
    assert read[0] == ["measure", "SPIDER", "mean, CT"]
    assert [row[0] for row in read[1:]] == list(SCORE_NAMES.values())


def test_metadata_gets_the_means(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    for name, psnr in (("spider", 28.12345), ("training_mean_ct", 24.0), ("ridge_regression", 25)):
        scores = {"mean": {"psnr_db": psnr, "nsd_bone": 0.5}}
        (tmp_path / "v1" / f"{name}.json").write_text(json.dumps(scores))
    file = tmp_path / "metadata.json"
    file.write_text('{"name": "é", "eval_metrics": {"old": 1}}')
    publish_metadata(tmp_path, [file])
    metadata = json.loads(file.read_text())
    assert metadata["name"] == "é"
    metrics = metadata["eval_metrics"]
    assert "V1" in metrics.pop("protocol")
    assert metrics == {
        "spider": {"psnr_db": 28.123},
        "training_mean_ct": {"psnr_db": 24.0},
        "ridge_regression": {"psnr_db": 25},
    }
