"""Figures show what they claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.image import imread

from spider_bundle.evaluation.figures import draw_figures, plot_case
from spider_bundle.evaluation.methods import Item, Reconstruction
from spider_bundle.labels import Label


def item(name: str) -> dict[str, Any]:
    structure = torch.zeros(24, 24, 24, dtype=torch.uint8)
    structure[4:20, 4:20, 4:20] = Label.SOFT_TISSUE
    structure[8:16, 8:16, 8:16] = Label.BONE
    return {"case": name, "structure": structure, "measured": torch.ones(24, 24, 24).bool()}


def answer(bone: slice) -> Reconstruction:
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[bone, bone, bone] = Label.BONE
    return Reconstruction(np.full(labels.shape, 40.0, np.float32), labels)


def coloured(path: Path, red: bool) -> int:
    """Number of clearly orange or clearly blue pixels."""
    image = imread(path)
    first, last = (0, 2) if red else (2, 0)
    return int((image[..., first] - image[..., last] > 0.4).sum())


def test_wrong_bone_is_coloured(tmp_path: Path) -> None:
    plot_case(answer(slice(8, 16)), item("a"), tmp_path / "right.png", "right")
    plot_case(answer(slice(6, 18)), item("a"), tmp_path / "more.png", "more")
    plot_case(answer(slice(10, 14)), item("a"), tmp_path / "less.png", "less")
    assert coloured(tmp_path / "right.png", red=True) == 0
    assert coloured(tmp_path / "right.png", red=False) == 0
    assert coloured(tmp_path / "more.png", red=True) > 1000
    assert coloured(tmp_path / "more.png", red=False) == 0
    assert coloured(tmp_path / "less.png", red=False) > 1000


def test_all_figures_are_drawn_and_repeat(tmp_path: Path) -> None:
    rows = {
        "SPIDER": [
            {"case": "a", "psnr_db": 27.0, "dice_bone": 0.7},
            {"case": "b", "psnr_db": 28.0, "dice_bone": None},
        ],
        "mean CT": [
            {"case": "a", "psnr_db": 24.0, "dice_bone": 0.5},
            {"case": "b", "psnr_db": 23.0, "dice_bone": 0.5},
        ],
    }
    means = {"right": {"psnr_db": 28.0}, "wrong": {"psnr_db": 26.0}}
    shown = []

    def method(case: Item) -> Reconstruction:
        shown.append(case["case"])
        return answer(slice(8, 16))

    for folder in ("one", "two"):
        draw_figures(rows, means, [item("b"), item("a")], method, tmp_path / folder)
    assert shown == ["a", "b", "a", "b"]  # the worst, then the best
    names = {"psnr.png", "bone.png", "sensitivity.png", "worst.png", "best.png"}
    assert {path.name for path in (tmp_path / "one").iterdir()} == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
