"""A checkpoint with which a training survives interruptions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from spider_bundle.files import atomic_path
from spider_bundle.training.processes import process_rank
from spider_bundle.weights import save_weights

_log = logging.getLogger(__name__)


class ResumableCheckpoint:
    """Save the whole state of a training after every epoch; resume from it if there is one.

    A run may be killed at any moment: files appear under their names only when complete. Beside the
    state, the averaged weights are written as ``model.pt`` with ``model.json`` (see
    :mod:`spider_bundle.weights`), ready for inference.

    Where several processes train together, the first one reads and writes the files. Names in the
    files do not depend on that: any number of processes can resume.

    Args:
        folder: Folder of ``checkpoint.pt``, ``model.pt`` and ``model.json``.
        state: Objects with a state dict, by name (network, averaged network, optimizer, schedule).
        network: The network whose weights go to ``model.pt``.
        recipe: How it is trained, for ``model.json``.
    """

    def __init__(
        self,
        folder: str | Path,
        state: Mapping[str, Any],
        network: nn.Module,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.state = state
        self.network = network
        self.recipe = recipe or {}

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
            if name not in saved:
                continue  # of a state that earlier releases did not save
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
        recipe = {**self.recipe, "epoch": engine.state.epoch}
        save_weights(_bare(self.network), self.folder / "model.pt", recipe=recipe)


def _bare(item: Any) -> Any:
    """Return the network itself where ``DistributedDataParallel`` wraps it."""
    return item.module if isinstance(item, DistributedDataParallel) else item
