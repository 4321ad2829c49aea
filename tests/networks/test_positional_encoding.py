"""Fourier features of the point."""

from __future__ import annotations

import math

import torch

from spider_bundle.networks.positional_encoding import FourierEncoding


def random_points(count: int, extent: float = 128.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return (torch.rand(count, 3, generator=generator) * 2 - 1) * extent


def test_fourier_encoding_joins_those_of_the_axes() -> None:
    encoding = FourierEncoding(octaves=4)
    points = random_points(20)
    parts = [encoding.encode_axis(axis, points[:, axis]) for axis in range(3)]
    assert torch.equal(encoding(points), torch.cat(parts, dim=-1))
    assert encoding.out_channels == 27 == encoding(points).shape[1]


def test_fourier_encoding_values() -> None:
    encoding = FourierEncoding(octaves=2, extent=100.0).encode_axis(0, torch.tensor([25.0]))
    root = math.sqrt(0.5)
    # x / extent, then sin and cos of pi x and 2 pi x at x = 1/4
    expected = torch.tensor([[0.25, root, 1.0, root, 0.0]])
    torch.testing.assert_close(encoding, expected, atol=1e-6, rtol=0)


def test_fourier_axes_do_not_mix() -> None:
    encoding = FourierEncoding(octaves=4)
    points = random_points(5)
    moved = points + torch.tensor([0.0, 7.0, 0.0])
    changed = (encoding(points) != encoding(moved)).any(dim=0)
    y = slice(9, 18)
    assert bool(changed[y].any())
    assert not bool(changed[: y.start].any())
    assert not bool(changed[y.stop :].any())
