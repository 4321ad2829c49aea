"""What every network of the bundle has in common: two radiographs in, points or a grid out."""

from collections.abc import Sequence

import torch
from torch import nn

from spider_bundle.geometry import Grid, ViewPosition, isocentric_view

CHUNK = 131072
"""Points of a grid decoded at a time."""


class BiplanarNetwork(nn.Module):
    """A network that encodes two radiographs once and decodes any points of space.

    A derived class says what :meth:`encode` finds in the radiographs and how :meth:`decode` and
    :meth:`decode_grid` make values of it.

    Args:
        num_classes: Number of labels K, background included.
        image_size: Rows and columns of the radiographs of the nominal geometry.
        pixel_size: Their pixel size at the isocentre, mm.
        grid_spacing: Voxel size of the default output grid, mm.
        grid_shape: Voxels of the default output grid, one value or ``(X, Y, Z)``.
    """

    nominal_projection: torch.Tensor
    grid_x: torch.Tensor
    grid_y: torch.Tensor
    grid_z: torch.Tensor

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        pixel_size: float,
        grid_spacing: float,
        grid_shape: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.chunk = CHUNK
        x, y, z = Grid.centred(grid_spacing, grid_shape).axes()
        nominal = nominal_projection(image_size, pixel_size)
        self.register_buffer("nominal_projection", nominal, persistent=False)
        self.register_buffer("grid_x", torch.from_numpy(x).float(), persistent=False)
        self.register_buffer("grid_y", torch.from_numpy(y).float(), persistent=False)
        self.register_buffer("grid_z", torch.from_numpy(z).float(), persistent=False)

    def forward(
        self,
        image: torch.Tensor,
        projection: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Reconstruct points or the default grid.

        Args:
            image: Normalised radiographs, frontal and lateral, shape ``(B, 2, H, W)``.
            projection: LPS mm to (column, row) pixels of ``image``, shape ``(B, 2, 3, 4)``; the
                nominal geometry if not given.
            points: LPS mm, shape ``(B, P, 3)``; the default grid if not given.

        Returns:
            Class logits of the K labels, then the normalised intensity: ``(B, P, K + 1)`` for
            points, ``(B, K + 1, X, Y, Z)`` for the grid.
        """
        if projection is None:
            projection = self.nominal_projection[None].expand(image.shape[0], -1, -1, -1)
        maps = self.encode(image)
        if points is not None:
            return self.decode(maps, projection, points)
        return self.decode_grid(maps, projection, self.grid_x, self.grid_y, self.grid_z, self.chunk)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """What the radiographs ``(B, 2, H, W)`` say without their geometry; batch first."""
        raise NotImplementedError

    def decode(
        self, maps: torch.Tensor, projection: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        """Values at any points.

        Args:
            maps: From :meth:`encode`.
            projection: As in :meth:`forward`.
            points: LPS mm, shape ``(B, P, 3)``.

        Returns:
            Shape ``(B, P, K + 1)``, float32.
        """
        raise NotImplementedError

    def decode_grid(
        self,
        maps: torch.Tensor,
        projection: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        z: torch.Tensor,
        chunk: int = CHUNK,
    ) -> torch.Tensor:
        """Values on an axis-aligned grid.

        Args:
            maps: From :meth:`encode`.
            projection: As in :meth:`forward`.
            x: LPS mm of the grid along x, shape ``(X,)``; ``y`` and ``z`` alike.
            y: Shape ``(Y,)``.
            z: Shape ``(Z,)``.
            chunk: Points decoded at a time at most.

        Returns:
            Shape ``(B, K + 1, X, Y, Z)``, float32.
        """
        raise NotImplementedError


def nominal_projection(
    image_size: int = 256, pixel_size: float = 1.2, sod: float = 1000.0, sdd: float = 1150.0
) -> torch.Tensor:
    """Projection matrices of a PA and left-lateral pair with an ordinary skull-stand geometry.

    Args:
        image_size: Rows and columns.
        pixel_size: Pixel size at the isocentre, mm.
        sod: Distance from the source to the isocentre, mm.
        sdd: Distance from the source to the detector, mm.

    Returns:
        Shape ``(2, 3, 4)``, float64: frontal, lateral.
    """
    pitch = pixel_size * sdd / sod
    views = [
        isocentric_view(
            position,
            sod=sod,
            sdd=sdd,
            spacing=(pitch, pitch),
            shape=(image_size, image_size),
        )
        for position in (ViewPosition.PA, ViewPosition.LL)
    ]
    return torch.stack([torch.from_numpy(view.matrix) for view in views])
