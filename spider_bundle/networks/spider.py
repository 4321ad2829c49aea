"""SPIDER: one encoder-decoder for CT intensity and anatomical structure.

A 2D U-Net encodes every radiograph; a 3D point is projected on all views, reads their feature maps
there, and an MLP decodes these features together with a positional encoding into the label logits
and the CT intensity (T. Yu et al., arXiv 2507.04684; sizes and the place where the heads split are
this project's choice).

Sampling is linear, so for whole grids the MLP's first layer is applied to the feature maps once and
its results are sampled and added up; the positional encoding becomes three short tables that are
added the same way. :meth:`SPIDER.decode` is the plain reference, :meth:`SPIDER.decode_grid` the
folded path; both give the same numbers.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from spider_bundle.geometry import (
    Grid,
    ViewPosition,
    isocentric_view,
)
from spider_bundle.networks.decoder import ImplicitDecoder
from spider_bundle.networks.definition import Defined
from spider_bundle.networks.encoder import ViewEncoder
from spider_bundle.networks.positional_encoding import (
    FourierEncoding,
    NoEncoding,
    PositionalEncoding,
)
from spider_bundle.networks.sampling import bilinear_taps, map_projection, sample_maps
from spider_bundle.projection_matrix import dehomogenise, project_points

CHUNK = 131072
"""Points of a grid decoded at a time."""

VoxelDecoder = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Class logits and intensity, ``(P, K + 1)``, of voxel indices along x, y and z, ``(P,)`` each."""

_CPU_CHUNK = 8192
"""Points decoded at a time on CPUs: a hidden layer, 4 MiB in bfloat16, stays in the caches."""


