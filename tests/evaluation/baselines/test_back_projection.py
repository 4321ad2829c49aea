"""Back-projection puts things where the two views see them, and knows nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spider_bundle.evaluation.baselines.back_projection import BackProjection, smear
from spider_bundle.labels import Label
from tests.evaluation.heads import GRID, IMAGE, radiographed, write_head


@pytest.fixture
def method(tmp_path: Path) -> BackProjection:
    places = [(0, 0, 0), (25, -20, 10), (-20, 25, -15), (10, 20, 30)]
    training = [
        write_head(tmp_path, f"t{n}", bone_at=place, bone_hu=2000.0)
        for n, place in enumerate(places)
    ]
    return BackProjection(training, acquisitions=2, bins=16, **IMAGE)


def test_a_dense_ball_is_put_at_its_place(tmp_path: Path, method: BackProjection) -> None:
    centre = (-25.0, -15.0, 20.0)
    item = radiographed(write_head(tmp_path, "new", bone_at=centre, bone_hu=2000.0))
    found = method(item)
    points = GRID.points()
    bone = found.labels == Label.BONE
    np.testing.assert_allclose(points[bone].mean(axis=0), centre, atol=6)
    assert found.hu[bone].min() > 250
    beside = found.labels == Label.BACKGROUND
    assert found.hu[beside].max() < -300
    assert np.allclose(found.hu[np.abs(points).max(axis=-1) > 90], -1000, atol=1)


def test_a_moved_head_is_reconstructed_in_its_own_voxels(
    tmp_path: Path, method: BackProjection
) -> None:
    centre = (-20.0, 0.0, 20.0)
    turned = [[0, -1, 0, 15], [1, 0, 0, 0], [0, 0, 1, -10], [0, 0, 0, 1]]
    entry = write_head(tmp_path, "new", bone_at=centre, bone_hu=2000.0)
    bone = method(radiographed(entry, turned)).labels == Label.BONE
    np.testing.assert_allclose(GRID.points()[bone].mean(axis=0), centre, atol=6)


def test_values_are_read_along_the_rays(tmp_path: Path) -> None:
    item = radiographed(write_head(tmp_path, "a"))
    for view in range(2):
        image = torch.zeros_like(item["image"])
        voxel = (20, 9, 13)
        point = np.append(GRID.points()[voxel], 1.0)
        column, row, depth, _ = item["projection"][view].numpy() @ point
        image[view, round(row / depth), round(column / depth)] = 1.0
        smeared = smear(item | {"image": image})
        assert smeared[view][voxel] > 0.2
        assert not smeared[1 - view].any()
        # the ray crosses every plane across the beam, each in a few voxels
        lit = (smeared[view] > 0).sum(axis=(0, 2) if view == 0 else (1, 2))
        assert lit.min() >= 1
        assert lit.max() < 16


def test_nothing_but_the_two_values_counts(tmp_path: Path, method: BackProjection) -> None:
    item = radiographed(write_head(tmp_path, "a"))
    even = method(item | {"image": torch.ones_like(item["image"]) * 0.6})
    assert len(np.unique(even.hu)) == 1
    assert len(np.unique(even.labels)) == 1
    blank = method(item | {"image": torch.zeros_like(item["image"])})
    assert (blank.hu < -990).all()
    assert (blank.labels == Label.BACKGROUND).all()


def test_a_pair_that_never_met_takes_its_neighbours_value(method: BackProjection) -> None:
    items = [item for entry in method.training for item in method.simulator.items(entry)]
    met = np.unique(np.concatenate([method(item).hu.ravel() for item in items]))
    # every value of one view with every value of the other, as no head shows them
    ramp = torch.linspace(0, 1, IMAGE["size"]).expand(IMAGE["size"], -1)
    for frontal, lateral in ((ramp, ramp), (ramp, 1 - ramp), (1 - ramp, ramp)):
        image = items[0]["image"].clone()
        image[0], image[1] = frontal, lateral
        assert np.isin(method(items[0] | {"image": image}).hu, met).all()


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    item = radiographed(write_head(tmp_path, "a"))
    with pytest.raises(ValueError, match="no cases"):
        BackProjection([], **IMAGE)(item)
    empty = write_head(tmp_path, "empty", radii=(0.001,) * 3, bone_radius=0.0)
    with pytest.raises(ValueError, match="empty"):
        BackProjection([empty], **IMAGE)(item)
