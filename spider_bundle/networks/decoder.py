"""The implicit decoder: an MLP from what a point sees to its intensity and its structure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class ImplicitDecoder(nn.Module):
    """Shared trunk with late-split heads for structure and intensity.

    The first layer is kept apart from the trunk because it is linear in the sampled features: it
    can be applied to the feature maps before sampling
    (:meth:`spider_bundle.networks.spider.SPIDER.decode_grid`).

    Args:
        in_channels: Features of all views and the positional encoding together.
        hidden: Width of each hidden layer of the trunk.
        branch: Width of hidden layers of each head's own branch; empty for linear heads.
        num_classes: Number of labels, background included.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: Sequence[int] = (256, 256),
        branch: Sequence[int] = (256,),
        num_classes: int = 6,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(in_channels, hidden[0])
        self.trunk = _mlp(hidden)
        self.structure = nn.Sequential(
            _mlp([hidden[-1], *branch]), nn.Linear([hidden[-1], *branch][-1], num_classes)
        )
        self.intensity = nn.Sequential(
            _mlp([hidden[-1], *branch]), nn.Linear([hidden[-1], *branch][-1], 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Decode points.

        Args:
            features: Sampled features and positional encoding, shape ``(..., in_channels)``.

        Returns:
            Shape ``(..., num_classes + 1)``: class logits, then the normalised intensity.
        """
        return self.after_first(self.first(features))

    def after_first(self, first: torch.Tensor) -> torch.Tensor:
        """Everything behind the first linear layer, from its output ``(..., hidden[0])``.

        ``first`` is overwritten.
        """
        hidden = self.trunk(torch.relu_(first))
        return torch.cat([self.structure(hidden), self.intensity(hidden)], dim=-1)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
