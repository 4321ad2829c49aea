"""The joint loss of intensity and structure on points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn


def pack_targets(
    intensity: torch.Tensor, weight: torch.Tensor, allowed: torch.Tensor
) -> torch.Tensor:
    """Join what is known of points into one tensor.

    Args:
        intensity: Normalised intensity, shape ``(..., P)``.
        weight: Weight of the point in the loss, 0 where nothing is known, shape ``(..., P)``.
        allowed: 1 for each label the point may have, shape ``(..., P, K)``: one label where it is
            known, several where an annotation does not tell them apart.

    Returns:
        Shape ``(..., P, 2 + K)``.
    """
    return torch.cat([intensity[..., None], weight[..., None], allowed], dim=-1)


class JointLoss(nn.Module):
    """Weighted sum of intensity and structure losses on the same points.

    Structure is supervised by cross-entropy and Dice. A point with several allowed labels is
    supervised by their union: cross-entropy takes the sum of their probabilities (marginal loss,
    Shi et al., Med Image Anal 70, 2021), and Dice counts the point only for the labels that it
    cannot have, so that none of the allowed ones is favoured.

    Args:
        l1: Weight of the mean absolute error of the normalised intensity.
        mse: Weight of its mean squared error.
        charbonnier: Weight of its Charbonnier loss.
        charbonnier_epsilon: Width of the Charbonnier loss's round bottom.
        structure: Weight of the structure loss; 0 trains intensity alone.
        cross_entropy: Weight of the cross-entropy inside the structure loss.
        dice: Weight of the Dice loss inside the structure loss.
        class_weights: Weight of each label in the cross-entropy, K values; equal if not given.
    """

    def __init__(
        self,
        l1: float = 1.0,
        mse: float = 0.0,
        charbonnier: float = 0.0,
        charbonnier_epsilon: float = 0.01,
        structure: float = 1.0,
        cross_entropy: float = 1.0,
        dice: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.intensity_weights: Mapping[str, float] = {
            "l1": l1,
            "mse": mse,
            "charbonnier": charbonnier,
        }
        self.epsilon = charbonnier_epsilon
        self.structure_weights: Mapping[str, float] = {
            "cross_entropy": structure * cross_entropy,
            "dice": structure * dice,
        }
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.class_weights: torch.Tensor | None
        self.register_buffer("class_weights", weights)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Total loss.

        Args:
            prediction: Class logits, then intensity, shape ``(B, P, K + 1)``.
            target: From :func:`pack_targets`, shape ``(B, P, 2 + K)``.

        Returns:
            Scalar.
        """
        total = torch.zeros((), device=prediction.device)
        weights = {**self.intensity_weights, **self.structure_weights}
        for name, value in self.terms(prediction, target).items():
            total = total + weights[name] * value
        return total

    def terms(self, prediction: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every term with a weight, by name, each a scalar before weighting."""
        prediction = prediction.float()
        logits, intensity = prediction[..., :-1], prediction[..., -1]
        wanted, weight, allowed = target[..., 0], target[..., 1], target[..., 2:]
        total = weight.sum().clamp_min(1e-6)
        error = intensity - wanted
        intensity_terms = {
            "l1": error.abs(),
            "mse": error.square(),
            "charbonnier": (error.square() + self.epsilon**2).sqrt() - self.epsilon,
        }
        terms = {
            name: (weight * value).sum() / total
            for name, value in intensity_terms.items()
            if self.intensity_weights[name]
        }
        if self.structure_weights["cross_entropy"]:
            terms["cross_entropy"] = self._cross_entropy(logits, weight, allowed)
        if self.structure_weights["dice"]:
            terms["dice"] = _dice_loss(logits, weight, allowed)
        return terms

    def _cross_entropy(
        self, logits: torch.Tensor, weight: torch.Tensor, allowed: torch.Tensor
    ) -> torch.Tensor:
        log_p = logits.log_softmax(dim=-1)
        # a point without any allowed label is one of which nothing is known, not an impossible one
        barred = (allowed == 0) & (allowed > 0).any(dim=-1, keepdim=True)
        of_allowed = log_p.masked_fill(barred, -torch.inf).logsumexp(dim=-1)
        if self.class_weights is not None:
            share = allowed / allowed.sum(dim=-1, keepdim=True).clamp_min(1e-6)
            weight = weight * (share * self.class_weights).sum(dim=-1)
        return -(weight * of_allowed).sum() / weight.sum().clamp_min(1e-6)


def _dice_loss(logits: torch.Tensor, weight: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """One minus the mean Dice over the labels present, over all points of the batch."""
    probability = logits.softmax(dim=-1)
    known = (allowed.sum(dim=-1, keepdim=True) == 1).to(allowed)
    reference = allowed * known
    # an ambiguous point counts only for the labels that it cannot have
    w = weight[..., None] * (known + (1 - known) * (1 - allowed))
    dims = tuple(range(logits.ndim - 1))
    overlap = (w * probability * reference).sum(dims)
    size = (w * (probability + reference)).sum(dims)
    present = (w * reference).sum(dims) > 0.5
    dice = (2 * overlap + 1.0) / (size + 1.0)
    return 1 - (dice * present).sum() / present.sum().clamp_min(1)
