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

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from spider_bundle.geometry import dehomogenise, project_points
from spider_bundle.networks.biplanar import CHUNK, BiplanarNetwork
from spider_bundle.networks.codes import make_code
from spider_bundle.networks.decoder import ImplicitDecoder
from spider_bundle.networks.encoder import ViewEncoder
from spider_bundle.networks.sampling import bilinear_taps, map_projection, sample_maps

_CPU_CHUNK = 8192
"""Points decoded at a time on CPUs: a hidden layer, 4 MiB in bfloat16, stays in the caches."""


class SPIDER(BiplanarNetwork):
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
        hidden: Sequence[int] = (256, 256),
        branch: Sequence[int] = (256,),
        image_size: int = 256,
        pixel_size: float = 1.2,
        grid_spacing: float = 2.0,
        grid_shape: Sequence[int] = (128, 128, 128),
    ) -> None:
        super().__init__(num_classes, image_size, pixel_size, grid_spacing, grid_shape)
        self.cpu_chunk = _CPU_CHUNK
        self.stride = stride
        self.encoder = ViewEncoder(features, map_channels, context_channels, stride, exchange)
        self.code = make_code(code, **(code_options or {}))
        self.view_channels = 2 * self.encoder.out_channels
        self.decoder = ImplicitDecoder(
            self.view_channels + self.code.out_channels, hidden, branch, num_classes
        )

    @torch.jit.export
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Feature maps ``(B, 2, C, H / stride, W / stride)`` of radiographs ``(B, 2, H, W)``."""
        return self.encoder(image)

    @torch.jit.export
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

    @torch.jit.export
    def decode_grid(
        self,
        maps: torch.Tensor,
        projection: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        z: torch.Tensor,
        chunk: int = CHUNK,
    ) -> torch.Tensor:
        """Decode an axis-aligned grid with the first layer folded into the feature maps.

        Args:
            maps: Feature maps from :meth:`encode`.
            projection: As in :meth:`forward`.
            x: LPS mm of the grid along x, shape ``(X,)``; ``y`` and ``z`` alike.
            y: Shape ``(Y,)``.
            z: Shape ``(Z,)``.
            chunk: Points decoded at a time at most, in whole columns along z; bounds the working
                memory to about ``4 * chunk * (3 * width + 200)`` bytes beside the result. CPUs
                take fewer, so that the hidden layers stay in their caches.

        Returns:
            Shape ``(B, K + 1, X, Y, Z)``, float32.
        """
        b, _, _, h, w = maps.shape
        device = maps.device
        x, y, z = x.to(device), y.to(device), z.to(device)
        nx, ny, nz = x.shape[0], y.shape[0], z.shape[0]
        out = torch.empty(
            (b, self.num_classes + 1, nx * ny * nz), dtype=torch.float32, device=device
        )
        # homogeneous pixels are sums of a term per column of the grid and a term per height
        matrix = map_projection(projection.to(device), self.stride).float()[..., None]
        across = matrix[..., 0, :, None] * x[:, None] + matrix[..., 1, :, None] * y
        across = across.flatten(-2) + matrix[..., 3, :]
        along = matrix[..., 2, :] * z
        ix = torch.arange(nx, device=device, dtype=torch.int32).repeat_interleave(ny)
        iy = torch.arange(ny, device=device, dtype=torch.int32).repeat(nx)
        iz = torch.arange(nz, device=device, dtype=torch.int32)
        if device.type == "cpu" and not torch.jit.is_tracing():  # a trace unrolls the loop
            chunk = min(chunk, self.cpu_chunk)
        step = max(1, chunk // nz)
        for i in range(b):
            table = self._folded_maps(maps[i])
            first_code = table.shape[0]
            if self.code.separable:
                table = torch.cat([table, self._folded_code(x, y, z)])
            for start in range(0, nx * ny, step):
                stop = min(start + step, nx * ny)
                pixels = across[i, :, :, start:stop, None] + along[i, :, :, None]
                taps, weights = bilinear_taps(dehomogenise(pixels.flatten(2), 1), h, w)
                column_x = ix[start:stop, None].expand(-1, nz).flatten()
                column_y = iy[start:stop, None].expand(-1, nz).flatten()
                height = iz.repeat(stop - start)
                if self.code.separable:
                    rows = [first_code + column_x, first_code + nx + column_y]
                    rows.append(first_code + nx + ny + height)
                    taps = torch.cat([taps, torch.stack(rows)])
                    weights = torch.cat([weights, torch.ones_like(weights[:3])])
                first = F.embedding_bag(
                    taps.T.contiguous(),
                    table,
                    mode="sum",
                    per_sample_weights=weights.T.to(table.dtype).contiguous(),
                )
                if not self.code.separable:
                    points = torch.stack([x[column_x], y[column_y], z[height]], dim=1)
                    code_weight = self.decoder.first.weight[:, self.view_channels :]
                    code = self.code(points).to(first.dtype)
                    first = first + F.linear(code, code_weight, self.decoder.first.bias)
                out[i, :, start * nz : stop * nz] = self.decoder.after_first(first).T
        return out.reshape(b, self.num_classes + 1, nx, ny, nz)

    def _folded_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """First layer on one case's maps ``(V, C, H, W)`` within a border of zeros, by rows.

        Returns:
            Shape ``(V * (H + 2) * (W + 2), width)``.
        """
        v, c = maps.shape[0], maps.shape[1]
        weight = self.decoder.first.weight[:, : self.view_channels].reshape(-1, v, c)
        bordered = F.pad(maps, [1, 1, 1, 1]).flatten(2)
        return torch.cat([F.linear(bordered[j].T, weight[:, j]) for j in range(v)])

    def _folded_code(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """First layer on a separable code of a grid's axes, shape ``(X + Y + Z, width)``."""
        weight = self.decoder.first.weight[:, self.view_channels :].chunk(3, dim=1)
        bias = self.decoder.first.bias
        rows = []
        for axis, values in enumerate([x, y, z]):
            code = self.code.axis_code(axis, values)
            rows.append(F.linear(code, weight[axis], bias if axis == 0 else None))
        return torch.cat(rows)
