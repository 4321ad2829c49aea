"""Controls give the network the wrong radiographs in the way they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from monai.data import MetaTensor

from spider_bundle.evaluation.controls import score_control
from spider_bundle.inferers import VolumeInferer
from spider_bundle.intensity import denormalise_hu
from spider_bundle.labels import Label
from spider_bundle.networks import SPIDER

N = 12


class Recorder:
    """An inferer that reconstructs a volume named by the corner of the image it was given."""

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []

    def __call__(self, batch: torch.Tensor, network: object) -> torch.Tensor:
        self.images.append(torch.Tensor.as_subclass(batch, torch.Tensor)[0])
        volume = torch.zeros(1, len(Label) + 1, N, N, N)
        volume[:, -1] = self.images[-1].mean()
        return volume


def cases() -> list[dict[str, Any]]:
    made = []
    for number, mean in enumerate((0.2, 0.5, 0.8)):
        ramp = torch.linspace(-0.1, 0.1, 16).expand(2, 16, 16) + mean
        made.append(
            {
                "case": str(number),
                "image": MetaTensor(ramp.clone(), meta={"number": number}),
                "ct": denormalise_hu(torch.full((N, N, N), mean)),
                "structure": torch.ones(N, N, N, dtype=torch.uint8),
                "measured": torch.ones(N, N, N, dtype=torch.bool),
                "affine": torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0])),
            }
        )
    return made


def score(control: str, given: list[dict[str, Any]], folder: Path | None = None) -> Any:
    recorder = Recorder()
    means = score_control(
        control, given, SPIDER(features=(8, 8, 8, 8)), cast(VolumeInferer, recorder), "cpu", folder
    )
    return means, recorder.images


def test_shuffling_gives_each_case_the_next_ones_radiographs(tmp_path: Path) -> None:
    means, images = score("shuffled", cases(), tmp_path)
    assert [round(float(image.mean()), 3) for image in images] == [0.5, 0.8, 0.2]
    assert means["mae_hu"] == pytest.approx((0.3 + 0.3 + 0.6) / 3 * 3000, rel=1e-3)
    assert (tmp_path / "shuffled.json").exists()


def test_shuffled_radiographs_are_reconstructed_on_the_grid_of_the_case() -> None:
    given = cases()
    for number, case in enumerate(given):
        case["image"].meta["spatial_shape"] = torch.tensor([N + number] * 3)
        case["image"].meta["projection"] = torch.full((2, 3, 4), float(number))
    seen = []

    class Inferer(Recorder):
        def __call__(self, batch: torch.Tensor, network: object) -> torch.Tensor:
            meta = cast(MetaTensor, batch).meta
            seen.append((int(meta["spatial_shape"][0]) - N, int(meta["projection"][0, 0, 0])))
            return super().__call__(batch, network)

    network = SPIDER(features=(8, 8, 8, 8))
    score_control("shuffled", given, network, cast(VolumeInferer, Inferer()), "cpu")
    assert seen == [(0, 1), (1, 2), (2, 0)]


@pytest.mark.parametrize(("control", "view"), [("frontal flipped", 0), ("lateral flipped", 1)])
def test_flipping_mirrors_one_radiograph(control: str, view: int) -> None:
    given = cases()
    means, images = score(control, given)
    for case, image in zip(given, images, strict=True):
        original = case["image"].as_tensor()
        assert torch.equal(image[view], original[view].flip(-1))
        assert torch.equal(image[1 - view], original[1 - view])
    assert means["mae_hu"] == pytest.approx(0, abs=0.1)


def test_unknown_control_or_too_few_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="control"):
        score("upside down", cases())
    with pytest.raises(ValueError, match="two cases"):
        score("shuffled", cases()[:1])
