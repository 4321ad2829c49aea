"""A peer of SPIDER: 2D features of both radiographs lifted to 3D and fused there.

The idea is that of the generator of X2CT-GAN (Ying et al., CVPR 2019), without its adversarial
training: each view has its own 2D encoder and 3D decoder; at the bottleneck, channels become depth
along the beam, skip connections are repeated along the beam; the decoders' features are brought to
the patient's axes, averaged and refined by 3D convolutions. Written anew for this project; sizes,
additive skips and the level of the fusion are its own choice.

Like its model, the network ignores the geometry of the study: it takes the beams as parallel, along
y and x, at the nominal pixel size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.networks.nets.basic_unet import Down, TwoConv
from torch import nn

from benchmarks.peers.volume import VolumeNetwork
from spider_bundle.geometry import FloatArray, Grid

_ACT = ("RELU", {"inplace": True})
_NORM = ("GROUP", {"num_groups": 4})

_FRONTAL_BEAM, _LATERAL_BEAM = 3, 2
"""Dimension of ``(B, C, X, Y, Z)`` along the beam."""


class LiftingNet(VolumeNetwork):
    """Two 2D encoders, two 3D decoders, fusion in the frame of the patient.

    Images are first averaged onto the pixels that the lattice has in the view, at half its spacing
    and in its order: frontal ``(x, z)``, lateral ``(y, z)``. What is lifted needs no other change
    of axes.

    Args:
        num_classes: Number of labels K, background included.
        features: Channels of each 2D encoder from twice the lattice's resolution to an eighth of
            it; five values, multiples of 4.
        volume_features: Channels in 3D from an eighth of the lattice's resolution to all of it;
            four values, multiples of 4. The views are fused at half the resolution.
        lattice_spacing: Voxel size of the predicted volume, mm.
        lattice_shape: Its voxels, one value or ``(X, Y, Z)``, multiples of 8.
        image_size: Rows and columns of the radiographs.
        pixel_size: Their pixel size at the isocentre, mm.
        grid_spacing: Voxel size of the default output grid, mm.
        grid_shape: Voxels of the default output grid.

    Raises:
        ValueError: The lattice cannot be halved three times.
    """

    to_x: torch.Tensor
    to_y: torch.Tensor
    to_z: torch.Tensor

    def __init__(
        self,
        num_classes: int = 6,
        features: Sequence[int] = (16, 32, 64, 128, 256),
        volume_features: Sequence[int] = (64, 32, 24, 12),
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
        nx, ny, nz = self.lattice.shape
        if nx % 8 or ny % 8 or nz % 8:
            raise ValueError(f"lattice_shape must be multiples of 8, got {self.lattice.shape}")
        pixels = Grid.centred(lattice_spacing / 2, (2 * nx, 2 * ny, 2 * nz))
        x, y, z = pixels.axes()
        # canonical columns run towards +x (frontal) and +y (lateral), rows towards -z
        for name, values in (("to_x", x), ("to_y", y), ("to_z", -z)):
            weights = _averaging(values / pixel_size, lattice_spacing / 2 / pixel_size, image_size)
            self.register_buffer(name, torch.from_numpy(weights).float(), persistent=False)
        self.frontal = _ViewGenerator(features, volume_features, ny // 8, _FRONTAL_BEAM)
        self.lateral = _ViewGenerator(features, volume_features, nx // 8, _LATERAL_BEAM)
        half, full = volume_features[2:]
        self.fuse = TwoConv(3, half, half, _ACT, _NORM, bias=False)
        self.up = nn.ConvTranspose3d(half, full, 2, stride=2)
        self.refine = TwoConv(3, full, full, _ACT, _NORM, bias=False)
        self.head = nn.Conv3d(full, num_classes + 1, 1)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Return the volume, since nothing of it needs the geometry.

        Args:
            image: Normalised radiographs of the nominal size, shape ``(B, 2, H, W)``.

        Returns:
            Shape ``(B, K + 1, X, Y, Z)``.
        """
        frontal, frontal_skip = self.frontal(self._on_lattice(image[:, :1], self.to_x))
        lateral, lateral_skip = self.lateral(self._on_lattice(image[:, 1:], self.to_y))
        fused = self.up(self.fuse((frontal + lateral) / 2))
        return self.head(self.refine(fused + (frontal_skip + lateral_skip) / 2))

    def volume(self, maps: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        """Return the volume that :meth:`encode` has made; the geometry is not used."""
        return maps

    def _on_lattice(self, image: torch.Tensor, to_horizontal: torch.Tensor) -> torch.Tensor:
        """Image ``(B, 1, rows, columns)`` as ``(B, 1, 2 X or 2 Y, 2 Z)``."""
        return torch.einsum("uc,bvrc,zr->bvuz", to_horizontal, image, self.to_z)


class _ViewGenerator(nn.Module):
    """From one radiograph to 3D features at half the lattice's resolution, in the patient's axes.

    Args:
        features: See :class:`LiftingNet`.
        volume_features: See :class:`LiftingNet`.
        depth: Voxels along the beam at an eighth of the lattice's resolution.
        beam: Dimension of ``(B, C, X, Y, Z)`` along the beam.
    """

    def __init__(
        self, features: Sequence[int], volume_features: Sequence[int], depth: int, beam: int
    ) -> None:
        super().__init__()
        a, b, c, d, e = features
        coarse, quarter, half, full = volume_features
        self.depth = depth
        self.beam = beam
        self.level1 = TwoConv(2, 1, a, _ACT, _NORM, bias=False)
        self.level2 = Down(2, a, b, _ACT, _NORM, bias=False)
        self.level3 = Down(2, b, c, _ACT, _NORM, bias=False)
        self.level4 = Down(2, c, d, _ACT, _NORM, bias=False)
        self.level5 = Down(2, d, e, _ACT, _NORM, bias=False)
        self.lift = nn.Conv2d(e, coarse * depth, 1)
        self.conv5 = TwoConv(3, coarse, coarse, _ACT, _NORM, bias=False)
        self.up4 = nn.ConvTranspose3d(coarse, quarter, 2, stride=2)
        self.skip4 = nn.Conv2d(d, quarter, 1)
        self.conv4 = TwoConv(3, quarter, quarter, _ACT, _NORM, bias=False)
        self.up3 = nn.ConvTranspose3d(quarter, half, 2, stride=2)
        self.skip3 = nn.Conv2d(c, half, 1)
        self.conv3 = TwoConv(3, half, half, _ACT, _NORM, bias=False)
        self.skip2 = nn.Conv2d(b, full, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of one view.

        Args:
            image: Shape ``(B, 1, U, Z)`` at twice the lattice's resolution.

        Returns:
            Features ``(B, half, X / 2, Y / 2, Z / 2)``, and the skip connection at full
            resolution with size 1 along the beam.
        """
        x1 = self.level1(image)
        x2 = self.level2(x1)
        x3 = self.level3(x2)
        x4 = self.level4(x3)
        # channels become depth: the only place where a view tells voxels of one ray apart
        lifted = self.lift(self.level5(x4)).unflatten(1, (-1, self.depth)).movedim(2, self.beam)
        volume = self.conv5(lifted)
        # sums of which one term has size 1 along the beam repeat it there
        volume = self.conv4(self.up4(volume) + self.skip4(x4).unsqueeze(self.beam))
        volume = self.conv3(self.up3(volume) + self.skip3(x3).unsqueeze(self.beam))
        return volume, self.skip2(x2).unsqueeze(self.beam)


def _averaging(middles: FloatArray, width: float, size: int) -> FloatArray:
    """Weights with which intervals along one axis of an image are the means of its pixels.

    Args:
        middles: Middles of the intervals in pixels from the middle of the image, shape ``(N,)``.
        width: Their width in pixels.
        size: Pixels of the image; beyond them it is zero.

    Returns:
        Shape ``(N, size)``.
    """
    distance = np.abs(middles[:, None] - (np.arange(size) - (size - 1) / 2))
    overlap: FloatArray = np.clip((width + 1) / 2 - distance, 0.0, min(width, 1.0)) / width
    return overlap
