"""Network weights as files: a plain state dict that loads with ``weights_only=True``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from spider_bundle.files import atomic_path, file_sha256


def save_weights(state: Mapping[str, torch.Tensor], path: str | Path, half: bool = True) -> None:
    """Write a state dict, as a whole or not at all.

    Args:
        state: State dict of a network.
        path: File to write; its folder is made.
        half: Store floating point values as float16.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: value.detach().cpu() for name, value in state.items()}
    if half:
        plain = {n: v.half() if v.is_floating_point() else v for n, v in plain.items()}
    with atomic_path(target) as temporary:
        torch.save(plain, temporary)


def load_weights(network: nn.Module, path: str | Path) -> str:
    """Load weights into a network.

    Args:
        network: The network; its parameters keep their own dtype.
        path: File of a state dict.

    Returns:
        SHA-256 of the file in hexadecimal digits.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The weights do not fit the network.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return file_sha256(path)


def initialised(network: nn.Module, path: str | Path | None) -> nn.Module:
    """Return the network with the weights of a file, or as it is where no file is named.

    Raises:
        FileNotFoundError: There is no such file.
        RuntimeError: The weights do not fit the network.
    """
    if path is not None:
        load_weights(network, path)
    return network
