"""The 2D U-Net that turns every radiograph into one pixel-aligned feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import nn
from torch.nn import functional as F


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
        exchange: Let the views exchange their bottlenecks. Canonical radiographs show the same
            height in the same row, so each row reads the mean of that row in the other view.
    """

    def __init__(
        self,
        features: Sequence[int] = (32, 64, 128, 256),
        map_channels: int = 32,
        context_channels: int = 64,
        stride: int = 2,
        exchange: bool = True,
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
        self.exchange = nn.Conv2d(d, d, 1) if exchange else None
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
        if self.exchange is not None:
            rows = x4.reshape(b, v, x4.shape[1], x4.shape[2], x4.shape[3]).mean(dim=4, keepdim=True)
            x4 = x4 + self.exchange(rows.flip(1).reshape(b * v, x4.shape[1], x4.shape[2], 1))
        detail = self.detail(self.up1(self.up2(self.up3(x4, x3), x2), x1))
        context = F.interpolate(
            self.context(x4), size=x1.shape[2:], mode="bilinear", align_corners=False
        )
        maps = torch.cat([detail, context], dim=1)
        return maps.reshape(b, v, maps.shape[1], maps.shape[2], maps.shape[3])
