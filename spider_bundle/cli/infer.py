"""`spider infer`: one pair, or every study below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spider_bundle.cli.ends import fail, shown
from spider_bundle.cli.options import (
    BundleRoot,
    Device,
    Dicom,
    Html,
    KeepIdentity,
    Mesh,
    Precision,
    Shape,
    Spacing,
    Weights,
    check_extras,
    computation,
    config_path,
)
from spider_bundle.errors import Code, line, root_cause
from spider_bundle.exit_status import EXIT_FAILED, EXIT_REFUSED
from spider_bundle.logs import is_debugging


def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="FRONTAL and LATERAL file, or one folder with any number of studies."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the results.", file_okay=False, writable=True
        ),
    ],
    spacing: Spacing = 2.0,
    shape: Shape = 128,
    sod: Annotated[
        str, typer.Option(help="Source to isocentre, mm: one value, or FRONTAL,LATERAL.")
    ] = "",
    sdd: Annotated[
        str, typer.Option(help="Source to detector, mm: one value, or FRONTAL,LATERAL.")
    ] = "",
    pitch: Annotated[
        str, typer.Option(help="Pixel pitch at the detector, mm: one value, or FRONTAL,LATERAL.")
    ] = "",
    view: Annotated[str, typer.Option(help="Views as FRONTAL,LATERAL, e.g. PA,LL.")] = "",
    frontal_orientation: Annotated[
        str, typer.Option(help="PatientOrientation of the frontal image, e.g. L,F.")
    ] = "",
    lateral_orientation: Annotated[
        str, typer.Option(help="PatientOrientation of the lateral image, e.g. P,F.")
    ] = "",
    frontal_mask: Annotated[
        list[str] | None,
        typer.Option(help="Box to leave out: TOP,LEFT,BOTTOM,RIGHT in pixels; may be repeated."),
    ] = None,
    lateral_mask: Annotated[
        list[str] | None, typer.Option(help="The same for the lateral image.")
    ] = None,
    frame: Annotated[
        int | None, typer.Option(help="Frame (from 0) of multi-frame files.", min=0)
    ] = None,
    allow_secondary_capture: Annotated[
        bool, typer.Option(help="Take secondary captures for radiographs.")
    ] = False,
    dicom: Dicom = False,
    mesh: Mesh = False,
    html: Html = False,
    keep_identity: KeepIdentity = False,
    device: Device = "",
    precision: Precision = "auto",
    weights: Weights = None,
    bundle_root: BundleRoot = None,
) -> None:
    """Reconstruct one pair, or every study below a folder.

    Results go to OUTPUT/<study key>/: ct.nii.gz, label.nii.gz, report.json, preview.png, and
    what else is asked for. Values that the files lack can be stated here; they are recorded in the
    report.
    """
    overrides: dict[str, Any] = {}
    with shown():
        stated = _stated_overrides(
            {"sod": sod, "sdd": sdd, "pitch": pitch, "view": view},
            {"frontal": frontal_orientation, "lateral": lateral_orientation},
            {"frontal": frontal_mask or [], "lateral": lateral_mask or []},
        )
        if frame is not None:
            stated["frame"] = frame
        if allow_secondary_capture:
            stated["allow_secondary_capture"] = True
        overrides = {"overrides": stated, **_dataset(inputs), **computation(device, precision)}
        check_extras(dicom, mesh, keep_identity)
    overrides |= {
        "output_dir": config_path(output),
        "spacing": spacing,
        "shape": shape,
        "dicom": dicom,
        "mesh": mesh,
        "html": html,
        "keep_identity": keep_identity,
    }
    if weights is not None:
        overrides["weights"] = config_path(weights)
    refused, failed, done = _run(overrides, bundle_root)
    lost = f", {failed} not written" if failed else ""
    typer.echo(f"{done} reconstructed, {len(refused)} refused{lost}; results in {output}")
    if failed:
        raise typer.Exit(EXIT_FAILED)
    if refused or not done:
        raise typer.Exit(EXIT_REFUSED)


def _run(overrides: dict[str, Any], root: Path | None) -> tuple[list[Any], int, int]:
    """Run the inference config.

    Returns:
        The refusals, and the numbers of studies that could not be written and that were.
    """
    from spider_bundle.bundle import inference_workflow

    try:
        overrides["handlers"] = []  # no statistics of a run without scores
        workflow = inference_workflow(overrides, root)
        workflow.run()
        dataset = workflow.parser.get_parsed_content("dataset")
        writer = workflow.parser.get_parsed_content("writer")
    except Exception as error:
        if is_debugging():
            raise
        # its text may quote a path or an attribute: name its kind only
        kind = type(root_cause(error)).__name__
        action = (
            "run again with SPIDER_DEBUG=1 to see where; the details may name files. Results that "
            "are complete stay"
        )
        fail(line(Code.RUN_FAILED, f"the run failed ({kind})", action=action))
    failed = len(writer.failed)
    return dataset.refused, failed, len(dataset) - dataset.unusable - failed


def _dataset(inputs: list[Path]) -> dict[str, Any]:
    """Config values that name the input.

    Raises:
        ValueError: Not one folder or two files.
    """
    if len(inputs) == 1 and inputs[0].is_dir():
        return {"dataset_dir": config_path(inputs[0])}
    if len(inputs) == 2 and all(path.is_file() for path in inputs):
        pair = {"frontal": config_path(inputs[0]), "lateral": config_path(inputs[1])}
        return {"dataset::folder": None, "dataset::data": [{"image": pair}]}
    raise ValueError("name two existing DICOM files, or one existing folder")


def _stated_overrides(
    values: dict[str, str], orientations: dict[str, str], masks: dict[str, list[str]]
) -> dict[str, Any]:
    """Return the overrides of the options, checked.

    Raises:
        ValueError: An option is not of its form.
    """
    from spider_bundle.dicom.overrides import PairOverrides

    views: dict[str, dict[str, Any]] = {"frontal": {}, "lateral": {}}
    for name, text in values.items():
        if not text:
            continue
        parts = [part.strip() for part in text.split(",")]
        if len(parts) > 2 or (name == "view" and len(parts) != 2):
            raise ValueError(f"--{name} takes FRONTAL,LATERAL, got {text!r}")
        for role, part in zip(views, parts * (3 - len(parts)), strict=False):
            views[role][name] = part
    for role, text in orientations.items():
        if text:
            letters = [part.strip() for part in text.split(",")]
            if len(letters) != 2:
                raise ValueError(f"--{role}-orientation takes COLUMNS,ROWS, got {text!r}")
            views[role]["orientation"] = letters
    for role, boxes in masks.items():
        if boxes:
            views[role]["mask_boxes"] = [box.split(",") for box in boxes]
    PairOverrides.from_mapping(views)
    return dict(views)
