"""Hash encoding against a hand-written reference, and the network that uses it."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.peers.hash_encoding import HashEncoding, HashSPIDER
from spider_bundle.geometry import Grid

PRIMES = (1, 2654435761, 805459861)


def random_points(count: int, extent: float = 128.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return (torch.rand(count, 3, generator=generator) * 2 - 1) * extent


def reference_hash(encoding: HashEncoding, point: list[float]) -> list[float]:
    """The encoding of Mueller et al. (2022), one point at a time, in Python integers and floats."""
    result = []
    for level, resolution in enumerate(encoding.resolutions):
        table = encoding.tables[level].detach().double()
        scaled = [min(max((p / encoding.extent + 1) / 2, 0.0), 1.0) * resolution for p in point]
        cell = [min(math.floor(s), resolution - 1) for s in scaled]
        total = torch.zeros(table.shape[1], dtype=torch.float64)
        for dx in (0, 1):
            for dy in (0, 1):
                for dz in (0, 1):
                    corner = [cell[0] + dx, cell[1] + dy, cell[2] + dz]
                    weight = 1.0
                    for s, c, d in zip(scaled, cell, (dx, dy, dz), strict=True):
                        weight *= (s - c) if d else 1 - (s - c)
                    if (resolution + 1) ** 3 <= encoding.entries:
                        side = resolution + 1
                        index = (corner[0] * side + corner[1]) * side + corner[2]
                    else:
                        index = 0
                        for value, prime in zip(corner, PRIMES, strict=True):
                            index ^= value * prime
                        index %= encoding.entries
                    total += weight * table[index]
        result += total.tolist()
    return result


@pytest.fixture
def hash_encoding() -> HashEncoding:
    torch.manual_seed(0)
    # 3 levels of 4, 8 and 16 cells: 125 and 729 corners fit in 1024 entries, 4913 do not
    encoding = HashEncoding(levels=3, features=2, log2_table=10, coarsest=4, finest=16)
    torch.nn.init.normal_(encoding.tables)
    return encoding


def test_hash_encoding_equals_the_reference(hash_encoding: HashEncoding) -> None:
    assert hash_encoding.resolutions == [4, 8, 16]
    points = torch.cat(
        [random_points(50), torch.tensor([[128.0, -128.0, 0.0], [300.0, -500.0, 12.0]])]
    )
    expected = torch.tensor([reference_hash(hash_encoding, p) for p in points.tolist()])
    torch.testing.assert_close(hash_encoding(points), expected.float(), atol=1e-4, rtol=0)


def test_direct_levels_have_no_collisions(hash_encoding: HashEncoding) -> None:
    for resolution in (4, 8):
        corner = torch.cartesian_prod(*[torch.arange(resolution + 1)] * 3)
        index = hash_encoding._index(corner, resolution)
        assert index.unique().numel() == (resolution + 1) ** 3
        assert 0 <= int(index.min()) <= int(index.max()) < hash_encoding.entries


def test_hashed_levels_stay_in_the_table(hash_encoding: HashEncoding) -> None:
    index = hash_encoding._index(torch.cartesian_prod(*[torch.arange(17)] * 3), 16)
    assert 0 <= int(index.min()) <= int(index.max()) < hash_encoding.entries
    assert index.unique().numel() > 0.9 * hash_encoding.entries


def test_hash_encoding_is_trilinear_inside_a_cell(hash_encoding: HashEncoding) -> None:
    # within one cell of the finest level (16 mm), the middle of a line along an axis is the mean
    low, high = torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[13.0, 3.0, 5.0]])
    middle = hash_encoding((low + high) / 2)
    torch.testing.assert_close(middle, (hash_encoding(low) + hash_encoding(high)) / 2)


def test_hash_encoding_gradient_reaches_only_the_corners_of_the_cell(
    hash_encoding: HashEncoding,
) -> None:
    hash_encoding(torch.tensor([[3.0, 5.0, 7.0]])).sum().backward()
    touched = (hash_encoding.tables.grad != 0).any(dim=-1).sum(dim=-1)
    assert touched.tolist() == [8, 8, 8]


@torch.no_grad()
def test_a_grid_of_the_network_is_its_points() -> None:
    torch.manual_seed(0)
    encoding = HashEncoding(levels=3, features=2, log2_table=10, finest=32)
    torch.nn.init.normal_(encoding.tables)
    net = HashSPIDER(
        features=(8, 8, 8, 8),
        map_channels=4,
        context_channels=4,
        hidden=(16,),
        branch=(),
        positional_encoding=encoding,
    ).eval()
    grid = Grid.centred((20.0, 15.0, 10.0), (3, 4, 5))
    maps = net.encode(torch.rand(2, 2, 64, 64))
    nominal = net.nominal_projection[None].expand(2, -1, -1, -1)
    points = torch.from_numpy(grid.points()).float().reshape(1, -1, 3).expand(2, -1, -1)
    plain = net.decode(maps, nominal, points).transpose(1, 2).reshape(2, 7, 3, 4, 5)
    axes = [torch.from_numpy(axis).float() for axis in grid.axes()]
    torch.testing.assert_close(net.decode_grid(maps, nominal, *axes, 7), plain)
    assert float(plain.std()) > 1e-3
