"""Networks that predict a whole volume on a fixed lattice, under the interface of SPIDER.

The peers of SPIDER reconstruct voxels and not points. To be trained and scored by the same
pipeline, their volume is read at the points that the pipeline asks for, by trilinear interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from spider_bundle.geometry import Grid
from spider_bundle.networks.spider import CHUNK, nominal_projection


class VolumeNetwork(nn.Module):
    """A network that predicts logits and intensity on a lattice centred on the isocentre.

    A derived class says what :meth:`encode` finds in the radiographs and how :meth:`volume` makes
    the volume of it. What does not need the geometry belongs into :meth:`encode`: it is called once
    per case, :meth:`volume` once per call of :meth:`decode` or :meth:`decode_grid`.

    Args:
        num_classes: Number of labels K, background included.
        lattice_spacing: Voxel size of the predicted volume, mm.
        lattice_shape: Its voxels, one value or ``(X, Y, Z)``.
        image_size: Rows and columns of the radiographs of the nominal geometry.
        pixel_size: Their pixel size at the isocentre, mm.
        grid_spacing: Voxel size of the default output grid, mm.
        grid_shape: Voxels of the default output grid.
    """

    nominal_projection: torch.Tensor
    lattice_first: torch.Tensor
    lattice_last: torch.Tensor

    def __init__(
        self,
        num_classes: int,
        lattice_spacing: float,
        lattice_shape: int | Sequence[int],
        image_size: int,
        pixel_size: float,
        grid_spacing: float,
        grid_shape: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.grid = Grid.centred(grid_spacing, grid_shape)
        nominal = nominal_projection(image_size, pixel_size)
        self.register_buffer("nominal_projection", nominal, persistent=False)
        self.lattice = Grid.centred(lattice_spacing, lattice_shape)
        ends = torch.stack([torch.from_numpy(a[[0, -1]]).float() for a in self.lattice.axes()])
        self.register_buffer("lattice_first", ends[:, 0].clone(), persistent=False)
        self.register_buffer("lattice_last", ends[:, 1].clone(), persistent=False)

    def forward(
        self,
        image: torch.Tensor,
        projection: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Reconstruct points or the default grid, as :meth:`SPIDER.forward` does."""
        if projection is None:
            projection = self.nominal_projection[None].expand(image.shape[0], -1, -1, -1)
        maps = self.encode(image)
        if points is not None:
            return self.decode(maps, projection, points)
        axes = (torch.from_numpy(axis).float() for axis in self.grid.axes())
        return self.decode_grid(maps, projection, *axes)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the radiographs ``(B, 2, H, W)`` say without their geometry; batch first."""
        raise NotImplementedError

    def volume(self, maps: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        """Return the volume on the lattice.

        Args:
            maps: From :meth:`encode`.
            projection: As in :meth:`forward`.

        Returns:
            Class logits, then the normalised intensity, shape ``(B, K + 1, X, Y, Z)``.
        """
        raise NotImplementedError

    def decode(
        self, maps: torch.Tensor, projection: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        """Return values ``(B, P, K + 1)`` at points, see :meth:`SPIDER.decode`."""
        return self._sample(self.volume(maps, projection), points)

    def decode_grid(
        self,
        maps: torch.Tensor,
        projection: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        z: torch.Tensor,
        chunk: int = CHUNK,
    ) -> torch.Tensor:
        """Decode a grid, in whole planes of equal x; see :meth:`SPIDER.decode_grid`."""
        volume = self.volume(maps, projection)
        b, c = volume.shape[:2]
        x, y, z = (axis.to(volume.device) for axis in (x, y, z))
        planes = []
        for part in x.split(max(1, chunk // (len(y) * len(z)))):
            points = torch.stack(torch.meshgrid(part, y, z, indexing="ij"), dim=-1).reshape(
                1, -1, 3
            )
            values = self._sample(volume, points.expand(b, -1, -1))
            planes.append(values.transpose(1, 2).reshape(b, c, len(part), len(y), len(z)))
        return torch.cat(planes, dim=2)

    def _sample(self, volume: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Trilinear values ``(B, P, C)``; points outside the lattice read its border."""
        span = self.lattice_last - self.lattice_first
        unit = 2 * (points.to(span) - self.lattice_first) / span - 1
        sampled = F.grid_sample(
            volume.float(),
            unit.flip(-1)[:, :, None, None],
            padding_mode="border",
            align_corners=True,
        )
        return sampled.flatten(2).transpose(1, 2)
