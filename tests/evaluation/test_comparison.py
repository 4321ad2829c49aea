"""Methods are scored on the same cases, and everything about them is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spider_bundle.cases.case import phantom_case
from spider_bundle.evaluation.comparison import compare, score_item
from spider_bundle.evaluation.methods import Item, Reconstruction
from spider_bundle.evaluation.metrics import score_case
from spider_bundle.simulation import NormaliseRadiographsd, SimulateRadiographsd


@pytest.fixture(scope="module")
def items() -> list[dict[str, Any]]:
    made = []
    simulate = SimulateRadiographsd(size=64, pixel_size=4.8, seed_by_case=True)
    for seed in (1, 2):
        head = phantom_case(seed, spacing=8.0, shape=32)
        data = {
            "case": f"head {seed}",
            "ct": torch.from_numpy(head.hu),
            "structure": torch.from_numpy(head.structure),
            "measured": torch.from_numpy(head.measured),
            "affine": torch.from_numpy(head.grid.affine),
            "pose": torch.eye(4, dtype=torch.float64),
        }
        made.append({str(k): v for k, v in NormaliseRadiographsd()(simulate(data)).items()})
    return made


class Off:
    """The truth with an error of HU."""

    def __init__(self, error: float) -> None:
        self.error = error

    def __call__(self, item: Item) -> Reconstruction:
        return Reconstruction(item["ct"].numpy() + self.error, item["structure"].numpy())


def test_item_is_scored_as_its_volumes_are(items: list[dict[str, Any]]) -> None:
    item = items[0]
    found = score_item(Off(30.0)(item), item)
    volumes = (item["ct"].numpy() + 30, item["structure"].numpy(), item["ct"].numpy())
    wanted = score_case(
        *volumes, item["structure"].numpy(), item["measured"].numpy(), (8.0, 8.0, 8.0)
    )
    assert {k: v for k, v in found.items() if k not in ("case", "reprojection_rmse")} == wanted
    assert found["case"] == "head 1"
    assert found["reprojection_rmse"] < 3


def test_a_reference_that_cannot_be_used_ends_the_comparison(
    tmp_path: Path, items: list[dict[str, Any]]
) -> None:
    def refusing(item: Item) -> Reconstruction:
        raise ValueError("no such case")

    with pytest.raises(ValueError, match="no such case"):
        compare(items, {"SPIDER": refusing}, tmp_path)
    assert list(compare(items, {"SPIDER": Off(30.0), "mean": refusing}, tmp_path)) == ["SPIDER"]


def test_everything_is_written(tmp_path: Path, items: list[dict[str, Any]]) -> None:
    rows = compare(items, {"SPIDER": Off(30.0), "mean CT": Off(300.0)}, tmp_path / "v1")
    assert [row["case"] for row in rows["mean CT"]] == ["head 1", "head 2"]
    assert {path.name for path in (tmp_path / "v1").iterdir()} == {
        "spider.json",
        "spider.csv",
        "mean_ct.json",
        "mean_ct.csv",
        "comparison.md",
        "intervals.md",
        "differences.md",
        "patients.md",
        "subgroups.md",
    }
    saved = json.loads((tmp_path / "v1" / "spider.json").read_text())
    mae = np.mean([row["mae_hu"] for row in rows["SPIDER"]])
    assert saved["mean"]["mae_hu"] == pytest.approx(mae)
    assert rows["SPIDER"][0]["psnr_db"] > rows["mean CT"][0]["psnr_db"]
