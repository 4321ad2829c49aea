"""Networks that can tell and be made of their definition, as configs state it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import Any

from torch import nn

_PACKAGE = __package__ + "."


class Defined(nn.Module):
    """A module that keeps the arguments it was made of; see :func:`definition_of`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Keep the arguments; a copy takes those of its original."""
        module = super().__new__(cls)
        bound = signature(cls.__init__).bind_partial(module, *args, **kwargs)
        bound.apply_defaults()
        _, *arguments = bound.arguments.items()
        # no annotation of the class: TorchScript would take it for an attribute to compile
        object.__setattr__(module, "_arguments", dict(arguments))
        return module


def definition_of(module: nn.Module) -> dict[str, Any] | None:
    """Return class (``_target_``) and arguments of a module, as JSON has them.

    None for a module that is not :class:`Defined`.
    """
    if not isinstance(module, Defined):
        return None
    target = f"{type(module).__module__}.{type(module).__qualname__}"
    plain: dict[str, Any] = json.loads(
        json.dumps({"_target_": target, **vars(module)["_arguments"]}, default=definition_of)
    )
    return plain


def network_of(definition: Any) -> Any:
    """Make the network of a definition; nothing but classes of this package is called.

    Args:
        definition: See :func:`definition_of`; values that are no definition are returned as they
            are.

    Raises:
        ValueError: It names another class, or an argument that is not one.
    """
    if not isinstance(definition, Mapping):
        return definition
    arguments = {name: network_of(value) for name, value in definition.items()}
    module, _, name = str(arguments.pop("_target_", "")).rpartition(".")
    if not (module + ".").startswith(_PACKAGE):
        raise ValueError("_target_ names no class of this bundle's networks")
    try:
        kind = getattr(import_module(module), name)
        assert issubclass(kind, Defined)
    except (ImportError, AttributeError, TypeError, AssertionError):
        raise ValueError("_target_ names no class of this bundle's networks") from None
    try:
        return kind(**arguments)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"an argument of {name} is not possible") from error
