"""Training examples of the baselines: reproducible acquisitions, heads read at points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spider_bundle.evaluation.baselines.training_examples import (
    Simulator,
    common_grid,
    one_hot,
    resampled,
)
from spider_bundle.evaluation.methods import world_points
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from spider_bundle.simulation import AcquisitionRanges, case_rng
from tests.evaluation.heads import GRID, IMAGE, PIXEL_SIZE, SIZE, write_head


def test_acquisitions_depend_on_the_case_and_the_seed_alone(tmp_path: Path) -> None:
    first, second = write_head(tmp_path, "a"), write_head(tmp_path, "b")

    def drawn(entry: dict[str, str], seed: int = 0) -> torch.Tensor:
        items = Simulator(2, seed, **IMAGE).items(entry)
        return torch.stack([item["projection"] for item in items])

    matrices = drawn(first)
    assert torch.equal(matrices, drawn(first))
    assert not torch.allclose(matrices[0], matrices[1])
    assert not torch.allclose(matrices, drawn(second))
    assert not torch.allclose(matrices, drawn(first, seed=1))
    # nor is it the acquisition in which the evaluation shows a case
    shown = AcquisitionRanges().draw(case_rng("a"), SIZE, PIXEL_SIZE)
    assert not np.allclose(matrices[0], np.stack([view.matrix for view, _ in shown]))


def test_a_thumbnail_averages_the_pixels(tmp_path: Path) -> None:
    item = next(Simulator(1, 0, **IMAGE).items(write_head(tmp_path, "a")))
    small = Simulator(1, 0, **IMAGE).thumbnail(item, 16)
    blocks = item["image"].as_tensor().reshape(2, 16, 4, 16, 4).mean(dim=(2, 4))
    np.testing.assert_allclose(small, blocks, atol=1e-6)
    with pytest.raises(ValueError, match="not of 256 rows"):
        Simulator(1).thumbnail(item, 16)


def test_a_head_is_read_where_it_is_and_air_lies_around_it() -> None:
    inside = np.linalg.norm(GRID.points(), axis=-1) < 60
    labels = np.where(inside, Label.INTRACRANIAL, Label.BACKGROUND)
    hu = np.where(inside, 40.0, -1000.0)
    hu[:, :, -1], labels[:, :, -1] = 0.0, Label.SOFT_TISSUE  # up to the border of the volume
    wide = Grid.centred(3.0, 80)  # finer, and larger
    item = {"ct": np.zeros(wide.shape), "affine": wide.affine, "pose": np.eye(4)}
    found = resampled(hu, one_hot(labels), GRID, world_points(item))
    radius = np.linalg.norm(wide.points(), axis=-1)
    beside = np.abs(wide.points()).max(axis=-1) > 93 + 6  # beyond the outermost voxel centres
    assert (found.labels[radius < 48] == Label.INTRACRANIAL).all()
    assert np.allclose(found.hu[radius < 48], 40, atol=0.01)
    assert (found.labels[beside] == Label.BACKGROUND).all()
    assert np.allclose(found.hu[beside], -1000)


def test_cases_must_share_their_grid() -> None:
    assert common_grid(None, GRID) is GRID
    assert common_grid(GRID, Grid.centred(6.0, 32)) is GRID
    with pytest.raises(ValueError, match="one grid"):
        common_grid(GRID, Grid.centred(5.9, 32))
