"""A peer of SPIDER: both radiographs back-projected into a volume, refined by a 3D U-Net.

The idea is that of Kasten, Doktofsky and Kovler (arXiv 2004.00871, 2020), who replicate two
radiographs of a knee into a 3D array, one channel each, and let a 3D convolutional network find the
bones. Written anew for this project; what a voxel sees follows the perspective of each study.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.basic_unet import BasicUNet, UpCat
from torch.nn import functional as F

from benchmarks.peers.volume import VolumeNetwork
from spider_bundle.networks.sampling import map_projection, sample_maps
from spider_bundle.projection_matrix import project_points


class BackProjectionUNet(VolumeNetwork):
    """Perspective back-projection and MONAI's basic 3D U-Net.

    Args:
        num_classes: Number of labels K, background included.
        features: Channels of the U-Net's five levels and of its last layer, multiples of 4.
        stride: Factor by which radiographs are averaged down before back-projection, so that their
            pixels are not much smaller than the voxels.
        lattice_spacing: Voxel size of the predicted volume, mm.
        lattice_shape: Its voxels, one value or ``(X, Y, Z)``, multiples of 16.
        image_size: Rows and columns of the radiographs of the nominal geometry.
        pixel_size: Their pixel size at the isocentre, mm.
        grid_spacing: Voxel size of the default output grid, mm.
        grid_shape: Voxels of the default output grid.

    Raises:
        ValueError: The U-Net cannot halve the lattice four times.
    """

    lattice_points: torch.Tensor

    def __init__(
        self,
        num_classes: int = 6,
        features: Sequence[int] = (8, 16, 32, 96, 192, 8),
        stride: int = 2,
        lattice_spacing: float = 4.0,
        lattice_shape: int | Sequence[int] = 64,
        image_size: int = 256,
        pixel_size: float = 1.2,
        grid_spacing: float = 2.0,
        grid_shape: int | Sequence[int] = 128,
    ) -> None:
        super().__init__(
            num_classes,
            lattice_spacing,
            lattice_shape,
            image_size,
            pixel_size,
            grid_spacing,
            grid_shape,
        )
        if any(n % 16 for n in self.lattice.shape):
            raise ValueError(f"lattice_shape must be multiples of 16, got {self.lattice.shape}")
        self.stride = stride
        points = torch.from_numpy(self.lattice.points()).float().reshape(-1, 3)
        self.register_buffer("lattice_points", points, persistent=False)
        # two views, each its values and its field of view, and three coordinates
        self.unet = BasicUNet(
            spatial_dims=3,
            in_channels=7,
            out_channels=num_classes + 1,
            features=features,
            act=("RELU", {"inplace": True}),
            norm=("GROUP", {"num_groups": 4}),
            bias=False,
        )
        for module in self.unet.modules():
            if isinstance(module, UpCat):
                module.is_pad = False  # the lattice halves evenly: nothing to pad, a fifth faster

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Averaged radiographs, each with a channel of ones that marks its field of view.

        Args:
            image: Normalised radiographs, shape ``(B, 2, H, W)``, H and W multiples of ``stride``.

        Returns:
            Shape ``(B, 2, 2, H / stride, W / stride)``.
        """
        averaged = F.avg_pool2d(image, self.stride)
        return torch.stack([averaged, torch.ones_like(averaged)], dim=2)

    def back_project(self, maps: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        """Return what each voxel of the lattice sees in the maps; zero outside them.

        Args:
            maps: Shape ``(B, V, C, h, w)``, as from :meth:`encode`.
            projection: As in :meth:`forward`.

        Returns:
            Shape ``(B, V * C, X, Y, Z)``, the views one after the other.
        """
        points = self.lattice_points[None].expand(maps.shape[0], -1, -1)
        pixels = project_points(map_projection(projection.to(maps.device), self.stride), points)
        return sample_maps(maps, pixels).transpose(1, 2).unflatten(2, self.lattice.shape)

    def volume(self, maps: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        """Return the volume on the lattice; see :meth:`VolumeNetwork.volume`."""
        seen = self.back_project(maps, projection)
        unit = self.lattice_points / self.lattice_points.abs().amax(dim=0)
        place = unit.T.unflatten(1, self.lattice.shape)[None].expand(maps.shape[0], -1, -1, -1, -1)
        return self.unet(torch.cat([seen, place], dim=1))
