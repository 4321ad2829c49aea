"""Where the bundle's configs and weights are, and how its configs are run from Python."""

from __future__ import annotations

import logging
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from spider_bundle.errors import SpiderError
from spider_bundle.exit_status import EXIT_FAILED, EXIT_STATUS

T = TypeVar("T")

_log = logging.getLogger(__name__)

ROOT_VARIABLE = "SPIDER_BUNDLE_ROOT"


def bundle_root(explicit: str | os.PathLike[str] | None = None) -> Path:
    """Folder with ``configs`` and ``models``.

    Args:
        explicit: The folder; if not given, the environment variable ``SPIDER_BUNDLE_ROOT``, then
            the clone that this package was imported from, then the places where an installation
            puts them.

    Raises:
        FileNotFoundError: None of them holds ``configs/inference.json``.
    """
    named = explicit or os.environ.get(ROOT_VARIABLE)
    # a virtual environment, the system's own scheme (Debian: /usr/local), pip install --user
    bases = (sys.prefix, sysconfig.get_path("data"), site.getuserbase())
    places = (
        [Path(named)]
        if named
        else [
            Path(__file__).resolve().parents[1],
            *(Path(base, "share", "spider_bundle") for base in bases),
        ]
    )
    for place in places:
        if (place / "configs" / "inference.json").is_file():
            return place
    raise FileNotFoundError(
        f"no bundle found (configs/inference.json); name its folder with {ROOT_VARIABLE}"
    )


def config_text(path: str | os.PathLike[str]) -> str:
    """Return a path as a config value that gives just this path.

    MONAI replaces ``#``, ``@::`` and ``%::`` in every text.
    """
    text = os.fspath(path)
    special = set("#@%$") & set(text)
    if not special:
        return text
    literal = repr(text)
    for character in special:
        literal = literal.replace(character, f"\\x{ord(character):02x}")
    return f"${literal}"


def or_exit(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function for a config; an error with a code ends the program in one line.

    MONAI would wrap the error several times, and show each with its traceback.

    Raises:
        SystemExit: The function raised a SpiderError.
    """
    try:
        return function(*arguments)
    except SpiderError as error:
        _log.error("%s", error)
        raise SystemExit(EXIT_STATUS.get(error.code, EXIT_FAILED)) from None


def inference_workflow(
    overrides: Mapping[str, Any], root: str | os.PathLike[str] | None = None
) -> Any:
    """Return the bundle's inference config as a MONAI workflow.

    Args:
        overrides: Values by config id, e.g. ``{"output_dir": "out"}``.
        root: See :func:`bundle_root`.

    Returns:
        An initialised :class:`monai.bundle.ConfigWorkflow`.

    Raises:
        FileNotFoundError: There is no bundle.
    """
    return _workflow(["inference"], "inference", overrides, root)


def training_workflow(
    overrides: Mapping[str, Any],
    root: str | os.PathLike[str] | None = None,
    layers: Sequence[Path] = (),
) -> Any:
    """Return the bundle's training as a MONAI workflow; see :func:`evaluation_workflow`."""
    return _workflow(["train"], None, overrides, root, layers)


def evaluation_workflow(
    overrides: Mapping[str, Any],
    root: str | os.PathLike[str] | None = None,
    layers: Sequence[Path] = (),
) -> Any:
    """Return the bundle's evaluation, a layer over its training config, as a MONAI workflow.

    Args:
        overrides: See :func:`inference_workflow`, whose result and errors are those of this one.
        root: See :func:`bundle_root`.
        layers: Further config files on top.
    """
    return _workflow(["train", "evaluate"], None, overrides, root, layers)


def _workflow(
    names: Sequence[str],
    kind: str | None,
    overrides: Mapping[str, Any],
    root: str | os.PathLike[str] | None,
    layers: Sequence[Path] = (),
) -> Any:
    from monai.bundle import ConfigWorkflow  # heavy: keeps the command line's help fast

    # it warns that logging was left to the caller, which is what is wanted
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    folder = bundle_root(root)
    workflow = ConfigWorkflow(
        config_file=[
            *(str(folder / "configs" / f"{name}.json") for name in names),
            *map(str, layers),
        ],
        meta_file=str(folder / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=config_text(folder),
        **dict(overrides),
    )
    workflow.initialize()
    return workflow
