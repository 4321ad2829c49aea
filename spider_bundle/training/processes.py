"""Several processes that train one network.

Under ``torchrun`` every process trains a copy of the network on its own device and on its own share
of the cases; ``DistributedDataParallel`` averages their gradients.
"""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

_PATIENCE = timedelta(hours=2)
"""How long the other processes wait while the first one validates."""


def process_rank() -> int:
    """Return the number of this process among those that train together; 0 if alone."""
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
