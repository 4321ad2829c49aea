"""What a training needs beside MONAI: a checkpoint that survives interruptions, several processes.

Under ``torchrun`` every process trains a copy of the network on its own device and on its own share
of the cases; ``DistributedDataParallel`` averages their gradients.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sized
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data.distributed import DistributedSampler

from spider_bundle.files import atomic_path
from spider_bundle.resources import available_cores
from spider_bundle.weights import save_weights

_log = logging.getLogger(__name__)

_PATIENCE = timedelta(hours=2)
"""How long the other processes wait while the first one validates."""
_MOST_WORKERS = 8


def process_rank() -> int:
    """Number of this process among those that train together; 0 where it trains alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def join_processes(device: torch.device | str) -> None:
    """Let the processes that ``torchrun`` started find each other.

    Args:
        device: Device of this process; NCCL connects CUDA devices, Gloo everything else.

    Raises:
        ValueError: The process was not started by ``torchrun``.
    """
    device = torch.device(device)
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=_PATIENCE)


def leave_processes() -> None:
    """Wait until all processes are done, then part."""
    dist.barrier()
    dist.destroy_process_group()


def loading_workers(device: torch.device | str) -> int:
    """Number of processes that prepare the cases of one training process.

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
        """Indices of this process's cases in the current epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        drawn = torch.randint(
            self.cases, (self.num_samples, self.num_replicas), generator=generator
        )
        return iter(drawn[:, self.rank].tolist())


class ResumableCheckpoint:
    """Save the whole state of a training after every epoch; go on from it when there is one.

    A run may be killed at any moment: files appear under their names only when complete. Beside the
    state, the averaged weights are written as a plain ``model.pt``, ready for inference.

    Where several processes train together, the first one reads and writes the files. Names in the
    files do not depend on that: any number of processes can go on.

    Args:
        folder: Folder of ``checkpoint.pt`` and ``model.pt``.
        state: Objects with a state dict, by name (network, averaged network, optimizer, schedule).
        network: The network whose weights go to ``model.pt``.
    """

    def __init__(self, folder: str | Path, state: Mapping[str, Any], network: nn.Module) -> None:
        self.folder = Path(folder)
        self.state = state
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Load when the trainer starts and save after each of its epochs."""
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _load(self, engine: Engine) -> None:
        saved = self._read() if process_rank() == 0 else None
        if dist.is_available() and dist.is_initialized():
            # not every machine sees the folder, and all must start at the same epoch
            box = [saved]
            dist.broadcast_object_list(box)
            saved = box[0]
        if saved is None:
            return
        for name, item in self.state.items():
            if isinstance(item, LRScheduler):
                # progress only: how long the schedule is stays with the config
                item.last_epoch = saved[name]["last_epoch"]
            else:
                _bare(item).load_state_dict(saved[name])
        # not the augmentations of the first epochs once more
        seed = torch.initial_seed() + saved["epoch"]
        torch.manual_seed(seed)
        loader = getattr(engine, "data_loader", None)
        if loader is not None:
            set_rnd(loader.dataset, seed % 2**32)
        engine.state.epoch = saved["epoch"]
        engine.state.iteration = saved["iteration"]
        _log.info("resumed after epoch %d, iteration %d", saved["epoch"], saved["iteration"])

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return None
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return saved

    def _save(self, engine: Engine) -> None:
        if process_rank() > 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {name: _bare(item).state_dict() for name, item in self.state.items()}
        position = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        with atomic_path(self.folder / "checkpoint.pt") as path:
            torch.save({**state, **position}, path)
        save_weights(_bare(self.network).state_dict(), self.folder / "model.pt")


def _bare(item: Any) -> Any:
    """The network itself where ``DistributedDataParallel`` wraps it."""
    return item.module if isinstance(item, DistributedDataParallel) else item
