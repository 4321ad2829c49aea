"""Score files and tables."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spider_bundle.evaluation.tables import (
    comparison_table,
    difference_table,
    file_stem,
    interval_table,
    mean_scores,
    patient_table,
    subgroup_table,
    write_scores,
    write_sensitivity,
    write_text,
)

ROWS: list[dict[str, Any]] = [
    {"case": "a", "psnr_db": 20.0, "dice_bone": 0.5, "dice_mandible": None},
    {"case": "b", "psnr_db": 30.0, "dice_bone": 0.7, "dice_mandible": 0.4},
]
BETTER = [{**row, "psnr_db": row["psnr_db"] + 2, "dice_mandible": 0.5} for row in ROWS]


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


def test_comparison_puts_methods_side_by_side_and_counts_missing_cases() -> None:
    table = comparison_table({"mean CT": ROWS, "SPIDER": BETTER, "none": [{"case": "a"}]})
    assert "| measure | mean CT | SPIDER | none |" in table
    assert "| PSNR, dB | 25.00 | 27.00 | – |" in table
    assert "| Dice: bone | 0.600 | 0.600 | – |" in table
    assert "| Dice: mandible | 0.400 (1) | 0.500 | – |" in table
    assert "HD95" not in table  # nobody has it


def test_differences_are_paired() -> None:
    table = difference_table({"SPIDER": BETTER, "mean CT": ROWS}, "SPIDER")
    (row,) = [line for line in table.splitlines() if line.startswith("| mean CT")]
    assert "+2.00 (+2.00 to +2.00)" in row
    assert "+0.000 (+0.000 to +0.000)" in row


def test_intervals_show_the_worst_and_the_best_case() -> None:
    line = next(x for x in interval_table(ROWS).splitlines() if x.startswith("| PSNR, dB"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "25.00"
    assert cells[3:] == ["20.00", "30.00", "2"]


def test_patients_are_listed_with_every_method() -> None:
    lines = patient_table({"SPIDER": BETTER, "mean CT": ROWS}, "SPIDER").splitlines()
    assert lines[0].endswith("| mean CT, dB |")
    assert lines[2].startswith("| a | 22.00 |")
    assert lines[2].endswith("| 20.00 |")


@dataclass(frozen=True)
class Colour:
    colour: str


def test_subgroups_average_their_members() -> None:
    groups = {"a": Colour("red"), "b": Colour("blue")}
    lines = subgroup_table(ROWS, groups).splitlines()
    assert lines[2].startswith("| blue | 1 | 30.00 |")
    assert lines[3].startswith("| red | 1 | 20.00 |")


def test_sensitivity_is_a_change_against_the_first(tmp_path: Path) -> None:
    means = {"right": mean_scores(BETTER), "wrong": mean_scores(ROWS)}
    write_sensitivity(tmp_path / "s.md", means)
    lines = (tmp_path / "s.md").read_text().splitlines()
    assert lines[2].endswith("| +0.00 |")
    assert lines[3].endswith("| -2.00 |")


def test_titles_become_file_names(tmp_path: Path) -> None:
    assert file_stem("peer: back-projection + 3D U-Net") == "peer_back_projection_3d_u_net"
    write_text(tmp_path / "x" / "t.md", "text\n")
    assert (tmp_path / "x" / "t.md").read_text() == "text\n"
