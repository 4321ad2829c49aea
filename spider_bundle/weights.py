"""Network weights as files: a flat state dict, and beside it the network that it belongs to.

The weights ``model.pt`` load with ``weights_only=True``. ``model.json`` beside them holds the
network's definition as configs state it, a summary of the training, and the SHA-256 of the weights
that it belongs to. Weights without such a file are those of the network that the config defines.

For weights that have none, ``python -m spider_bundle.weights model.pt configs/train.json`` writes
it, with the network and the recipe of that training config and of those layered on top.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from spider_bundle.errors import Code, SpiderError, validation_message
from spider_bundle.files import atomic_path, file_sha256
from spider_bundle.networks.definition import definition_of, network_of

_log = logging.getLogger(__name__)

_NOMINAL = ("image_size", "pixel_size", "grid_spacing", "grid_shape")
"""Arguments that no weight depends on: the nominal geometry and the default grid."""


class Description(BaseModel):
    """The content of ``model.json``; unknown entries are kept.

    Attributes:
        weights_sha256: Hash of the weights file that it belongs to.
        network_def: The network, see :func:`~spider_bundle.networks.definition.definition_of`; None
            for a class that cannot tell it.
        recipe: How the weights were trained.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    network_def: dict[str, Any] | None
    recipe: dict[str, Any] = Field(default_factory=dict)


def description_path(weights: str | Path) -> Path:
    """Return where the description of a weights file is."""
    return Path(weights).with_suffix(".json")


def read_description(weights: str | Path) -> Description | None:
    """Read the description of a weights file, if it has one.

    Raises:
        SpiderError: M03.
        FileNotFoundError: There is no such weights file.
    """
    path = description_path(weights)
    digest = file_sha256(weights)
    if not path.exists():
        return None
    try:
        described = Description.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SpiderError(Code.INVALID_DESCRIPTION, validation_message(error)) from None
    if described.weights_sha256 != digest:
        raise SpiderError(Code.INVALID_DESCRIPTION)
    return described


def save_weights(
    network: nn.Module | Mapping[str, torch.Tensor],
    path: str | Path,
    half: bool = True,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write weights, each file as a whole or not at all.

    Args:
        network: The network, whose description is written as well, or its state dict alone.
        path: File to write; its folder is made.
        half: Store floating point values as float16.
        recipe: How the network was trained, for the description.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = network.state_dict() if isinstance(network, nn.Module) else network
    plain = {name: value.detach().cpu() for name, value in state.items()}
    if half:
        plain = {n: v.half() if v.is_floating_point() else v for n, v in plain.items()}
    with atomic_path(target) as temporary:
        torch.save(plain, temporary)
    if isinstance(network, nn.Module):
        _describe(network, target, recipe or {})
    else:
        description_path(target).unlink(missing_ok=True)  # of weights that were there before


def _describe(network: nn.Module, weights: Path, recipe: Mapping[str, Any]) -> None:
    described = Description(
        weights_sha256=file_sha256(weights),
        network_def=definition_of(network),
        recipe=dict(recipe),
    )
    with atomic_path(description_path(weights)) as temporary:
        temporary.write_text(described.model_dump_json(indent=4) + "\n", encoding="utf-8")


def load_weights(network: nn.Module, path: str | Path) -> str:
    """Load weights into the network that they belong to.

    Args:
        network: The network; its parameters keep their own dtype.
        path: File of a state dict.

    Returns:
        SHA-256 of the file in hexadecimal digits.

    Raises:
        FileNotFoundError: There is no such file.
        SpiderError: M01 to M03.
    """
    described = read_description(path)
    if described is not None and (other := _differences(network, described)):
        message = f"these weights belong to another network_def ({', '.join(other)})"
        raise SpiderError(Code.OTHER_NETWORK, message)
    _load(network, path)
    return file_sha256(path)


def _load(network: nn.Module, path: str | Path) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch.load has no error of its own for a file that is something else
        raise SpiderError(Code.INVALID_WEIGHTS) from None
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        raise SpiderError(Code.INVALID_WEIGHTS, "it is no flat state dict of tensors")
    if not all(value.isfinite().all() for value in state.values()):
        raise SpiderError(Code.INVALID_WEIGHTS, "some values are not finite")
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    wrong = {n for n in shapes.keys() | state.keys() if n not in state or n not in shapes}
    wrong |= {n for n in shapes.keys() - wrong if shapes[n] != state[n].shape}
    if wrong:
        count = f"{len(wrong)} of {len(shapes)} tensors do not fit network_def"
        raise SpiderError(Code.OTHER_NETWORK, count)
    network.load_state_dict(state)


def _differences(network: nn.Module, described: Description) -> list[str]:
    """Return the arguments in which a network is not the described one."""
    defined, wanted = definition_of(network), described.network_def
    if defined is None or wanted is None:
        return []
    defined, wanted = _short(defined), _short(wanted)
    return [n for n in wanted if n not in _NOMINAL and wanted[n] != defined.get(n)]


def _short(value: Any) -> Any:
    """Return a definition with the bare names of its classes, which have several full names."""
    if not isinstance(value, Mapping):
        return value
    short = {name: _short(part) for name, part in value.items()}
    return {**short, "_target_": str(short.get("_target_")).rpartition(".")[2]}


def initialised(network: nn.Module, path: str | Path | None) -> nn.Module:
    """Return a network to train with the weights of a file, or as it is where no file is named.

    Raises:
        FileNotFoundError: There is no such file.
        SpiderError: M01 to M03.
    """
    if path is not None:
        load_weights(network, path)
    return network


def trained(network: nn.Module, path: str | Path | None) -> nn.Module:
    """Return the network that weights belong to, with these weights.

    Args:
        network: The network of weights that have no description. It also says what no weight
            depends on: nominal geometry and default grid.
        path: The weights; the network is returned as it is where no file is named.

    Raises:
        FileNotFoundError: There is no such file.
        SpiderError: M01 to M03.
    """
    if path is None:
        return network
    described = read_description(path)
    if described is not None and (other := _differences(network, described)):
        nominal = {n: v for n, v in (definition_of(network) or {}).items() if n in _NOMINAL}
        try:
            network = network_of({**(described.network_def or {}), **nominal})
        except ValueError as error:
            raise SpiderError(Code.OTHER_NETWORK, f"its network_def: {error}") from None
        _log.info("network_def of the weights is used; other than the config: %s", ", ".join(other))
    load_weights(network, path)
    return network


def trained_with(name: str, path: str | Path | None, default: Any) -> Any:
    """Return an argument of the network that weights belong to, a default if it is not known.

    Raises:
        SpiderError: M03.
    """
    if path is None or not Path(path).is_file():
        return default
    described = read_description(path)
    return ((described and described.network_def) or {}).get(name, default)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the description of weights that have none.

    Raises:
        SpiderError: M01 or M02, the weights do not fit the network of the config.
    """
    parser = argparse.ArgumentParser("python -m spider_bundle.weights", description=main.__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("config", type=Path, nargs="+", help="training config, then its layers")
    given = parser.parse_args(arguments)
    config = ConfigParser()
    config.read_config(list(map(str, given.config)))
    description_path(given.weights).unlink(missing_ok=True)
    network = config.get_parsed_content("network_def")
    _load(network, given.weights)
    _describe(network, given.weights, config.get_parsed_content("recipe"))


if __name__ == "__main__":
    main()