class SPIDER(Defined):
    """Structure-preferential implicit network for two radiographs.

    Args:
        num_classes: Number of labels K, background included.
        features: Channels of the encoder's four levels.
        map_channels: Channels of the encoder's full-resolution output.
        context_channels: Channels to which its bottleneck is reduced.
        stride: Radiograph pixels per feature-map pixel.
        exchange: Whether the views exchange their bottlenecks.
        positional_encoding: Encoding of the point: ``fourier``, ``none``, or a
            :class:`~spider_bundle.networks.positional_encoding.PositionalEncoding`.
        hidden: Widths of the decoder's shared trunk.
        branch: Widths of each head's own hidden layers (empty: the heads are linear).
        image_size: Rows and columns of the radiographs of the nominal geometry.
        pixel_size: Their pixel size at the isocentre, mm.
        grid_spacing: Voxel size of the default output grid, mm.
        grid_shape: Voxels of the default output grid.
    """

    nominal_projection: torch.Tensor
    grid_x: torch.Tensor
    grid_y: torch.Tensor
    grid_z: torch.Tensor

    def __init__(
        self,
        num_classes: int = 6,
        features: Sequence[int] = (32, 64, 128, 256),
        map_channels: int = 32,
        context_channels: int = 64,
        stride: int = 2,
        exchange: bool = True,
        positional_encoding: str | PositionalEncoding = "fourier",
        hidden: Sequence[int] = (256, 256),
        branch: Sequence[int] = (256,),
        image_size: int = 256,
        pixel_size: float = 1.2,
        grid_spacing: float = 2.0,
        grid_shape: Sequence[int] = (128, 128, 128),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.chunk = CHUNK
        self.cpu_chunk = _CPU_CHUNK
        nominal = nominal_projection(image_size, pixel_size)
        self.register_buffer("nominal_projection", nominal, persistent=False)
        for name, axis in zip("xyz", Grid.centred(grid_spacing, grid_shape).axes(), strict=True):
            self.register_buffer(f"grid_{name}", torch.from_numpy(axis).float(), persistent=False)
        self.stride = stride
        self.encoder = ViewEncoder(features, map_channels, context_channels, stride, exchange)
        self.positional_encoding = _encoding(positional_encoding)
        self.view_channels = 2 * self.encoder.out_channels
        self.decoder = ImplicitDecoder(
            self.view_channels + self.positional_encoding.out_channels, hidden, branch, num_classes
        )

    def forward(
        self,
        image: torch.Tensor,
        projection: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Reconstruct points or the default grid.

        Args:
            image: Normalised radiographs, frontal and lateral, shape ``(B, 2, H, W)``.
            projection: LPS mm to (column, row) pixels of ``image``, shape ``(B, 2, 4, 4)``; the
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
        return self.decoder(torch.cat([sampled, self.positional_encoding(points)], dim=-1))

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
        b, device = maps.shape[0], maps.device
        x, y, z = x.to(device), y.to(device), z.to(device)
        nx, ny, nz = x.shape[0], y.shape[0], z.shape[0]
        out = torch.empty(
            (b, self.num_classes + 1, nx * ny * nz), dtype=torch.float32, device=device
        )
        if device.type == "cpu" and not torch.jit.is_tracing():  # a trace unrolls the loop
            chunk = min(chunk, self.cpu_chunk)
        step = max(1, chunk // nz)
        for i in range(b):
            table, across, along = self._folded(maps[i], projection[i].to(device), x, y, z)
            for start in range(0, nx * ny, step):
                stop = min(start + step, nx * ny)
                column = torch.arange(start, stop, device=device).repeat_interleave(nz)
                height = torch.arange(nz, device=device).repeat(stop - start)
                values = self._decode_folded(
                    table, across, along, maps.shape[3], maps.shape[4], column, height
                )
                out[i, :, start * nz : stop * nz] = values.T
        return out.reshape(b, self.num_classes + 1, nx, ny, nz)

    def voxel_decoder(
        self,
        maps: torch.Tensor,
        projection: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        z: torch.Tensor,
    ) -> VoxelDecoder:
        """Return a function that decodes single voxels of a grid, folded as in :meth:`decode_grid`.

        Args:
            maps: Feature maps of one case, shape ``(1, 2, C, H, W)``.
            projection: Its matrices, shape ``(1, 2, 4, 4)``.
            x: LPS mm of the grid along x, shape ``(X,)``; ``y`` and ``z`` alike.
            y: Shape ``(Y,)``.
            z: Shape ``(Z,)``.

        Returns:
            It takes voxel indices along x, y and z, ``(P,)`` each, and returns ``(P, K + 1)``.
        """
        device = maps.device
        x, y, z = x.to(device), y.to(device), z.to(device)
        table, across, along = self._folded(maps[0], projection[0].to(device), x, y, z)

        def decode(ix: torch.Tensor, iy: torch.Tensor, iz: torch.Tensor) -> torch.Tensor:
            column = ix * len(y) + iy
            return self._decode_folded(
                table, across, along, maps.shape[3], maps.shape[4], column, iz
            )

        return decode

    def _folded(
        self,
        maps: torch.Tensor,
        projection: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        z: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prepare one case's grid for :meth:`_decode_folded`.

        Returns:
            The first layer on the maps, then on the encoding of the axes, shape ``(N, width)``;
            homogeneous pixels are sums of a term per column of the grid, ``(V, 4, X, Y)``, and a
            term per height, ``(V, 4, Z)``.
        """
        matrix = map_projection(projection, self.stride).float()[..., None]
        across = matrix[..., 0, :, None] * x[:, None] + matrix[..., 1, :, None] * y
        across = across + matrix[..., 3, :, None]
        table = torch.cat([self._folded_maps(maps), self._folded_encoding(x, y, z)])
        return table, across, matrix[..., 2, :] * z

    def _decode_folded(
        self,
        table: torch.Tensor,
        across: torch.Tensor,
        along: torch.Tensor,
        map_rows: int,
        map_columns: int,
        column: torch.Tensor,
        height: torch.Tensor,
    ) -> torch.Tensor:
        """Decode voxels of a grid.

        Args:
            table: From :meth:`_folded`, as ``across`` and ``along``.
            across: Shape ``(V, 4, X, Y)``.
            along: Shape ``(V, 4, Z)``.
            map_rows: Rows of the feature maps.
            map_columns: Their columns.
            column: Indices of the voxels into ``X * Y``, shape ``(P,)``.
            height: Their indices along z, shape ``(P,)``.

        Returns:
            Shape ``(P, K + 1)``.
        """
        nx, ny, nz = across.shape[2], across.shape[3], along.shape[2]
        pixels = across.flatten(2)[:, :, column] + along[:, :, height]
        taps, weights = bilinear_taps(dehomogenise(pixels, 1), map_rows, map_columns)
        first_axis = table.shape[0] - nx - ny - nz
        rows = [first_axis + column // ny, first_axis + nx + column % ny]
        rows.append(first_axis + nx + ny + height)
        taps = torch.cat([taps, torch.stack(rows).int()])
        weights = torch.cat([weights, torch.ones_like(weights[:3])])
        first = F.embedding_bag(
            taps.T.contiguous(),
            table,
            mode="sum",
            per_sample_weights=weights.T.to(table.dtype).contiguous(),
        )
        return self.decoder.after_first(first)

    def _folded_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """First layer on one case's maps ``(V, C, H, W)`` within a border of zeros, by rows.

        Returns:
            Shape ``(V * (H + 2) * (W + 2), width)``.
        """
        v, c = maps.shape[0], maps.shape[1]
        weight = self.decoder.first.weight[:, : self.view_channels].reshape(-1, v, c)
        bordered = F.pad(maps, [1, 1, 1, 1]).flatten(2)
        return torch.cat([F.linear(bordered[j].T, weight[:, j]) for j in range(v)])

    def _folded_encoding(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """First layer on the encoding of a grid's axes, shape ``(X + Y + Z, width)``."""
        weight = self.decoder.first.weight[:, self.view_channels :].chunk(3, dim=1)
        bias = self.decoder.first.bias
        rows = []
        for axis, values in enumerate([x, y, z]):
            encoding = self.positional_encoding.encode_axis(axis, values)
            rows.append(F.linear(encoding, weight[axis], bias if axis == 0 else None))
        return torch.cat(rows)


def _encoding(kind: str | PositionalEncoding) -> PositionalEncoding:
    """Return the positional encoding of a name; a module is returned as it is."""
    if isinstance(kind, PositionalEncoding):
        return kind
    kinds: dict[str, type[PositionalEncoding]] = {"none": NoEncoding, "fourier": FourierEncoding}
    if kind not in kinds:
        raise ValueError(f"positional_encoding must be one of {sorted(kinds)}, got {kind!r}")
    return kinds[kind]()


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
        Shape ``(2, 4, 4)``, float64: frontal, lateral.
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
