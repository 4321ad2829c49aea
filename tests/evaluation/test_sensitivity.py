"""The sensitivity table moves as the error grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spider_bundle.cases.datalist import phantom_datalist
from spider_bundle.evaluation.methods import Item, Reconstruction
from spider_bundle.evaluation.sensitivity import sensitivity
from spider_bundle.labels import Label


class MeasuresMagnification:
    """Answers with HU that grow with how large the head is on the frontal radiograph."""

    def __call__(self, item: Item) -> Reconstruction:
        share = float((item["image"].as_tensor()[0] > 0.1).float().mean())
        shape = tuple(item["ct"].shape)
        return Reconstruction(
            np.full(shape, 2000 * share, np.float32),
            np.full(shape, Label.SOFT_TISSUE, np.uint8),
        )


def test_every_setting_is_scored_on_every_head(tmp_path: Path) -> None:
    heads = [{**entry, "phantom": entry["phantom"]} for entry in phantom_datalist(2)]
    seen: list[float] = []

    class Method(MeasuresMagnification):
        def __call__(self, item: Item) -> Reconstruction:
            found = super().__call__(item)
            seen.append(float(found.hu.mean()))
            return found

    settings = {
        "right": {},
        "nearer": {"error": {"sod": 0.2}},
        "toned": {"tone": {"gamma": 1.5}},
    }
    means = sensitivity(heads, Method(), tmp_path, 64, 4.8, settings)
    assert list(means) == list(settings)
    right, nearer, toned = np.reshape(seen, (3, 2))
    assert (nearer > 1.1 * right).all()  # magnified
    assert (toned < right).all()  # thin parts became thinner
    table = (tmp_path / "sensitivity.md").read_text()
    assert all(title in table for title in settings)
    assert (tmp_path / "sensitivity.csv").exists()
