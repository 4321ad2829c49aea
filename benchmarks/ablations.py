"""Train and score variants of the recipe on the same data and budget, one row of a table each.

python benchmarks/ablations.py --output_dir eval/ablations

Rows are overrides of configs/train.json, listed in configs/ablations.json. What is finished is not
done again; a training that was cut goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from spider_bundle.bundle import bundle_root
from spider_bundle.evaluation.comparison import score_method
from spider_bundle.evaluation.tables import (
    comparison_table,
    difference_table,
    file_stem,
    mean_scores,
    write_scores,
    write_text,
)


def main() -> None:
    """Run every row that is not finished, then write the tables."""
    root = bundle_root()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows_file", type=Path, default=root / "configs" / "ablations.json")
    parser.add_argument("--output_dir", type=Path, default=Path("eval", "ablations"))
    parser.add_argument("--only", nargs="*", help="titles of rows; all if not given")
    options = parser.parse_args()
    plan = json.loads(options.rows_file.read_text(encoding="utf-8"))
    for title, overrides in plan["rows"].items():
        if options.only and title not in options.only:
            continue
        folder = options.output_dir / file_stem(title)
        if not (folder / "scores.json").exists():
            files = train_row(root, folder, {**plan["budget"], **overrides})
            score_row(root, folder, files)
    rows = {}
    cost = []
    for title in plan["rows"]:
        folder = options.output_dir / file_stem(title)
        if (folder / "scores.json").exists():
            rows[title] = json.loads((folder / "scores.json").read_text())["cases"]
            spent = json.loads((folder / "cost.json").read_text())
            cost.append(f"| {title} | {spent['parameters'] / 1e6:.2f} | {spent['minutes']:.1f} |")
    write_text(options.output_dir / "comparison.md", comparison_table(rows))
    write_text(options.output_dir / "differences.md", difference_table(rows, next(iter(rows))))
    head = "| row | parameters, millions | minutes of training |\n|---|---|---|\n"
    write_text(options.output_dir / "cost.md", head + "\n".join(cost) + "\n")


def train_row(root: Path, folder: Path, overrides: dict[str, Any]) -> list[str]:
    """Train one row, or go on with it; returns the config files of the row."""
    folder.mkdir(parents=True, exist_ok=True)
    layer = overrides.pop("_layer_", None)
    files = [str(root / "configs" / "train.json")]
    if layer:
        files.append(str(root / "configs" / layer))
        overrides = {k: v for k, v in overrides.items() if not k.startswith("network_def")}
    overrides["ckpt_dir"] = str(folder.resolve())
    overrides["bundle_root"] = str(root)
    mine = folder.resolve() / "overrides.json"
    mine.write_text(json.dumps(overrides, indent=2), encoding="utf-8")
    files.append(str(mine))
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training"]
    subprocess.run([*command, "--config_file", str(files)], check=True, cwd=root)
    minutes = (time.perf_counter() - start) / 60
    (folder / "cost.json").write_text(json.dumps({"minutes": minutes}), encoding="utf-8")
    return files


def score_row(root: Path, folder: Path, files: list[str]) -> None:
    """Score the weights of a row on protocol V1."""
    parser = ConfigParser()
    parser.read_config([*files[:1], str(root / "configs" / "evaluate.json"), *files[1:]])
    parser["bundle_root"] = str(root)
    parser["weights"] = str(folder.resolve() / "model.pt")
    network = parser.get_parsed_content("network")
    rows = score_method(parser.get_parsed_content("spider"), parser.get_parsed_content("v1::items"))
    cost = json.loads((folder / "cost.json").read_text(encoding="utf-8"))
    cost["parameters"] = sum(p.numel() for p in network.parameters())
    (folder / "cost.json").write_text(json.dumps(cost), encoding="utf-8")
    write_scores(folder, "scores", rows, mean_scores(rows))


if __name__ == "__main__":
    main()
