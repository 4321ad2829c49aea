"""Every cycle of the learning rate is MONAI's schedule over the cycle's own steps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from monai.optimizers import WarmupCosineSchedule
from torch.optim.lr_scheduler import LRScheduler

from spider_bundle.training.schedules import WarmupCosineRestarts

HIGHEST = 0.01


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=HIGHEST)


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    """Learning rate of each step."""
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_each_cycle_is_monais_schedule() -> None:
    found = rates(WarmupCosineRestarts(optimizer(), 4, 104, [8 / 13], 1e-6), 104)
    first = rates(WarmupCosineSchedule(optimizer(), 4, 64), 64)
    second = rates(WarmupCosineSchedule(optimizer(), 4, 40), 40)
    assert found == pytest.approx([max(rate, 1e-6) for rate in first + second], abs=0)
    assert found[4] == found[68] == HIGHEST


def test_without_restarts_it_only_decays() -> None:
    found = rates(WarmupCosineRestarts(optimizer(), 3, 50), 50)
    assert found == pytest.approx(rates(WarmupCosineSchedule(optimizer(), 3, 50), 50), abs=0)


def test_it_goes_on_from_the_step_alone() -> None:
    whole = rates(WarmupCosineRestarts(optimizer(), 2, 40, [0.5], 1e-5), 40)
    resumed = WarmupCosineRestarts(optimizer(), 2, 40, [0.5], 1e-5)
    resumed.last_epoch = 26  # all that a checkpoint tells
    resumed.optimizer.step()
    resumed.step()
    assert resumed.get_last_lr()[0] == whole[27]


def test_after_the_end_it_stays_at_the_lowest_rate() -> None:
    assert rates(WarmupCosineRestarts(optimizer(), 2, 20, [0.5], 1e-5), 25)[20:] == [1e-5] * 5


@pytest.mark.parametrize("restarts", [[0.0], [1.0], [0.6, 0.4], [0.5, 0.5], [-0.1]], ids=str)
def test_restarts_must_ascend_within_the_training(restarts: Sequence[float]) -> None:
    with pytest.raises(ValueError, match="restarts"):
        WarmupCosineRestarts(optimizer(), 2, 20, restarts)
