"""Learning rate of a training: warm-up and cosine decay, in one cycle or in several."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosineRestarts(LambdaLR):
    """Cosine decay that starts anew, each time with a linear warm-up (Loshchilov & Hutter 2017).

    Each cycle is MONAI's ``WarmupCosineSchedule`` over its own steps. The schedule depends on the
    number of steps alone, so that an interrupted training resumes where it was.

    Args:
        optimizer: Its learning rates are the highest ones.
        warmup_steps: Steps of the warm-up, in every cycle.
        t_total: Steps of the whole training.
        restarts: Where cycles end and the next ones begin, as fractions of the training, ascending.
        end_lr: The learning rate never falls below it.

    Raises:
        ValueError: The fractions are not between 0 and 1 in ascending order.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        t_total: int,
        restarts: Sequence[float] = (),
        end_lr: float = 0.0,
    ) -> None:
        fractions = [0.0, *restarts, 1.0]
        if any(after <= before for before, after in pairwise(fractions)):
            raise ValueError(f"restarts must ascend between 0 and 1, not {list(restarts)}")
        self.warmup_steps = warmup_steps
        self.end_lr = end_lr
        self.starts = [round(fraction * t_total) for fraction in fractions]
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Fraction of the highest learning rate at a step."""
        cycle = min(bisect_right(self.starts, step), len(self.starts) - 1)
        first, end = self.starts[cycle - 1], self.starts[cycle]
        done = step - first
        if done < self.warmup_steps:
            return done / self.warmup_steps
        progress = (done - self.warmup_steps) / max(1, end - first - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    def get_lr(self) -> list[float | Tensor]:
        """Learning rates of the current step."""
        return [max(self.end_lr, base * self.factor(self.last_epoch)) for base in self.base_lrs]
