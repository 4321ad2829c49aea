"""Codes of points: hash encoding against a hand-written reference, Fourier features."""

from __future__ import annotations

import math

import pytest
import torch

from spider_bundle.networks.codes import FourierCode, HashCode, NoCode, make_code

PRIMES = (1, 2654435761, 805459861)


def random_points(count: int, extent: float = 128.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return (torch.rand(count, 3, generator=generator) * 2 - 1) * extent


def reference_hash(code: HashCode, point: list[float]) -> list[float]:
    """The encoding of Mueller et al. (2022), one point at a time, in Python integers and floats."""
    result = []
    for level, resolution in enumerate(code.resolutions):
        table = code.tables[level].detach().double()
        scaled = [min(max((p / code.extent + 1) / 2, 0.0), 1.0) * resolution for p in point]
        cell = [min(math.floor(s), resolution - 1) for s in scaled]
        total = torch.zeros(table.shape[1], dtype=torch.float64)
        for dx in (0, 1):
            for dy in (0, 1):
                for dz in (0, 1):
                    corner = [cell[0] + dx, cell[1] + dy, cell[2] + dz]
                    weight = 1.0
                    for s, c, d in zip(scaled, cell, (dx, dy, dz), strict=True):
                        weight *= (s - c) if d else 1 - (s - c)
                    if (resolution + 1) ** 3 <= code.entries:
                        side = resolution + 1
                        index = (corner[0] * side + corner[1]) * side + corner[2]
                    else:
                        index = 0
                        for value, prime in zip(corner, PRIMES, strict=True):
                            index ^= value * prime
                        index %= code.entries
                    total += weight * table[index]
        result += total.tolist()
    return result


@pytest.fixture
def hash_code() -> HashCode:
    torch.manual_seed(0)
    # 3 levels of 4, 8 and 16 cells: 125 and 729 corners fit in 1024 entries, 4913 do not
    code = HashCode(levels=3, features=2, log2_table=10, coarsest=4, finest=16)
    torch.nn.init.normal_(code.tables)
    return code


def test_hash_code_equals_the_reference(hash_code: HashCode) -> None:
    assert hash_code.resolutions == [4, 8, 16]
    points = torch.cat(
        [random_points(50), torch.tensor([[128.0, -128.0, 0.0], [300.0, -500.0, 12.0]])]
    )
    expected = torch.tensor([reference_hash(hash_code, p) for p in points.tolist()])
    torch.testing.assert_close(hash_code(points), expected.float(), atol=1e-4, rtol=0)


def test_direct_levels_have_no_collisions(hash_code: HashCode) -> None:
    for resolution in (4, 8):
        corner = torch.cartesian_prod(*[torch.arange(resolution + 1)] * 3)
        index = hash_code._index(corner, resolution)
        assert index.unique().numel() == (resolution + 1) ** 3
        assert 0 <= int(index.min()) <= int(index.max()) < hash_code.entries


def test_hashed_levels_stay_in_the_table(hash_code: HashCode) -> None:
    index = hash_code._index(torch.cartesian_prod(*[torch.arange(17)] * 3), 16)
    assert 0 <= int(index.min()) <= int(index.max()) < hash_code.entries
    assert index.unique().numel() > 0.9 * hash_code.entries


def test_hash_code_is_trilinear_inside_a_cell(hash_code: HashCode) -> None:
    # within one cell of the finest level (16 mm), the middle of a line along an axis is the mean
    low, high = torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[13.0, 3.0, 5.0]])
    middle = hash_code((low + high) / 2)
    torch.testing.assert_close(middle, (hash_code(low) + hash_code(high)) / 2)


def test_hash_code_gradient_reaches_only_the_corners_of_the_cell(hash_code: HashCode) -> None:
    hash_code(torch.tensor([[3.0, 5.0, 7.0]])).sum().backward()
    touched = (hash_code.tables.grad != 0).any(dim=-1).sum(dim=-1)
    assert touched.tolist() == [8, 8, 8]


def test_fourier_code_is_the_axis_codes_joined() -> None:
    code = FourierCode(octaves=4)
    points = random_points(20)
    parts = [code.axis_code(axis, points[:, axis]) for axis in range(3)]
    assert torch.equal(code(points), torch.cat(parts, dim=-1))
    assert code.out_channels == 27 == code(points).shape[1]


def test_fourier_code_values() -> None:
    code = FourierCode(octaves=2, extent=100.0).axis_code(0, torch.tensor([25.0]))
    root = math.sqrt(0.5)
    # x / extent, then sin and cos of pi x and 2 pi x at x = 1/4
    expected = torch.tensor([[0.25, root, 1.0, root, 0.0]])
    torch.testing.assert_close(code, expected, atol=1e-6, rtol=0)


def test_fourier_axes_do_not_mix() -> None:
    code = FourierCode(octaves=4)
    points = random_points(5)
    moved = points + torch.tensor([0.0, 7.0, 0.0])
    changed = (code(points) != code(moved)).any(dim=0)
    y = slice(code.axis_channels, 2 * code.axis_channels)
    assert bool(changed[y].any())
    assert not bool(changed[: y.start].any())
    assert not bool(changed[y.stop :].any())


def test_no_code_is_empty() -> None:
    code = make_code("none")
    assert isinstance(code, NoCode)
    assert code(random_points(4)).shape == (4, 0)


def test_unknown_code_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'sine'"):
        make_code("sine")
