"""Score files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from spider_bundle.evaluation.tables import mean_scores, write_comparison, write_scores

ROWS = [
    {"case": "a", "psnr_db": 20.0, "dice_bone": 0.5, "dice_mandible": None},
    {"case": "b", "psnr_db": 30.0, "dice_bone": 0.7, "dice_mandible": 0.4},
]


def test_mean_leaves_out_what_a_case_does_not_have() -> None:
    means = mean_scores(ROWS)
    assert means == {"psnr_db": 25.0, "dice_bone": 0.6, "dice_mandible": 0.4}
    assert mean_scores([]) == {}


def test_files_hold_every_case(tmp_path: Path) -> None:
    write_scores(tmp_path / "new", "scores", ROWS, mean_scores(ROWS))
    saved = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert saved["cases"] == ROWS
    with (tmp_path / "new" / "scores.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["a", "b"]
    assert rows[0]["dice_mandible"] == ""


def test_comparison_puts_methods_side_by_side(tmp_path: Path) -> None:
    table = write_comparison(
        tmp_path / "x" / "t.md", {"mean CT": {"psnr_db": 24.031}, "SPIDER": {"dice_bone": 0.7}}
    )
    assert table == (tmp_path / "x" / "t.md").read_text()
    assert "| PSNR, dB | 24.03 | – |" in table
    assert "| bone Dice | – | 0.700 |" in table
