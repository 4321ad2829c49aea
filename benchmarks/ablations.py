"""Train and score variants of the recipe on the same data and budget, one row of a table each.

python -m benchmarks.ablations --output_dir eval/ablations

Rows are overrides of configs/train.json. What is finished is not done again; a training that was
cut goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from benchmarks.peers import NETWORKS
from spider_bundle.bundle import bundle_root
from spider_bundle.evaluation.comparison import score_method
from spider_bundle.evaluation.methods import NetworkMethod
from spider_bundle.evaluation.protocols import v1_items
from spider_bundle.evaluation.tables import (
    SCORE_NAMES,
    difference_table,
    file_stem,
    mean_scores,
    write_scores,
    write_text,
)

BUDGET: dict[str, Any] = {
    "epochs": 6,
    "iterations_per_epoch": 100,
    "batch_size": 2,
    "averaging": 0.005,
    "val_interval": 1000,
    "initial_weights": None,
    "restarts": [],
    "network_def::stride": 4,
    "network_def::hidden": [256, 256, 256],
    "network_def::branch": [],
    "tensorboard": False,
}
"""Overrides of every row; those of SPIDER's network do not reach the peers."""

ROWS: dict[str, dict[str, Any]] = {
    "base": {},
    "structure weight 0": {"loss::structure": 0.0},
    "structure weight 1": {"loss::structure": 1.0},
    "no positional encoding": {"network_def::positional_encoding": "none"},
    "hash encoding": {
        "network_def::_target_": "benchmarks.peers.hash_encoding.HashSPIDER",
        "network_def::positional_encoding": {
            "_target_": "benchmarks.peers.hash_encoding.HashEncoding"
        },
    },
    "no exchange between the views": {"network_def::exchange": False},
    "heads split one layer earlier": {
        "network_def::hidden": [256, 256],
        "network_def::branch": [256],
    },
    "no realism, tone included": {"train::preprocessing::transforms::4::prob": 0.0},
    "peer: lifted 2D features": {"network_def": NETWORKS["lifting"]},
    "peer: back-projection + 3D U-Net": {"network_def": NETWORKS["back_projection"]},
}
"""Overrides by the title of the row."""

DIGITS = {"psnr_db": 2, "mae_hu": 1}
SHOWN = (
    "psnr_db",
    "mae_hu",
    "ssim",
    "dice_bone",
    "dice_soft_tissue",
    "dice_intracranial",
    "dice_internal_air",
    "dice_mandible",
)


def main() -> None:
    """Run every row that is not finished, then write the tables."""
    root = bundle_root()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("eval", "ablations"))
    parser.add_argument("--only", nargs="*", help="titles of rows; all if not given")
    options = parser.parse_args()
    for title in ROWS:
        if options.only and title not in options.only:
            continue
        folder = options.output_dir / file_stem(title)
        if not (folder / "scores.json").exists():
            score_row(root, folder, train_row(root, folder, row_overrides(title)))
    rows = {}
    lines = ["| row | parameters, millions | " + " | ".join(SCORE_NAMES[n] for n in SHOWN) + " |"]
    lines.append("|---" * (len(SHOWN) + 2) + "|")
    for title in ROWS:
        folder = options.output_dir / file_stem(title)
        if not (folder / "scores.json").exists():
            continue
        saved = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        rows[title] = saved["cases"]
        size = json.loads((folder / "size.json").read_text(encoding="utf-8"))["parameters"]
        cells = [f"{saved['mean'][name]:.{DIGITS.get(name, 3)}f}" for name in SHOWN]
        lines.append(f"| {title} | {size / 1e6:.2f} | " + " | ".join(cells) + " |")
    write_text(options.output_dir / "summary.md", "\n".join(lines) + "\n")
    write_text(options.output_dir / "differences.md", difference_table(rows, next(iter(rows))))


def row_overrides(title: str) -> dict[str, Any]:
    """Return the overrides of a row, with its budget."""
    row = ROWS[title]
    budget = {
        name: value
        for name, value in BUDGET.items()
        if "network_def" not in row or not name.startswith("network_def")
    }
    return {**budget, **row}


def train_row(root: Path, folder: Path, overrides: dict[str, Any]) -> list[str]:
    """Train one row, or go on with it; returns the config files of the row."""
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder.resolve() / "overrides.json"
    values = {**overrides, "ckpt_dir": str(folder.resolve()), "bundle_root": str(root)}
    mine.write_text(json.dumps(values, indent=2), encoding="utf-8")
    files = [str(root / "configs" / "train.json"), str(mine)]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training"]
    subprocess.run([*command, "--config_file", str(files)], check=True, cwd=root)
    return files


def score_row(root: Path, folder: Path, files: list[str]) -> None:
    """Score the weights of a row on protocol V1."""
    parser = ConfigParser()
    parser.read_config([*files[:1], str(root / "configs" / "evaluate.json"), *files[1:]])
    parser["bundle_root"] = str(root)
    parser["weights"] = str(folder.resolve() / "model.pt")
    content = parser.get_parsed_content
    network = content("network")
    items = v1_items(content("validate::data"), content("image_size"), content("pixel_size"))
    rows = score_method(NetworkMethod(network, content("device"), content("precision")), items)
    size = {"parameters": sum(p.numel() for p in network.parameters())}
    write_text(folder / "size.json", json.dumps(size))
    write_scores(folder, "scores", rows, mean_scores(rows))


if __name__ == "__main__":
    main()
