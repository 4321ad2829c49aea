"""Options that several commands share, and what is checked about them before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spider_bundle.bundle import config_text
from spider_bundle.cli.ends import shown

Spacing = Annotated[float, typer.Option(help="Voxel size, mm.", min=0.1)]
Shape = Annotated[int, typer.Option(help="Voxels along each axis.", min=8, max=512)]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; best if not given.")]
Precision = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16, or auto: bfloat16 on GPUs that compute in it and on CPUs with "
        "AMX, float32 elsewhere."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights instead of the bundle's.", exists=True, dir_okay=False),
]
BundleRoot = Annotated[
    Path | None, typer.Option(help="Bundle folder, where it is not found by itself.")
]
Dicom = Annotated[
    bool, typer.Option("--dicom", help="Also write a DICOM CT series and a segmentation on it.")
]
Mesh = Annotated[
    bool, typer.Option("--mesh", help="Also write surfaces of bone and mandible (STL).")
]
Html = Annotated[bool, typer.Option("--html", help="Also write reports as pages for people.")]
KeepIdentity = Annotated[
    bool,
    typer.Option(
        "--keep-identity", help="Write the DICOM results for the patient and study themselves."
    ),
]
KeyFile = Annotated[
    Path | None, typer.Option(help="The site's secret for study keys.", dir_okay=False)
]
CreateKeyFile = Annotated[
    bool, typer.Option("--create-key-file", help="Make the key file if it is absent.")
]


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


def require_pacs() -> None:
    """End with R03 as bad usage where the extra ``pacs`` is not installed."""
    from spider_bundle.outputs.optional_dependencies import require_extra

    with shown():
        require_extra("pacs")
