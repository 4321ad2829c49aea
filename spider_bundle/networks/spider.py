"""SPIDER: one encoder-decoder for CT intensity and anatomical structure.

A 2D U-Net encodes every radiograph; a 3D point is projected on all views, reads their feature maps
there, and an MLP decodes these features together with a code of the point into the label logits and
the CT intensity (T. Yu et al., arXiv 2507.04684; sizes and the place where the heads split are this
project's choice).

Sampling is linear, so for whole grids the MLP's first layer is applied to the feature maps once and
its results are sampled and added up; a separable code of the point becomes three short tables that
are added the same way. :meth:`SPIDER.decode` is the plain reference, :meth:`SPIDER.decode_grid` the
folded path; both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from spider_bundle.geometry import Grid, ViewPosition, isocentric_view, project_points
from spider_bundle.networks.codes import make_code
from spider_bundle.networks.decoder import ImplicitDecoder
from spider_bundle.networks.encoder import ViewEncoder
from spider_bundle.networks.sampling import bilinear_taps, map_projection, sample_maps


class SPIDER(nn.Module):
    """Structure-preferential implicit network for two radiographs.

    Args:
        num_classes: Number of labels K, background included.
        features: Channels of the encoder's four levels.
        map_channels: Channels of the encoder's full-resolution output.
        context_channels: Channels to which its bottleneck is reduced.
        stride: Radiograph pixels per feature-map pixel.
        exchange: Whether the views exchange their bottlenecks.
        code: Code of the point: ``none``, ``fourier`` or ``hash``.
        code_options: Arguments of the code's class.
        hidden: Widths of the decoder's shared trunk.
        branch: Widths of each head's own hidden layers (empty: the heads are linear).
        image_size: Rows and columns of the radiographs of the nominal geometry.
        pixel_size: Their pixel size at the isocentre, mm.
        grid_spacing: Voxel size of the default output grid, mm.
        grid_shape: Voxels of the default output grid.
    """

    def __init__(
        self,
        num_classes: int = 6,
        features: Sequence[int] = (32, 64, 128, 256),
        map_channels: int = 32,
        context_channels: int = 64,
        stride: int = 2,
        exchange: bool = True,
        code: str = "fourier",
        code_options: Mapping[str, float] | None = None,
        hidden: Sequence[int] = (256, 256, 256),
        branch: Sequence[int] = (),
        image_size: int = 256,
        pixel_size: float = 1.2,
        grid_spacing: float = 2.0,
        grid_shape: Sequence[int] = (128, 128, 128),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stride = stride
        self.encoder = ViewEncoder(features, map_channels, context_channels, stride, exchange)
        self.code = make_code(code, **(code_options or {}))
        self.view_channels = 2 * self.encoder.out_channels
        self.decoder = ImplicitDecoder(
            self.view_channels + self.code.out_channels, hidden, branch, num_classes
        )
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
        return self.decode_grid(maps, projection, self.grid_x, self.grid_y, self.grid_z)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Feature maps ``(B, 2, C, H / stride, W / stride)`` of radiographs ``(B, 2, H, W)``."""
        return self.encoder(image)

    def decode(
        self, maps: torch.Tensor, projection: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        """Decode any points, one by one (the reference path, used for training).

        Args:
            maps: Feature maps from :meth:`encode`.
            projection: As in :meth:`forward`.
            points: LPS mm, shape ``(B, P, 3)``.

        Returns:
            Shape ``(B, P, K + 1)``.
        """
        pixels = project_points(map_projection(projection, self.stride), points)
        sampled = sample_maps(maps, pixels)
        return self.decoder(torch.cat([sampled, self.code(points)], dim=-1))

    def decode_grid(
        self,
        maps: torch.Tensor,
        projection: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        z: torch.Tensor,
        chunk: int = 131072,
    ) -> torch.Tensor:
        """Decode an axis-aligned grid with the first layer folded into the feature maps.

        Args:
            maps: Feature maps from :meth:`encode`.
            projection: As in :meth:`forward`.
            x: LPS mm of the grid along x, shape ``(X,)``; ``y`` and ``z`` alike.
            y: Shape ``(Y,)``.
            z: Shape ``(Z,)``.
            chunk: Points decoded at a time; bounds the working memory to about
                ``chunk * (3 * width + 200)`` bytes times four.

        Returns:
            Shape ``(B, K + 1, X, Y, Z)``, float32.
        """
        b, v, c, h, w = maps.shape
        nx, ny, nz = x.shape[0], y.shape[0], z.shape[0]
        total = nx * ny * nz
        weight, bias = self.decoder.first.weight, self.decoder.first.bias
        out = torch.empty((b, self.num_classes + 1, total), dtype=torch.float32, device=maps.device)
        axes = [x.to(maps.device), y.to(maps.device), z.to(maps.device)]
        view_weight = weight[:, : self.view_channels].reshape(-1, v, c)
        code_weight = weight[:, self.view_channels :]
        separable = bool(self.code.separable)
        matrix = map_projection(projection.to(maps.device), self.stride).float()
        for i in range(b):
            rows = [F.linear(maps[i, j].flatten(1).T, view_weight[:, j]) for j in range(v)]
            if separable:
                parts = code_weight.chunk(3, dim=1)
                for axis in range(3):
                    code = self.code.axis_code(axis, axes[axis]).to(parts[axis].dtype)
                    rows.append(
                        F.linear(code, parts[axis], bias if axis == 0 else torch.zeros_like(bias))
                    )
            table = torch.cat(rows).contiguous()
            for start in range(0, total, chunk):
                index = torch.arange(start, min(start + chunk, total), device=maps.device)
                ix = torch.div(index, ny * nz, rounding_mode="floor")
                iy = torch.div(index, nz, rounding_mode="floor") % ny
                iz = index % nz
                points = torch.stack([axes[0][ix], axes[1][iy], axes[2][iz]], dim=1)
                pixels = project_points(matrix[i : i + 1], points[None])[0]
                taps, weights = bilinear_taps(pixels, h, w)
                if separable:
                    base = v * h * w
                    tables = [base + ix, base + nx + iy, base + nx + ny + iz]
                    taps = torch.cat([taps, torch.stack(tables, dim=1)], dim=1)
                    weights = torch.cat([weights, torch.ones_like(points)], dim=1)
                first = F.embedding_bag(
                    taps, table, mode="sum", per_sample_weights=weights.to(table.dtype)
                )
                if not separable:
                    first = first + F.linear(self.code(points).to(first.dtype), code_weight, bias)
                out[i, :, start : start + index.shape[0]] = (
                    self.decoder.after_first(first).float().T
                )
        return out.reshape(b, self.num_classes + 1, nx, ny, nz)


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
