"""The 2D U-Net that turns every radiograph into one pixel-aligned feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import nn
from torch.nn import functional as F


class NoExchange(nn.Module):
    """Every view for itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor, views: int) -> torch.Tensor:
        """Maps ``(B * V, C, H, W)`` as they are."""
        return x


class RowMean(nn.Conv2d):
    """Add to each row what the mean of this row in the other view says, by a 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1)

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, views: int
    ) -> torch.Tensor:
        """Maps ``(B * V, C, H, W)`` of both views, changed."""
        n, c, h, w = x.shape
        rows = x.reshape(n // views, views, c, h, w).mean(dim=4, keepdim=True)
        return x + super().forward(rows.flip(1).reshape(n, c, h, 1))


class RowAttention(nn.Module):
    """Let each pixel of a row attend to the pixels of this row in the other view."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attend = nn.MultiheadAttention(channels, 4, batch_first=True)

    def forward(self, x: torch.Tensor, views: int) -> torch.Tensor:
        """Maps ``(B * V, C, H, W)`` of both views, changed."""
        n, c, h, w = x.shape
        rows = self.norm(x.permute(0, 2, 3, 1))
        other = rows.reshape(n // views, views, h, w, c).flip(1).reshape(n * h, w, c)
        found = self.attend(rows.reshape(n * h, w, c), other, other, need_weights=False)[0]
        return x + found.reshape(n, h, w, c).permute(0, 3, 1, 2)


_EXCHANGES: dict[str, type[nn.Module]] = {
    "none": NoExchange,
    "mean": RowMean,
    "attention": RowAttention,
}


class ViewEncoder(nn.Module):
    """Four-level 2D U-Net with the same weights for every view.

    The map it returns joins the U-Net's full-resolution output with its bottleneck, brought to the
    same pixels, so that a point reads fine detail and wide context at one place.

    Args:
        features: Channels of the four levels.
        map_channels: Channels of the full-resolution output.
        context_channels: Channels to which the bottleneck is reduced.
        stride: Factor by which radiographs are averaged down before the first level; the map has
            ``1 / stride`` of the radiograph's pixels.
        exchange: How the views exchange their bottlenecks: ``none``, ``mean`` or ``attention``.
            Canonical radiographs show the same height in the same row, so each row reads the mean
            of that row in the other view, or attends to that row.
    """

    def __init__(
        self,
        features: Sequence[int] = (32, 64, 128, 256),
        map_channels: int = 32,
        context_channels: int = 64,
        stride: int = 2,
        exchange: str = "mean",
    ) -> None:
        super().__init__()
        a, b, c, d = features
        act = ("RELU", {"inplace": True})
        norm = ("GROUP", {"num_groups": 8})
        self.stride = stride
        self.out_channels = map_channels + context_channels
        self.level1 = TwoConv(2, 1, a, act, norm, bias=False)
        self.level2 = Down(2, a, b, act, norm, bias=False)
        self.level3 = Down(2, b, c, act, norm, bias=False)
        self.level4 = Down(2, c, d, act, norm, bias=False)
        self.exchange = _EXCHANGES[exchange](d)
        self.up3 = UpCat(2, d, c, c, act, norm, bias=False, is_pad=False)
        self.up2 = UpCat(2, c, b, b, act, norm, bias=False, is_pad=False)
        self.up1 = UpCat(2, b, a, a, act, norm, bias=False, halves=False, is_pad=False)
        self.detail = nn.Conv2d(a, map_channels, 1)
        self.context = nn.Conv2d(d, context_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode radiographs.

        Args:
            image: Normalised radiographs, shape ``(B, 2, H, W)``, H and W multiples of
                ``8 * stride``.

        Returns:
            Feature maps, shape ``(B, 2, map_channels + context_channels, H / stride, W / stride)``.
        """
        b, v, h, w = image.shape
        single = image.reshape(b * v, 1, h, w)
        x1 = self.level1(F.avg_pool2d(single, self.stride) if self.stride > 1 else single)
        x2 = self.level2(x1)
        x3 = self.level3(x2)
        x4 = self.level4(x3)
        x4 = self.exchange(x4, v)
        detail = self.detail(self.up1(self.up2(self.up3(x4, x3), x2), x1))
        context = F.interpolate(
            self.context(x4), size=x1.shape[2:], mode="bilinear", align_corners=False
        )
        maps = torch.cat([detail, context], dim=1)
        return maps.reshape(b, v, maps.shape[1], maps.shape[2], maps.shape[3])
