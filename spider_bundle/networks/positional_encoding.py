"""Encodings of a point's position, which the decoder reads beside the sampled features.

An encoding lets the decoder remember what is usual at a place; it is the network's atlas of the
population, in the reconstruction frame (LPS mm about the isocentre).
"""

import math

import torch

from spider_bundle.networks.definition import Defined


class PositionalEncoding(Defined):
    """Encoding of each coordinate for itself; the encoding of a point joins those of x, y and z.

    As no feature mixes axes, the encoding of a regular grid is three short tables
    (see :meth:`spider_bundle.networks.spider.SPIDER.decode_grid`).

    Attributes:
        out_channels: Length of the encoding of a point.
    """

    out_channels: int

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return the encoding ``(..., out_channels)`` of ``points`` ``(..., 3)``, LPS mm."""
        return torch.cat([self.encode_axis(axis, points[..., axis]) for axis in range(3)], dim=-1)

    def encode_axis(self, axis: int, values: torch.Tensor) -> torch.Tensor:
        """Return the part of one axis, ``(..., out_channels / 3)``, of coordinates ``(...)``, mm.

        Args:
            axis: 0, 1 or 2.
            values: Coordinates along this axis.
        """
        raise NotImplementedError


class NoEncoding(PositionalEncoding):
    """No encoding: the decoder sees the radiographs only."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 0

    def encode_axis(self, axis: int, values: torch.Tensor) -> torch.Tensor:
        """Return ``(..., 0)``."""
        return values[..., None][..., :0]


class FourierEncoding(PositionalEncoding):
    """Coordinates with their sines and cosines at octaves.

    Args:
        octaves: Number of frequencies per axis.
        extent: Half width in mm that is mapped to 1; the lowest frequency has period
            ``2 * extent``.
    """

    frequencies: torch.Tensor

    def __init__(self, octaves: int = 6, extent: float = 128.0) -> None:
        super().__init__()
        self.extent = extent
        self.out_channels = 3 * (1 + 2 * octaves)
        frequencies = math.pi * 2.0 ** torch.arange(octaves)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def encode_axis(self, axis: int, values: torch.Tensor) -> torch.Tensor:
        """Return ``(..., 1 + 2 * octaves)``; the encoding is the same for all axes."""
        scaled = (values / self.extent)[..., None]
        phase = scaled * self.frequencies.to(scaled)
        return torch.cat([scaled, phase.sin(), phase.cos()], dim=-1)
