"""Where the bundle's configs and weights are, and how its configs are run from Python."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from spider_bundle.errors import Code, SpiderError
from spider_bundle.exit_status import EXIT_FAILED, EXIT_STATUS

if TYPE_CHECKING:
    from spider_bundle.dicom.dataset import StudyDataset

T = TypeVar("T")

_log = logging.getLogger(__name__)

ROOT_VARIABLE = "SPIDER_BUNDLE_ROOT"
PATH_OPTIONS = frozenset(
    {
        *("bundle_root", "dataset_dir", "output_dir", "weights"),
        *("data_dir", "ckpt_dir", "initial_weights"),
    }
)
"""Ids of the configs whose values are paths."""


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


def take_options() -> None:
    """Take the paths of ``monai.bundle run`` as they were typed; refuse options that no config has.

    The first expression of every config. On the way there, Python Fire makes numbers and lists of
    texts, and MONAI gives ``#``, ``$`` and ``@`` a meaning. It hands an expression neither the
    options nor its parser, so both are taken from the calls that lead here. Programs that make a
    workflow themselves have :func:`config_text`.

    Raises:
        SpiderError: R13.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
    from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

    scopes = {}
    frame = inspect.currentframe()
    while frame is not None:
        scopes[frame.f_code] = frame.f_locals
        frame = frame.f_back
    call = scopes.get(create_workflow.__code__)
    if call is None:
        return
    parser, options = scopes[ConfigWorkflow.initialize.__code__]["self"].parser, call["_args"]
    known = {
        *ConfigParser.load_config_files(call["config_file"]),
        *inspect.signature(ConfigWorkflow.__init__).parameters,
        *DEFAULT_MLFLOW_SETTINGS["configs"],
    }
    used = json.dumps(parser.config, default=str)
    for option in options:
        name = option.lstrip("+").replace("#", "::").partition("::")[0]
        if name not in known and f"@{name}" not in used:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise SpiderError(Code.INVALID_OPTION, f"there is no option --{name}{hint}")
    typed = _typed_options(sys.argv)
    for name in PATH_OPTIONS & (options.keys() | typed.keys()):  # a typed None is no option
        path = typed.get(name, options.get(name))
        if path is None:
            continue
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            action = "give the path as text; for a name like 20240115, write ./20240115"
            raise SpiderError(Code.INVALID_OPTION, f"--{name} names no path", action=action)
        if name in typed or not str(path).startswith(("$", "@", "%")):
            parser.ref_resolver.resolved_content[name] = path


def _typed_options(argv: Sequence[str]) -> dict[str, str]:
    """Return the options of a ``monai.bundle`` command line as texts, by the rules of Python Fire.

    Args:
        argv: Program and arguments; those of another program are none of MONAI's.
    """
    if Path(argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
        return {}
    typed = {}
    for argument, following in zip(argv, [*argv[1:], "--"], strict=True):
        if _is_flag(argument):
            name, equals, text = argument.lstrip("-").partition("=")
            text = text if equals or _is_flag(following) else following
            typed[name.replace("-", "_")] = text
    return typed


def _is_flag(argument: str) -> bool:
    return re.match("--|-[a-zA-Z]", argument) is not None


def log_start(folder: Any, data: Any, output_dir: Any) -> None:
    """Log what a run reads and where its results go.

    Args:
        folder: Folder or folders of the studies, or None.
        data: Further entries of the dataset, or None.
        output_dir: Folder for the results.

    Raises:
        SpiderError: A05, nothing is named, or a folder that does not exist.
    """
    action = "name the folder with the studies: --dataset_dir FOLDER"
    if folder is None and data is None:
        raise SpiderError(Code.INPUT_UNREADABLE, "no studies are named", action=action)
    for path in [folder] if isinstance(folder, (str, os.PathLike)) else folder or ():
        if not os.fspath(path) or not os.path.lexists(path):
            message = f"there is no folder {os.fspath(path)!r}"
            raise SpiderError(Code.INPUT_UNREADABLE, message, action=action)
    _log.info("reading studies below %s; results go to %s", folder or "the named files", output_dir)


def log_end(dataset: StudyDataset, failed: Collection[str], output_dir: Any) -> None:
    """Log how many studies a run has reconstructed, and the files of those that it has not."""
    for key in [*(str(entry["study_key"]) for entry in dataset.refused), *failed]:
        for path in dataset.files.get(key, ()):
            _log.warning("study %s: %s", key, path)
    done = len(dataset) - dataset.unusable - len(failed)
    counts = done, len(dataset.refused), len(failed)
    _log.info("%d reconstructed, %d refused, %d failed; results in %s", *counts, output_dir)


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
