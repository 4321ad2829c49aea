"""Which cases a training process draws, and how many processes load them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sized

import torch
from torch.utils.data.distributed import DistributedSampler

from spider_bundle.resources import available_cores

_MOST_WORKERS = 8


def loading_workers(device: torch.device | str) -> int:
    """Return the number of processes that prepare the cases of one training process.

    None on a CPU, where they would take the cores from the network. On CUDA one per core, at most
    8, where the training processes of the machine (``LOCAL_WORLD_SIZE``) share the cores.
    """
    if torch.device(device).type != "cuda":
        return 0
    trainings = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MOST_WORKERS, available_cores() // trainings))


class SharedRandomSampler(DistributedSampler):
    """Draw cases with replacement, for several training processes.

    All processes make the same draw, which depends on seed and epoch alone, and each takes every
    n-th case of it. MONAI's trainer sets the epoch.

    Args:
        dataset: The cases to draw from.
        num_samples: Cases of one process per epoch.
        num_replicas: Number of processes; those of the process group if not given.
        rank: Number of this process; that in the process group if not given.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        dataset: Sized,
        num_samples: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)  # type: ignore[arg-type]
        self.cases = len(dataset)
        self.num_samples = num_samples

    def __iter__(self) -> Iterator[int]:
        """Return the indices of this process's cases in the current epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.randint(
            self.cases, (self.num_samples, self.num_replicas), generator=generator
        )
        return iter(drawn[:, self.rank].tolist())
