"""Coarse-to-fine decoding: exact where the answer changes, interpolated where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from spider_bundle.api import Reconstructor
from spider_bundle.coarse_to_fine import Decode, coarse_to_fine, halvings, padded
from spider_bundle.demo import write_demo_pair
from spider_bundle.labels import Label

CPU = torch.device("cpu")


class Ball:
    """A ball of 1000 HU in -1000 HU whose HU also rise slowly along x; counts what is asked."""

    def __init__(self, centre: tuple[float, float, float], radius: float, slope: float = 0.5):
        self.centre, self.radius, self.slope = centre, radius, slope
        self.asked: list[torch.Tensor] = []

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(torch.stack([x, y, z], dim=1))
        apart = torch.stack([x, y, z], dim=1) - torch.tensor(self.centre)
        inside = apart.norm(dim=1) < self.radius
        hu = torch.where(inside, 1000.0, -1000.0) + self.slope * x
        return hu.round().to(torch.int16), inside.to(torch.uint8)


def dense(decode: Decode, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))
    hu, labels = decode(*index.flatten(1))
    return hu.reshape(shape), labels.reshape(shape)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("shape", [(33, 41, 37), (32, 40, 38), (2, 3, 50)], ids=str)
def test_flat_surface_equals_the_dense_grid(shape: tuple[int, int, int], count: int) -> None:
    """Every cell that a plane cuts has corners on both sides of it."""

    def halves(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        above = 3 * x + 2 * y + 5 * z > 120
        return (2000 * above + 2 * x).to(torch.int16), above.to(torch.uint8)

    hu, labels = coarse_to_fine(halves, shape, count, CPU)
    true_hu, true_labels = dense(halves, shape)
    assert hu.shape == labels.shape == shape
    assert torch.equal(labels, true_labels)
    assert torch.equal(hu, true_hu)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_curved_surface_differs_in_its_caps_only(count: int) -> None:
    ball = Ball((31.3, 34.8, 33.1), 22.0)
    hu, labels = coarse_to_fine(ball, (65, 70, 66), count, CPU)
    true_hu, true_labels = dense(ball, (65, 70, 66))
    wrong = (labels != true_labels).nonzero().float() - torch.tensor(ball.centre)
    assert ((wrong.norm(dim=1) - ball.radius).abs() < 1).all()
    overlap = 2 * (labels * true_labels).sum() / (labels.sum() + true_labels.sum())
    assert overlap > 0.998
    assert (hu - true_hu).abs().float().mean() < 1


def test_asks_for_a_shell_and_for_no_voxel_twice() -> None:
    ball = Ball((64.0, 60.0, 62.0), 40.0)
    coarse_to_fine(ball, (128, 128, 128), 2, CPU)
    asked = torch.cat(ball.asked)
    assert len(torch.unique(asked, dim=0)) == len(asked)
    assert len(asked) < 0.12 * 128**3
    finest = asked[(asked % 2 == 1).any(dim=1)].float() - torch.tensor(ball.centre)
    # a changing cell of 2 voxels is at most its diagonal away from the surface
    assert ((finest.norm(dim=1) - ball.radius).abs() < 2 * 3**0.5).all()


def test_slabs_meet_without_a_seam() -> None:
    """More cells than one slab; a plate of one cell between two slabs is not lost."""

    def plate(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        dense = ((x >= 31) & (x <= 33)).to(torch.uint8)
        return (dense.to(torch.int16) * 2000 + 3 * y.to(torch.int16)), dense

    hu, labels = coarse_to_fine(plate, (70, 9, 9), 1, CPU)
    true_hu, true_labels = dense(plate, (70, 9, 9))
    assert torch.equal(labels, true_labels)
    assert (hu - true_hu).abs().max() <= 1


def test_a_change_above_the_tolerance_is_decoded_and_one_below_is_interpolated() -> None:
    def wave(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # the corners of cells of 2 voxels differ by 20 HU, their middle by 500 HU
        hu = 10 * x + torch.where(x % 2 == 1, 500, 0)
        return hu.to(torch.int16), torch.zeros_like(x, dtype=torch.uint8)

    below, _ = coarse_to_fine(wave, (9, 5, 5), 1, CPU)
    assert torch.equal(below[:, 0, 0], torch.arange(0, 90, 10, dtype=torch.int16))
    above, _ = coarse_to_fine(wave, (9, 5, 5), 1, CPU, tolerance=19)
    assert torch.equal(above, dense(wave, (9, 5, 5))[0])


def test_first_lattice_is_at_most_4_mm() -> None:
    spacings = {4.0: 0, 3.0: 0, 2.0: 1, 1.5: 1, 1.0: 2, 0.5: 3, 0.3: 3}
    assert {spacing: halvings((spacing,) * 3) for spacing in spacings} == spacings
    assert halvings((0.5, 0.5, 2.0)) == 1
    assert [padded(n, 2) for n in (1, 2, 5, 6, 128)] == [1, 5, 5, 9, 129]


@pytest.mark.slow
def test_shipped_network_at_2_mm_differs_by_less_than_1_hu(tmp_path: Path) -> None:
    write_demo_pair(tmp_path)
    both = [Reconstructor(precision="float32", exact=exact) for exact in (False, True)]
    coarse, exact = (reconstructor.study(reconstructor.read(tmp_path)) for reconstructor in both)
    assert abs(coarse.hu.astype(float) - exact.hu).mean() < 1
    for label in Label:
        mine, truth = coarse.labels == label, exact.labels == label
        assert 2 * (mine & truth).sum() >= 0.998 * (mine.sum() + truth.sum())
    # labels differ within one voxel of a surface only
    truth = torch.from_numpy(exact.labels).float()[None]
    highest, lowest = F.max_pool3d(truth, 3, 1, 1), -F.max_pool3d(-truth, 3, 1, 1)
    differs = torch.from_numpy(coarse.labels != exact.labels)
    assert (highest != lowest)[0][differs].all()
