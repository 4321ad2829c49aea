"""Controls give a method the wrong radiographs in the way they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from spider_bundle.evaluation.controls import FlippedRadiograph, ShuffledRadiographs
from spider_bundle.evaluation.methods import Item, Reconstruction


class Recorder:
    """A method that keeps what it is asked and answers with an empty head."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def __call__(self, item: Item) -> Reconstruction:
        self.items.append(item)
        shape = item["ct"].shape
        return Reconstruction(np.zeros(shape, np.float32), np.zeros(shape, np.uint8))


def items() -> list[dict[str, Any]]:
    return [
        {
            "case": str(number),
            "image": MetaTensor(
                torch.linspace(-0.1, 0.1, 16).expand(2, 16, 16) + number,
                meta={"projection": torch.full((2, 3, 4), float(number))},
            ),
            "ct": torch.zeros(4 + number, 4, 4),
        }
        for number in range(3)
    ]


def test_shuffling_gives_each_case_the_next_ones_radiographs_and_geometry() -> None:
    given = items()
    recorder = Recorder()
    control = ShuffledRadiographs(recorder, given)
    for item in reversed(given):  # the order of the calls does not matter
        assert control(item).hu.shape == item["ct"].shape  # on the grid of the case itself
    seen = {i["case"]: i["image"] for i in recorder.items}
    for number, source in ((0, 1), (1, 2), (2, 0)):
        assert float(seen[str(number)].mean()) == pytest.approx(source, abs=1e-5)
        assert float(seen[str(number)].meta["projection"][0, 0, 0]) == source


@pytest.mark.parametrize("view", [0, 1])
def test_flipping_mirrors_one_radiograph_and_leaves_its_matrix(view: int) -> None:
    item = items()[2]
    recorder = Recorder()
    FlippedRadiograph(recorder, view)(item)
    image, original = recorder.items[0]["image"], items()[2]["image"]
    assert torch.equal(image.as_tensor()[view], original.as_tensor()[view].flip(-1))
    assert torch.equal(image.as_tensor()[1 - view], original.as_tensor()[1 - view])
    assert torch.equal(image.meta["projection"], original.meta["projection"])
    assert torch.equal(item["image"].as_tensor(), original.as_tensor())  # the input stays


def test_one_case_cannot_be_shuffled() -> None:
    (item, *_) = items()
    with pytest.raises(ValueError, match="two cases"):
        ShuffledRadiographs(Recorder(), [item])(item)
