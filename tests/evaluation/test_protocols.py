"""The protocols: what is drawn, what is compared, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from spider_bundle.evaluation.methods import Item, Reconstruction
from spider_bundle.evaluation.protocols import V1, V2, evaluate, v1_items, v2_items
from spider_bundle.simulation import AcquisitionRanges
from tests.evaluation.heads import PIXEL_SIZE, SIZE, write_head


class Truth:
    """The truth with an error of 5 HU, or nothing for a head whose radiographs are not its own."""

    def __init__(self, items: list[Item]) -> None:
        self.images = {item["case"]: item["image"].as_tensor() for item in items}

    def __call__(self, item: Item) -> Reconstruction:
        own = torch.equal(item["image"].as_tensor(), self.images[item["case"]])
        shape = item["ct"].shape
        if own:
            return Reconstruction(item["ct"].numpy() + 5, item["structure"].numpy())
        return Reconstruction(np.full(shape, -1000, np.float32), np.zeros(shape, np.uint8))


def heads(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    training = [write_head(folder, f"t{i}", bone_at=(10.0 * i, 0.0, 0.0)) for i in range(2)]
    validation = [
        write_head(folder, f"v{i}", (75.0, 65.0, 70.0), bone_at=(0.0, 15.0 * i, 9.0))
        for i in range(2)
    ]
    return training, validation


def test_what_cannot_be_done_with_few_heads_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (training, *_), (validation, *_) = heads(tmp_path)
    method = Truth(v1_items([validation], SIZE, PIXEL_SIZE))
    settings: Any = {"right": {}, "wrong": {"error": {"sod": 0.3}}}
    evaluate(method, [training], [validation], tmp_path / "eval", SIZE, PIXEL_SIZE, settings)
    table = (tmp_path / "eval" / "v1" / "comparison.md").read_text()
    assert "nearest training case" in table
    assert "lateral flipped" in table
    left_out = {r.getMessage().partition(" is left out")[0] for r in caplog.records}
    assert {"ridge regression", "radiographs shuffled"} <= left_out
    assert not any(title in table for title in ("ridge regression", "radiographs shuffled"))
    # and with no head to learn from
    evaluate(method, [], [validation], tmp_path / "none", SIZE, PIXEL_SIZE, settings)
    assert "SPIDER" in (tmp_path / "none" / "v2" / "comparison.md").read_text()


def test_every_mandatory_baseline_and_control_is_scored(tmp_path: Path) -> None:
    training, validation = heads(tmp_path)
    method = Truth(v1_items(validation, SIZE, PIXEL_SIZE))
    settings: Any = {"right": {}, "wrong": {"error": {"sod": 0.3}}}
    evaluate(method, training, validation, tmp_path / "eval", SIZE, PIXEL_SIZE, settings)

    def mae(protocol: str) -> dict[str, float]:
        files = (tmp_path / "eval" / protocol).glob("*.json")
        return {f.stem: json.loads(f.read_text())["mean"]["mae_hu"] for f in files}

    v1, v2 = mae("v1"), mae("v2")
    naive = {"training_mean_ct", "nearest_training_case", "ridge_regression", "back_projection"}
    controls = {"radiographs_shuffled", "lateral_flipped", "frontal_flipped"}
    assert set(v1) == {"spider"} | naive | controls
    assert set(v2) == {"spider"} | naive | {"training_mean_ct_known_pose"}
    # the method under control gets radiographs that are not those of the head
    assert v1["spider"] <= 5
    assert all(v1[control] > 100 for control in controls)
    assert all(5 < v1[baseline] < v1["radiographs_shuffled"] for baseline in naive)
    assert v2["training_mean_ct_known_pose"] < v2["training_mean_ct"]
    assert "| wrong |" in (tmp_path / "eval" / "sensitivity.md").read_text()
    figures = {path.name for path in (tmp_path / "eval" / "figures").iterdir()}
    assert figures == {"psnr.png", "bone.png", "sensitivity.png", "worst.png", "best.png"}


def test_what_is_drawn_depends_on_the_case_alone(tmp_path: Path) -> None:
    _, entries = heads(tmp_path)
    for items in (v1_items, v2_items):
        both, alone = items(entries, SIZE, PIXEL_SIZE), items(entries[1:], SIZE, PIXEL_SIZE)
        assert torch.equal(both[1]["image"].as_tensor(), alone[0]["image"].as_tensor())
        assert torch.equal(both[1]["projection"], alone[0]["projection"])
        assert not torch.equal(both[0]["projection"], both[1]["projection"])


def test_the_validation_of_the_training_is_protocol_v1(bundle_root: Path) -> None:
    parser = ConfigParser()
    parser.read_config(bundle_root / "configs" / "train.json")
    steps = parser["validate"]["preprocessing"]["transforms"]
    (simulate,) = [step for step in steps if step["_target_"].endswith("SimulateRadiographsd")]
    ranges = {k: tuple(v) if isinstance(v, list) else v for k, v in simulate["ranges"].items()}
    assert AcquisitionRanges(**ranges) == V1
    assert simulate["seed_by_case"]
    assert (V2.sod, V2.detector_distance, V2.rotation, V2.offset) == (
        V1.sod,
        V1.detector_distance,
        V1.rotation,
        V1.offset,
    )
