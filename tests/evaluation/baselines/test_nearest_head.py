"""Retrieval finds a head again, however it was radiographed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spider_bundle.evaluation.baselines.nearest_head import NearestHead
from spider_bundle.evaluation.baselines.training_examples import Simulator
from spider_bundle.evaluation.methods import Reconstruction
from spider_bundle.labels import Label
from tests.evaluation.heads import GRID, IMAGE, radiographed, write_head

PLACES = [(0, 0, 0), (30, 0, 0), (0, 30, 0), (0, 0, 30)]
STEP_MM = 4.0


@pytest.fixture
def heads(tmp_path: Path) -> list[dict[str, str]]:
    return [write_head(tmp_path, f"h{n}", bone_at=place) for n, place in enumerate(PLACES)]


def centre_of_bone(found: Reconstruction) -> np.ndarray:
    centre: np.ndarray = GRID.points()[found.labels == Label.BONE].mean(axis=0)
    return centre


@pytest.fixture
def nearest(heads: list[dict[str, str]]) -> NearestHead:
    return NearestHead(heads, acquisitions=3, rows=64, **IMAGE)


def test_a_training_head_is_found_under_another_acquisition(
    heads: list[dict[str, str]], nearest: NearestHead
) -> None:
    for entry, place in zip(heads, PLACES, strict=True):
        item = radiographed(entry)
        found = nearest(item)
        assert nearest.matches(item)[0].argmax() // 3 == heads.index(entry)
        np.testing.assert_allclose(centre_of_bone(found), place, atol=STEP_MM)
        assert (found.hu[found.labels == Label.BONE] > 250).all()
        assert np.array_equal(np.unique(found.labels), np.unique(item["structure"]))


def test_a_moved_head_is_found_and_moved(heads: list[dict[str, str]], nearest: NearestHead) -> None:
    shift = np.array([12.0, -8.0, 4.0])
    pose = np.eye(4)
    pose[:3, 3] = shift
    item = radiographed(heads[1], pose)
    similarity, shifts = nearest.matches(item)
    best = similarity.argmax()
    assert best // 3 == 1
    np.testing.assert_allclose(shifts[best], shift, atol=STEP_MM)
    # in the voxels of the head, which move with it
    np.testing.assert_allclose(centre_of_bone(nearest(item)), PLACES[1], atol=STEP_MM)


def test_the_similarity_of_the_same_radiographs_is_one_for_each_view(
    heads: list[dict[str, str]], nearest: NearestHead
) -> None:
    items = [item for entry in heads for item in Simulator(3, 0, **IMAGE).items(entry)]
    similarity, shift = nearest.matches(items[4])
    assert similarity.shape == (12,)
    assert similarity.argmax() == 4
    assert similarity[4] == pytest.approx(2, abs=1e-5)
    assert not shift[4].any()
    blank = items[0] | {"image": items[0]["image"] * 0}
    assert np.array_equal(nearest.matches(blank)[0], np.zeros(12))


def test_views_share_their_vertical_shift_only(
    heads: list[dict[str, str]], nearest: NearestHead
) -> None:
    item = next(Simulator(1, 0, **IMAGE).items(heads[0]))
    image = item["image"].clone()

    def similarity(frontal: tuple[int, int], lateral: tuple[int, int]) -> float:
        for view, shift in enumerate((frontal, lateral)):
            image[view] = torch.roll(item["image"][view], shift, dims=(0, 1))
        return float(nearest.matches(item | {"image": image})[0][0])

    assert similarity((3, 2), (3, -2)) == pytest.approx(2, abs=0.01)
    assert similarity((3, 2), (-3, 2)) < 1.98


def test_nothing_to_choose_from_is_an_error(heads: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match="no cases"):
        NearestHead([], **IMAGE)(radiographed(heads[0]))
