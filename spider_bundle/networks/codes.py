"""Codes of a point's position: none, Fourier features or a multiresolution hash grid.

A code remembers what is usual at a place; it is the network's atlas of the population, in the
reconstruction frame (LPS mm about the isocentre).
"""

import math

import torch
from torch import nn


class PointCode(nn.Module):
    """A code of points; the base of all.

    Attributes:
        out_channels: Length of the code.
        separable: Whether it is the codes of the three coordinates one after the other, which
            :meth:`axis_code` gives.
    """

    __constants__ = ("separable",)
    out_channels: int
    separable: bool

    def axis_code(self, axis: int, values: torch.Tensor) -> torch.Tensor:
        """Part of a separable code that belongs to coordinates ``(N,)`` along one axis."""
        raise NotImplementedError


class NoCode(PointCode):
    """No code: the decoder sees the radiographs only."""

    out_channels = 0
    separable = True

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Empty code of shape ``(..., 0)`` for points ``(..., 3)``."""
        return points[..., :0]

    def axis_code(self, axis: int, values: torch.Tensor) -> torch.Tensor:
        """Empty code ``(N, 0)`` of coordinates ``(N,)`` along one axis."""
        return values[:, None][:, :0]


class FourierCode(PointCode):
    """Coordinates and their sines and cosines at octaves, each axis for itself.

    As no frequency mixes axes, the code of a regular grid is three short tables: decoding a grid
    needs no code of the single points (see
    :meth:`spider_bundle.networks.spider.SPIDER.decode_grid`).

    Args:
        octaves: Number of frequencies per axis.
        extent: Half width in mm that is mapped to 1; the lowest frequency has period
            ``2 * extent``.
    """

    separable = True
    frequencies: torch.Tensor

    def __init__(self, octaves: int = 6, extent: float = 128.0) -> None:
        super().__init__()
        self.extent = extent
        self.axis_channels = 1 + 2 * octaves
        self.out_channels = 3 * self.axis_channels
        frequencies = math.pi * 2.0 ** torch.arange(octaves)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Code of points.

        Args:
            points: LPS mm, shape ``(..., 3)``.

        Returns:
            Shape ``(..., 3 * (1 + 2 * octaves))``, the axes one after the other.
        """
        return torch.cat([self.axis_code(axis, points[..., axis]) for axis in range(3)], dim=-1)

    def axis_code(self, axis: int, values: torch.Tensor) -> torch.Tensor:
        """Part of the code that belongs to one axis.

        Args:
            axis: 0, 1 or 2; the code is the same for all.
            values: Coordinates in mm, shape ``(...)``.

        Returns:
            Shape ``(..., 1 + 2 * octaves)``.
        """
        scaled = (values / self.extent)[..., None]
        phase = scaled * self.frequencies.to(scaled)
        return torch.cat([scaled, phase.sin(), phase.cos()], dim=-1)


class HashCode(PointCode):
    """Multiresolution hash encoding in plain PyTorch (Mueller et al., Instant-NGP, 2022).

    Args:
        levels: Number of resolutions.
        features: Values per level and table entry.
        log2_table: Binary logarithm of the entries per level.
        coarsest: Cells per axis at the first level.
        finest: Cells per axis at the last level; the code only interpolates below that size.
        extent: Half width in mm of the cube that the grid spans.
    """

    separable = False
    corners: torch.Tensor

    def __init__(
        self,
        levels: int = 11,
        features: int = 8,
        log2_table: int = 16,
        coarsest: int = 16,
        finest: int = 128,
        extent: float = 128.0,
    ) -> None:
        super().__init__()
        self.extent = extent
        self.entries = 1 << log2_table
        self.out_channels = levels * features
        growth = (finest / coarsest) ** (1.0 / max(levels - 1, 1))
        self.resolutions = [round(coarsest * growth**level) for level in range(levels)]
        self.tables = nn.Parameter(torch.empty(levels, self.entries, features))
        nn.init.uniform_(self.tables, -1e-4, 1e-4)
        corners = torch.tensor([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
        self.register_buffer("corners", corners, persistent=False)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Code of points.

        Args:
            points: LPS mm, shape ``(..., 3)``; points outside the cube read its border.

        Returns:
            Shape ``(..., levels * features)``.
        """
        unit = ((points.float() / self.extent + 1) / 2).clamp(0.0, 1.0)
        codes = []
        for level, resolution in enumerate(self.resolutions):
            scaled = unit * resolution
            cell = scaled.floor().clamp(max=resolution - 1)
            fraction = (scaled - cell)[..., None, :]
            corner = cell.long()[..., None, :] + self.corners
            weights = torch.where(self.corners == 1, fraction, 1 - fraction).prod(dim=-1)
            entries = self.tables[level][self._index(corner, resolution)]
            codes.append((entries * weights[..., None]).sum(dim=-2))
        return torch.cat(codes, dim=-1)

    def _index(self, corner: torch.Tensor, resolution: int) -> torch.Tensor:
        """Table index of grid corners ``(..., 3)``: direct where the level fits, hashed if not."""
        x, y, z = corner.unbind(dim=-1)
        side = resolution + 1
        if side**3 <= self.entries:
            return (x * side + y) * side + z
        return (x ^ (y * 2654435761) ^ (z * 805459861)) % self.entries


def make_code(kind: str, **options: float) -> PointCode:
    """Code of the point by name.

    Args:
        kind: ``none``, ``fourier`` or ``hash``.
        options: Arguments of the class.

    Raises:
        ValueError: The name is not one of these.
    """
    kinds: dict[str, type[PointCode]] = {"none": NoCode, "fourier": FourierCode, "hash": HashCode}
    if kind not in kinds:
        raise ValueError(f"coordinate code must be one of {sorted(kinds)}, got {kind!r}")
    return kinds[kind](**options)
