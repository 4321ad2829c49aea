"""Case scores within a MONAI evaluator."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from torch import nn

from spider_bundle.evaluation.handler import CaseScores
from spider_bundle.evaluation.metrics import score_case
from spider_bundle.intensity import denormalise_hu, normalise_hu
from spider_bundle.labels import Label

SHAPE = (12, 12, 12)
SPACING = (2.0, 3.0, 4.0)
ERRORS = {"a": 30.0, "b": 300.0}


class Reconstruction(nn.Module):
    """Takes the volume hidden in the image for the answer: labels (B, 1, ...), intensity."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        labels, intensity = image[:, 0], image[:, 1]
        logits = nn.functional.one_hot(labels.long(), 6).movedim(-1, 1).float()
        return torch.cat([logits, intensity[:, None]], dim=1)


def case(name: str) -> dict[str, Any]:
    """A head with bone in its upper half, reconstructed with a constant error of HU."""
    structure = torch.full(SHAPE, int(Label.SOFT_TISSUE), dtype=torch.uint8)
    structure[:, :, 6:] = Label.BONE
    ct = torch.where(structure == Label.BONE, 800.0, 40.0)
    measured = torch.ones(SHAPE, dtype=torch.bool)
    measured[0] = False
    predicted = structure.clone()
    predicted[11, :, 6:] = Label.SOFT_TISSUE  # 1 of 11 layers of the measured bone is missed
    intensity = normalise_hu(ct + ERRORS[name])
    intensity[0] = 1.0  # wrong, but not measured
    image = MetaTensor(torch.stack([predicted.float(), intensity]))
    return {
        "case": name,
        "image": image,
        "ct": ct,
        "structure": structure,
        "measured": measured,
        "affine": torch.diag(torch.tensor([*SPACING, 1.0])),
    }


def evaluator(handler: CaseScores, batch_size: int) -> SupervisedEvaluator:
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader([case(n) for n in ERRORS], batch_size=batch_size),
        network=Reconstruction(),
        inferer=SimpleInferer(),
        val_handlers=[handler],
    )
    engine.logger.disabled = True
    return engine


@pytest.mark.parametrize("batch_size", [1, 2])
def test_cases_are_scored_and_written(tmp_path: Path, batch_size: int) -> None:
    handler = CaseScores(tmp_path / "eval")
    engine = evaluator(handler, batch_size)
    engine.run()
    saved = json.loads((tmp_path / "eval" / "scores.json").read_text())
    rows = {row["case"]: row for row in saved["cases"]}
    assert list(rows) == ["a", "b"]
    assert rows["a"]["psnr_db"] == pytest.approx(40.0, abs=1e-3)
    assert rows["b"]["psnr_db"] == pytest.approx(20.0, abs=1e-3)
    assert rows["a"]["mae_hu"] == pytest.approx(30.0, abs=1e-3)
    assert rows["a"]["dice_bone"] == pytest.approx(20 / 21)
    assert saved["mean"]["psnr_db"] == pytest.approx(30.0, abs=1e-3)
    with (tmp_path / "eval" / "scores.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["case"] for row in table] == ["a", "b"]
    assert float(table[1]["psnr_db"]) == pytest.approx(20.0, abs=1e-3)
    assert table[0]["dice_mandible"] == ""


def test_rows_are_those_of_score_case() -> None:
    handler = CaseScores()
    evaluator(handler, 1).run()
    one = case("a")
    image = one["image"].as_tensor()
    expected = score_case(
        denormalise_hu(image[1]).numpy(),
        image[0].long().numpy(),
        one["ct"].numpy(),
        one["structure"].numpy(),
        one["measured"].numpy(),
        SPACING,
    )
    assert handler.rows[0] == {"case": "a", **expected}


def test_means_become_metrics_and_the_key_metric_selects() -> None:
    handler = CaseScores(key_metric="dice_bone")
    engine = evaluator(handler, 1)
    engine.run()
    assert engine.state.metrics["mae_hu"] == pytest.approx(165.0, abs=1e-3)
    assert engine.state.key_metric_name == "dice_bone"
    assert engine.state.best_metric == pytest.approx(20 / 21)


def test_a_second_run_starts_anew_and_keeps_the_best(tmp_path: Path) -> None:
    handler = CaseScores(tmp_path)
    engine = evaluator(handler, 1)
    engine.run()
    engine.state.best_metric = 35.0  # of an earlier, better epoch
    engine.run()
    assert len(handler.rows) == 2
    assert engine.state.best_metric == 35.0


def test_nothing_is_written_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evaluator(CaseScores(), 1).run()
    assert list(tmp_path.iterdir()) == []
