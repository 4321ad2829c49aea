"""`spider infer`: one pair, or every study below a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spider_bundle.cli.ends import show_files, shown, without_traceback
from spider_bundle.cli.options import (
    BundleRoot,
    Device,
    Dicom,
    Exact,
    Html,
    KeepIdentity,
    Kind,
    MapFile,
    Mesh,
    Precision,
    Shape,
    Spacing,
    Weights,
    check_extras,
    computation,
    of_geometry,
    of_input,
)
from spider_bundle.exit_status import EXIT_FAILED, EXIT_REFUSED
from spider_bundle.pseudonym import check_map, write_map

if TYPE_CHECKING:
    from spider_bundle.batch.options import BatchOptions

ONE_OR_TWO, DIRECTIONS, BOX = "MM[,MM]", "COLUMNS,ROWS", "TOP,LEFT,BOTTOM,RIGHT"

_log = logging.getLogger(__name__)


def infer(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="FRONTAL and LATERAL file, or one folder with any number of studies."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the results.",
            file_okay=False,
            writable=True,
            metavar="FOLDER",
        ),
    ] = Path("results"),
    spacing: Spacing = 2.0,
    shape: Shape = None,
    sod: Annotated[str, of_geometry(help="Source to isocentre.", metavar=ONE_OR_TWO)] = "",
    oid: Annotated[
        str, of_geometry(help="Isocentre to detector, in place of --sod.", metavar=ONE_OR_TWO)
    ] = "",
    sdd: Annotated[str, of_geometry(help="Source to detector.", metavar=ONE_OR_TWO)] = "",
    pitch: Annotated[str, of_geometry(help="Pixel pitch at detector.", metavar=ONE_OR_TWO)] = "",
    view: Annotated[str, of_geometry(help="Views, e.g. PA,LL.", metavar="FRONTAL,LATERAL")] = "",
    tube_side: Annotated[
        str,
        of_geometry(
            help="Side of the tube of localisers: A or P, L or R, or both as A,L.", metavar="SIDES"
        ),
    ] = "",
    frontal_orientation: Annotated[
        str,
        of_geometry(help="PatientOrientation of the frontal image, e.g. L,F.", metavar=DIRECTIONS),
    ] = "",
    lateral_orientation: Annotated[
        str,
        of_geometry(help="PatientOrientation of the lateral image, e.g. P,F.", metavar=DIRECTIONS),
    ] = "",
    frontal_mask: Annotated[
        list[str] | None,
        of_input(help="Box of pixels to leave out; may be repeated.", metavar=BOX),
    ] = None,
    lateral_mask: Annotated[
        list[str] | None, of_input(help="The same for the lateral image.", metavar=BOX)
    ] = None,
    kind: Kind = "",
    frame: Annotated[
        int | None, of_input(help="Frame (from 0) of multi-frame files.", min=0, metavar="N")
    ] = None,
    allow_secondary_capture: Annotated[
        bool,
        of_input("--allow-secondary-capture", help="Accept secondary captures as radiographs."),
    ] = False,
    dicom: Dicom = False,
    mesh: Mesh = False,
    html: Html = False,
    keep_identity: KeepIdentity = False,
    device: Device = "",
    precision: Precision = "auto",
    exact: Exact = False,
    weights: Weights = None,
    bundle_root: BundleRoot = None,
    map_file: MapFile = None,
) -> None:
    """Reconstruct a pair, or a folder of studies.

    Results go to OUTPUT/<study key>/: ct.nii.gz, label.nii.gz, report.json, preview.png, and what
    else is asked for. Values that the files lack can be stated here; they are recorded in the
    report. Lengths are in mm.
    """
    with shown():
        stated = _stated_overrides(
            {"sod": sod, "oid": oid, "sdd": sdd, "pitch": pitch, "view": view},
            {"frontal": frontal_orientation, "lateral": lateral_orientation},
            {"frontal": frontal_mask or [], "lateral": lateral_mask or []},
            tube_side,
            kind,
        )
        if frame is not None:
            stated["frame"] = frame
        if allow_secondary_capture:
            stated["allow_secondary_capture"] = True
        source = _dataset(inputs)
        check_map(map_file, output)
        check_extras(dicom, mesh, keep_identity)
        if device or precision != "auto":
            computation(device, precision)
    with without_traceback("the run"):
        output.mkdir(parents=True, exist_ok=True)
    with shown():
        from spider_bundle.batch.options import BatchOptions

        options = BatchOptions(
            inputs[0],
            output,
            spacing=spacing,
            shape=shape,
            device=device,
            precision=precision,
            exact=exact,
            weights=weights,
            jobs=1,
            dicom=dicom,
            mesh=mesh,
            html=html,
            keep_identity=keep_identity,
            config={"overrides": stated},
            bundle_root=bundle_root,
        )
    kept = "nothing was written of the study at hand, complete results stay"
    with without_traceback("the run", options, kept):
        ended, files = _reconstruct(options, source)
        if map_file is not None:
            write_map(map_file, files)
    done, failed = ([key for key, state in ended if state == name] for name in ("done", "failed"))
    refused = len(ended) - len(done) - len(failed)
    lost = f", {len(failed)} failed" if failed else ""
    look = f"; open {output / done[0] / 'preview.png'}" if done else f"; see {output}"
    show_files([key for key, _ in ended if key not in done], files)
    typer.echo(f"{len(done)} reconstructed, {refused} refused{lost}{look}")
    if failed:
        raise typer.Exit(EXIT_FAILED)
    if refused or not done:
        raise typer.Exit(EXIT_REFUSED)


def _reconstruct(
    options: BatchOptions, source: dict[str, Any]
) -> tuple[list[tuple[str, str]], dict[str, Sequence[Path]]]:
    """Reconstruct study after study, as a batch does, in this process.

    Returns:
        Study key and state of each study, and the files of each by its key.
    """
    _log.info("loading the network")  # seconds go by until the first study
    from spider_bundle.batch.job import Job
    from spider_bundle.batch.options import worker_settings
    from spider_bundle.batch.progress import progress
    from spider_bundle.batch.records import State
    from spider_bundle.batch.worker import InferencePipeline, run_study
    from spider_bundle.dicom.dataset import StudyDataset
    from spider_bundle.outputs.study import write_refusals

    pipeline = InferencePipeline(worker_settings(options))  # before all else: weights may be wrong
    reconstructor = pipeline.reconstructor
    studies = StudyDataset(
        **source,
        transform=lambda entry: reconstructor.read(entry["image"]),
        key=os.environ.get("SPIDER_SITE_KEY"),
        overrides=reconstructor.overrides,
        keep_identity=options.keep_identity,
    )
    refused = list(studies.refused)
    write_refusals(options.output, refused)
    ended = [(str(entry["study_key"]), State.REFUSED.value) for entry in refused]
    with progress() as bar:
        bar.expect(len(studies))
        try:
            for key, entry in studies.data:
                pair = entry["image"]
                job = Job(key or getattr(pair, "study_key", ""), pair, {}, None, "", ())
                done = run_study(pipeline, job, bar.stage)
                bar.tell(done)
                ended.append((done.study_key, done.state.value))
                if done.state is State.REFUSED:
                    refused.append({"study_key": done.study_key, "findings": list(done.findings)})
        finally:
            if len(refused) > len(studies.refused):
                write_refusals(options.output, refused)
    return ended, studies.files


def _dataset(inputs: list[Path]) -> dict[str, Any]:
    """Return the input as :class:`~spider_bundle.dicom.dataset.StudyDataset` takes it.

    Raises:
        ValueError: Not one folder or two files.
    """
    for path in inputs:
        if not os.path.lexists(path):
            raise ValueError(f"there is no file or folder {str(path)!r}")
    if len(inputs) == 1 and inputs[0].is_dir():
        return {"folder": inputs[0]}
    if len(inputs) == 2 and all(path.is_file() for path in inputs):
        return {"data": [{"image": list(map(str, inputs))}]}
    raise ValueError("name two existing DICOM files, or one existing folder")


def _stated_overrides(
    values: dict[str, str],
    orientations: dict[str, str],
    masks: dict[str, list[str]],
    tube_side: str,
    kind: str,
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
    for letter in filter(None, tube_side.upper().replace(" ", "").split(",")):
        views["frontal" if letter in ("A", "P") else "lateral"]["tube_side"] = letter
    if kind:
        for stated in views.values():
            stated["kind"] = kind
    PairOverrides.from_mapping(views)
    return dict(views)
