"""Processes that load cases augment them differently, and the same way when started again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

CASES = 4
EPOCHS = 2


def drawn(bundle_root: Path, workers: int, seed: int) -> list[list[torch.Tensor]]:
    """Points and projections of each case of each epoch, by the pipeline of the config.

    All cases are the same head, so that only random numbers tell them apart.
    """
    overrides: dict[str, Any] = {
        "bundle_root": str(bundle_root),
        "device": "cpu",
        "seed": seed,
        "tensorboard": False,
        "train::data": [{"case": "phantom_1", "phantom": 1}],
        "image_size": 64,
        "pixel_size": 4.8,
        "points_per_case": 64,
        "batch_size": 1,
        "iterations_per_epoch": CASES,
        "num_workers": workers,
    }
    config = str(bundle_root / "configs" / "train.json")
    workflow = ConfigWorkflow(config, logging_file=False, **overrides)
    workflow.initialize()
    loader = workflow.parser.get_parsed_content("train::dataloader")
    assert loader.persistent_workers == (workers > 0)
    return [
        [torch.cat([batch["points"].flatten(), batch["projection"].flatten()]) for batch in loader]
        for _ in range(EPOCHS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_every_case_of_every_epoch_is_augmented_differently(
    bundle_root: Path, workers: int
) -> None:
    first = drawn(bundle_root, workers, seed=1)
    cases = [case for epoch in first for case in epoch]
    assert len(cases) == EPOCHS * CASES
    for i, one in enumerate(cases):
        for other in cases[:i]:
            # not one of the points, and nothing of the geometry
            assert (one != other).float().mean() > 0.5
    again = drawn(bundle_root, workers, seed=1)
    for one, other in zip(cases, [c for epoch in again for c in epoch], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(cases[0], drawn(bundle_root, workers, seed=2)[0][0])
