"""Options that several commands share, and what is checked about them before a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from spider_bundle.bundle import config_text
from spider_bundle.cli.ends import shown
from spider_bundle.errors import Code, SpiderError

of_outputs = partial(typer.Option, rich_help_panel="Outputs")
of_geometry = partial(typer.Option, rich_help_panel="Geometry, if the files lack it")
of_input = partial(typer.Option, rich_help_panel="Input")
of_computation = partial(typer.Option, rich_help_panel="Computation")
existing = partial(typer.Option, exists=True, dir_okay=False, metavar="FILE")

Spacing = Annotated[float, of_outputs(help="Voxel size.", min=0.1, metavar="MM")]
Shape = Annotated[
    int | None,
    of_outputs(help="Voxels along each axis; as many as span 256 mm.", min=8, max=512, metavar="N"),
]
Dicom = Annotated[
    bool, of_outputs("--dicom", help="Also write a DICOM CT series and a segmentation on it.")
]
Mesh = Annotated[bool, of_outputs("--mesh", help="Also write surfaces of bone and mandible (STL).")]
Html = Annotated[bool, of_outputs("--html", help="Also write an HTML report per study.")]
KeepIdentity = Annotated[
    bool,
    of_outputs("--keep-identity", help="Keep patient and study identity in the DICOM results."),
]
Device = Annotated[
    str,
    of_computation(help="cpu, cuda or cuda:N; the best available if not given.", metavar="NAME"),
]
Precision = Annotated[
    str,
    of_computation(
        help="float32, bfloat16, or auto: bfloat16 on GPUs that compute in it and on CPUs with "
        "AMX, float32 elsewhere.",
        metavar="NAME",
    ),
]
Exact = Annotated[
    bool,
    of_computation("--exact", help="Decode every voxel; slower, differs by less than 1 HU."),
]
Weights = Annotated[
    Path | None,
    existing(
        help="Weights instead of the bundle's; the network is that of their model.json.",
        rich_help_panel="Computation",
    ),
]
BundleRoot = Annotated[
    Path | None,
    of_computation(help="Bundle folder, if not found automatically.", metavar="FOLDER"),
]
DatasetDir = Annotated[
    Path | None,
    typer.Option(
        help="Prepared heads; heads/openkbp_4mm below SPIDER_DATA if not given.",
        exists=True,
        file_okay=False,
        metavar="FOLDER",
    ),
]
Layers = Annotated[
    list[Path] | None,
    existing("--config-file", help="Config on top of the bundle's; may be repeated."),
]
Kind = Annotated[
    Literal["", "radiograph", "localiser"],
    of_input(
        help="radiograph or localiser: what to take of a study that holds both.", metavar="KIND"
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="The site's secret for study keys.", dir_okay=False, metavar="FILE"),
]
MapFile = Annotated[
    Path | None,
    typer.Option(
        "--map",
        help="Also write a table of keys and paths, for you alone; outside the output.",
        dir_okay=False,
        metavar="FILE",
    ),
]
TrustConfig = Annotated[
    bool,
    typer.Option("--trust-config", help="Take config files that others can change."),
]
CreateKeyFile = Annotated[
    bool, typer.Option("--create-key-file", help="Make the key file if it is absent.")
]


class GroupedCommand(TyperCommand):
    """A command whose help shows its options in groups, and that takes no empty path."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an empty path, as an unset variable leaves it: it would be the current folder."""
        may_be_empty = {name for one in self.params if one.default == "" for name in one.opts}
        for before, argument in zip(["", *args], args, strict=False):
            option = argument.startswith("--") and argument.endswith("=")
            name = argument[:-1] if option else before
            if (option or not argument) and name not in may_be_empty:
                raise typer.BadParameter("an argument is empty; is a variable not set?", ctx=ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group, the options without one first."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.param_type_name == "option":
                title = getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault(title, []).append(record)
        for title, rows in groups.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def check_layers(layers: Sequence[Path] | None, is_trusted: bool) -> None:
    """Refuse config files that somebody else may have written: a config runs as code.

    Raises:
        SpiderError: S02.
    """
    for path in layers or ():
        status = path.stat()
        is_own = os.name != "posix" or status.st_uid in (0, os.geteuid())
        if not is_trusted and not (is_own and not status.st_mode & 0o022):
            raise SpiderError(Code.CONFIG_WRITABLE_BY_OTHERS)


def config_path(path: Path) -> str:
    """Return a path as a config value that MONAI leaves as it is."""
    return config_text(path.absolute())


def computation(device: str, precision: str) -> dict[str, Any]:
    """Config values of device and precision.

    Raises:
        ValueError: There is no such device or precision.
    """
    import torch

    from spider_bundle.precision import autocast

    autocast("cpu", precision)
    values: dict[str, Any] = {"precision": precision}
    if device:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError):
            raise ValueError(f"there is no device {device!r} here") from None
        values["device"] = f"$torch.device({device!r})"
    return values


def check_extras(dicom: bool, mesh: bool, keep_identity: bool) -> None:
    """Refuse optional outputs that this installation cannot write.

    Raises:
        SpiderError: R03, a package is missing.
        ValueError: An option would do nothing.
    """
    from spider_bundle.outputs.optional_dependencies import require_extra

    if keep_identity and not dicom:
        raise ValueError("--keep-identity concerns the DICOM results; give --dicom as well")
    for wanted, extra in ((dicom, "dicom"), (mesh, "mesh")):
        if wanted:
            require_extra(extra)


def training_values(
    dataset_dir: Path | None, device: str, precision: str, **paths: Path | None
) -> dict[str, Any]:
    """Return values of the training config, checked.

    Args:
        dataset_dir: Prepared heads.
        device: See :func:`computation`.
        precision: See :func:`computation`.
        paths: Further paths by their ids.

    Raises:
        SpiderError: M04.
        ValueError: There is no such device or precision.
    """
    from spider_bundle.cases.datalist import head_datalist

    if dataset_dir is not None:
        head_datalist(dataset_dir, "training")  # before the slow imports
        paths["dataset_dir"] = dataset_dir
    values = {name: config_path(path) for name, path in paths.items() if path is not None}
    return {**values, **computation(device, precision)}


def require_pacs() -> None:
    """End with R03 as bad usage where the extra ``pacs`` is not installed."""
    from spider_bundle.outputs.optional_dependencies import require_extra

    with shown():
        require_extra("pacs")
