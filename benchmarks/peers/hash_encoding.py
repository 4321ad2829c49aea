"""SPIDER with a multiresolution hash grid in place of the Fourier features."""

from __future__ import annotations

import torch
from torch import nn

from spider_bundle.networks import SPIDER
from spider_bundle.networks.positional_encoding import PositionalEncoding
from spider_bundle.networks.spider import CHUNK


class HashEncoding(PositionalEncoding):
    """Multiresolution hash encoding in plain PyTorch (Mueller et al., Instant-NGP, 2022).

    Args:
        levels: Number of resolutions.
        features: Values per level and table entry.
        log2_table: Binary logarithm of the entries per level.
        coarsest: Cells per axis at the first level.
        finest: Cells per axis at the last level; the encoding only interpolates below that size.
        extent: Half width in mm of the cube that the grid spans.
    """

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
        """Encode points.

        Args:
            points: LPS mm, shape ``(..., 3)``; points outside the cube read its border.

        Returns:
            Shape ``(..., levels * features)``.
        """
        unit = ((points.float() / self.extent + 1) / 2).clamp(0.0, 1.0)
        encodings = []
        for level, resolution in enumerate(self.resolutions):
            scaled = unit * resolution
            cell = scaled.floor().clamp(max=resolution - 1)
            fraction = (scaled - cell)[..., None, :]
            corner = cell.long()[..., None, :] + self.corners
            weights = torch.where(self.corners == 1, fraction, 1 - fraction).prod(dim=-1)
            entries = self.tables[level][self._index(corner, resolution)]
            encodings.append((entries * weights[..., None]).sum(dim=-2))
        return torch.cat(encodings, dim=-1)

    def _index(self, corner: torch.Tensor, resolution: int) -> torch.Tensor:
        """Table index of grid corners ``(..., 3)``: direct where the level fits, hashed if not."""
        x, y, z = corner.unbind(dim=-1)
        side = resolution + 1
        if side**3 <= self.entries:
            return (x * side + y) * side + z
        return (x ^ (y * 2654435761) ^ (z * 805459861)) % self.entries


class HashSPIDER(SPIDER):
    """SPIDER with :class:`HashEncoding` for ``positional_encoding``.

    The encoding mixes axes, so a grid cannot be decoded folded: it is decoded as points.
    """

    def decode_grid(
        self,
        maps: torch.Tensor,
        projection: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        z: torch.Tensor,
        chunk: int = CHUNK,
    ) -> torch.Tensor:
        """Decode a grid as points; see :meth:`SPIDER.decode_grid`."""
        grid = torch.stack(torch.meshgrid(x, y, z, indexing="ij"), dim=-1).to(maps.device)
        points = grid.reshape(1, -1, 3).expand(maps.shape[0], -1, -1)
        parts = [self.decode(maps, projection, part) for part in points.split(chunk, dim=1)]
        values = torch.cat(parts, dim=1).transpose(1, 2)
        return values.reshape(*values.shape[:2], *grid.shape[:3]).float()
