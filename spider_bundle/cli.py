"""Command line of the bundle.

Exit codes: 0 all done, 1 a study failed unexpectedly, 2 bad usage, 3 a study was refused.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3

app = typer.Typer(
    help="Head CT and labels from two radiographs. Research use only, never for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Head CT and labels from two radiographs. Research use only, never for diagnosis."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    # ignite logs failures with a traceback, which may name files; they are reported below
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Folder for the two DICOM files.")]) -> None:
    """Write the demo's radiograph pair, made from an analytic head."""
    from spider_bundle.demo import write_demo_pair

    for path in write_demo_pair(folder):
        typer.echo(str(path))


@app.command()
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
    spacing: Annotated[float, typer.Option(help="Voxel size, mm.", min=0.1)] = 2.0,
    shape: Annotated[int, typer.Option(help="Voxels along each axis.", min=8, max=512)] = 128,
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
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also write a DICOM CT series and a segmentation on it.")
    ] = False,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Also write surfaces of bone and mandible (STL).")
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also write the report as a page for people.")
    ] = False,
    keep_identity: Annotated[
        bool,
        typer.Option(
            "--keep-identity", help="Write the DICOM results for the patient and study themselves."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; best if not given.")] = "",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights instead of the bundle's.", exists=True, dir_okay=False),
    ] = None,
    bundle_root: Annotated[
        Path | None, typer.Option(help="Bundle folder, where it is not found by itself.")
    ] = None,
) -> None:
    """Reconstruct one pair, or every study below a folder.

    Results go to OUTPUT/<study key>/: ct.nii.gz, label.nii.gz, report.json, preview.png, and
    what else is asked for. Values that the files lack can be stated here; they are recorded in the
    report.
    """
    overrides: dict[str, Any] = {}
    try:
        stated = _stated_overrides(
            {"sod": sod, "sdd": sdd, "pitch": pitch, "view": view},
            {"frontal": frontal_orientation, "lateral": lateral_orientation},
            {"frontal": frontal_mask or [], "lateral": lateral_mask or []},
        )
        if frame is not None:
            stated["frame"] = frame
        if allow_secondary_capture:
            stated["allow_secondary_capture"] = True
        overrides = {"overrides": stated, **_dataset(inputs), **_computation(device, precision)}
        _check_extras(dicom, mesh, keep_identity)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    overrides |= {
        "output_dir": _config_path(output),
        "spacing": spacing,
        "shape": shape,
        "dicom": dicom,
        "mesh": mesh,
        "html": html,
        "keep_identity": keep_identity,
    }
    if weights is not None:
        overrides["weights"] = _config_path(weights)
    refused, failed, done = _run(overrides, bundle_root)
    lost = f", {failed} not written" if failed else ""
    typer.echo(f"{done} reconstructed, {len(refused)} refused{lost}; results in {output}")
    if failed:
        raise typer.Exit(EXIT_FAILED)
    if refused or not done:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="Folder with studies and zip archives, a zip archive, or a DICOMDIR.",
            exists=True,
        ),
    ],
    output: Annotated[Path, typer.Argument(help="Folder for the results.", file_okay=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and what is refused; no more.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait for further studies until SIGTERM.")
    ] = False,
    quiet_seconds: Annotated[
        float, typer.Option(help="Take a study when unchanged for so long (--watch).", min=0)
    ] = 30.0,
    jobs: Annotated[int, typer.Option(help="Worker processes.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; best if not given.")] = "",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    spacing: Annotated[float, typer.Option(help="Voxel size, mm.", min=0.1)] = 2.0,
    shape: Annotated[int, typer.Option(help="Voxels along each axis.", min=8, max=512)] = 128,
    limit: Annotated[int | None, typer.Option(help="Most studies to take.", min=1)] = None,
    on_error: Annotated[str, typer.Option(help="continue or stop.")] = "continue",
    time_limit: Annotated[
        float, typer.Option(help="Seconds that one study may take.", min=1)
    ] = 600.0,
    min_free: Annotated[
        float, typer.Option(help="Start no study with less free space, MiB.", min=0)
    ] = 512.0,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Also write a DICOM CT series and a segmentation on it.")
    ] = False,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Also write surfaces of bone and mandible (STL).")
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also write reports and an index as pages for people.")
    ] = False,
    keep_identity: Annotated[
        bool,
        typer.Option("--keep-identity", help="DICOM results for the patient and study themselves."),
    ] = False,
    profile: Annotated[
        Path | None,
        typer.Option(help="The site's overrides, YAML or JSON.", exists=True, dir_okay=False),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="The site's secret for study keys.", dir_okay=False)
    ] = None,
    create_key_file: Annotated[
        bool, typer.Option("--create-key-file", help="Make the key file if it is absent.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights instead of the bundle's.", exists=True, dir_okay=False),
    ] = None,
    config_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="Config on top of inference.json; may be repeated.", exists=True, dir_okay=False
        ),
    ] = None,
    bundle_root: Annotated[
        Path | None, typer.Option(help="Bundle folder, where it is not found by itself.")
    ] = None,
) -> None:
    """Reconstruct every study of INPUT into OUTPUT, unattended; run again to go on.

    Exit codes: 0 all done, 1 failures, 2 bad usage, 3 refused studies or none found, 4 stopped
    before the end. How each study ended is in OUTPUT/manifest.jsonl.
    """
    from spider_bundle.batch.codes import BatchCode, BatchError
    from spider_bundle.batch.runner import EXIT_UNFINISHED, BatchOptions, plan_batch, run_batch

    try:
        if on_error not in ("continue", "stop"):
            raise ValueError(f"--on-error takes continue or stop, got {on_error!r}")
        if create_key_file and key_file is None:
            raise ValueError("--create-key-file needs --key-file")
        _computation(device, precision)
        _check_extras(dicom, mesh, keep_identity)
        options = BatchOptions(
            source,
            output,
            spacing=spacing,
            shape=shape,
            device=device,
            precision=precision,
            weights=weights,
            jobs=jobs,
            limit=limit,
            stop_on_error=on_error == "stop",
            time_limit=time_limit,
            profile=profile,
            key_file=key_file,
            create_key_file=create_key_file,
            dry_run=dry_run,
            watch=watch,
            quiet_seconds=quiet_seconds,
            min_free_mib=min_free,
            dicom=dicom,
            mesh=mesh,
            html=html,
            keep_identity=keep_identity,
            config_files=config_file or (),
            bundle_root=bundle_root,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        if dry_run:
            plan = plan_batch(options)
            typer.echo("\n".join(plan.lines()))
            outcome = plan.outcome
        else:
            outcome = run_batch(options)
    except BatchError as error:
        if error.code in (BatchCode.K01, BatchCode.S01):
            raise typer.BadParameter(str(error)) from None
        typer.echo(str(error), err=True)
        another = error.code is BatchCode.R08
        raise typer.Exit(EXIT_UNFINISHED if another else EXIT_FAILED) from None
    except OSError as error:
        if os.environ.get("SPIDER_DEBUG"):
            raise
        # its text names the path, which may be a patient's
        typer.echo(
            f"R01 the batch could not go on ({error.strerror or type(error).__name__}). To do: see "
            "to the space and the rights of the output folder and run again; what is done stays.",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED) from None
    typer.echo(", ".join(f"{number} {name}" for name, number in outcome.counts.items() if number))
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command()
def evaluate(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for scores, tables and figures.")
    ] = Path("eval"),
    dataset_dir: Annotated[
        Path | None,
        typer.Option(
            help="Prepared heads; heads/openkbp_4mm below SPIDER_DATA if not given.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights instead of the bundle's.", exists=True, dir_okay=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; best if not given.")] = "",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    bundle_root: Annotated[
        Path | None, typer.Option(help="Bundle folder, where it is not found by itself.")
    ] = None,
) -> None:
    """Score the weights beside the baselines and controls on the validation heads.

    Protocols V1 and V2, sensitivity, tables and figures go to OUTPUT.
    """
    from spider_bundle.bundle import evaluation_workflow

    try:
        overrides = {"output_dir": _config_path(output), **_computation(device, precision)}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    for name, path in (("dataset_dir", dataset_dir), ("weights", weights)):
        if path is not None:
            overrides[name] = _config_path(path)
    workflow = evaluation_workflow(overrides, bundle_root)
    if not Path(workflow.parser.get_parsed_content("dataset_dir"), "split.json").is_file():
        raise typer.BadParameter("no prepared heads (split.json) there; name them: --dataset-dir")
    workflow.run()
    typer.echo((output / "v1" / "comparison.md").read_text(encoding="utf-8"))


@app.command()
def prepare(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with CT scans: DICOM series, NIfTI.", exists=True, file_okay=False
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder for the head cases.", file_okay=False, writable=True)
    ],
    spacing: Annotated[float, typer.Option(help="Voxel size, mm.", min=0.25)] = 4.0,
    size: Annotated[float, typer.Option(help="Side of the cube, mm.", min=64, max=1024)] = 256.0,
    validation_share: Annotated[
        float, typer.Option(help="Share of the patients that validate.", min=0, max=1)
    ] = 0.15,
    contours: Annotated[
        str, typer.Option(help="Name of the mandible's segmentation beside a scan.")
    ] = "{stem}_mandible.nii.gz",
    isocentres: Annotated[
        Path | None,
        typer.Option(help="Stated isocentres, JSON or CSV.", exists=True, dir_okay=False),
    ] = None,
    patient_pattern: Annotated[
        str, typer.Option(help="Regular expression of the patient in the path of NIfTI files.")
    ] = "",
) -> None:
    """Prepare every CT scan below a folder as a head case for training and evaluation.

    Finished scans are skipped, so a run that was cut can be started again.
    """
    from spider_bundle.cases.folder import PrepareOptions, prepare_folder, read_isocentres
    from spider_bundle.radiographs.pair import PUBLIC_KEY

    try:
        key = os.environ.get("SPIDER_SITE_KEY") or PUBLIC_KEY
        options = PrepareOptions(
            spacing, size, validation_share, contours, patient_pattern or None, key
        )
        stated = read_isocentres(isocentres) if isocentres else None
        outcome = prepare_folder(folder, output, options, isocentres=stated, progress=True)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except OSError as error:
        # its text names the path, which may be a patient's
        typer.echo(
            f"R01 the cases could not be written ({type(error).__name__}). To do: see to the space "
            "and the rights of the output folder and run again; finished scans stay.",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED) from None
    typer.echo(
        f"{len(outcome.prepared)} prepared, {len(outcome.rejected)} rejected "
        f"({outcome.skipped} were done before); results in {output}"
    )
    if outcome.failed:
        raise typer.Exit(EXIT_FAILED)
    if outcome.rejected or not outcome.prepared:
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def listen(
    spool: Annotated[Path, typer.Argument(help="Folder for what arrives.", file_okay=False)],
    allow: Annotated[
        list[str] | None, typer.Option(help="AE title that may call; may be repeated.")
    ] = None,
    allow_any: Annotated[
        bool, typer.Option("--allow-any", help="Let every AE title call.")
    ] = False,
    port: Annotated[int, typer.Option(help="TCP port.", min=0, max=65535)] = 11112,
    bind: Annotated[str, typer.Option(help="Address of the network interface.")] = "127.0.0.1",
    ae_title: Annotated[str, typer.Option(help="Own AE title.")] = "SPIDER",
    max_associations: Annotated[int, typer.Option(help="Most associations at a time.", min=1)] = 8,
    min_free_gb: Annotated[
        float, typer.Option(help="Space that must remain free on the spool's disk, GiB.", min=0)
    ] = 1.0,
    max_object_mb: Annotated[float, typer.Option(help="Largest object, MiB.", min=1)] = 512.0,
    allow_secondary_capture: Annotated[
        bool, typer.Option("--allow-secondary-capture", help="Take secondary captures too.")
    ] = False,
    key_file: Annotated[
        Path | None, typer.Option(help="The site's secret for study keys.", dir_okay=False)
    ] = None,
    create_key_file: Annotated[
        bool, typer.Option("--create-key-file", help="Make the key file if it is absent.")
    ] = False,
    audit: Annotated[
        Path | None, typer.Option(help="Folder for the audit log.", file_okay=False)
    ] = None,
) -> None:
    """Receive radiographs from a PACS into SPOOL, the input of `spider batch`, until SIGTERM.

    Exit codes: 0 stopped by a signal, 1 the address or the spool cannot be used, 2 bad usage.
    """
    _require_pacs()
    from spider_bundle.batch.codes import BatchError
    from spider_bundle.batch.site_key import create_key_file as create_key
    from spider_bundle.batch.site_key import read_key_file
    from spider_bundle.pacs.codes import PacsCode, PacsError
    from spider_bundle.pacs.listen import Listener, ListenOptions
    from spider_bundle.pacs.listen import listen as listen_until_signal
    from spider_bundle.radiographs.pair import PUBLIC_KEY

    def tell(listener: Listener) -> None:
        typer.echo(f"{ae_title.strip()} listens on {bind}:{listener.port}; SIGTERM stops it")

    try:
        if create_key_file:
            if key_file is None:
                raise ValueError("--create-key-file needs --key-file")
            create_key(key_file)
        secret = read_key_file(key_file) if key_file else os.environ.get("SPIDER_SITE_KEY")
        options = ListenOptions(
            spool,
            port=port,
            bind=bind,
            ae_title=ae_title,
            allow=tuple(allow or ()),
            allow_any=allow_any,
            max_associations=max_associations,
            min_free_gb=min_free_gb,
            max_object_mb=max_object_mb,
            allow_secondary_capture=allow_secondary_capture,
            key=secret or PUBLIC_KEY,
            audit=audit,
        )
        received = listen_until_signal(options, tell)
    except (ValueError, BatchError) as error:
        raise typer.BadParameter(str(error)) from None
    except PacsError as error:
        if error.code is PacsCode.N01:
            raise typer.BadParameter(str(error)) from None
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        typer.echo(
            f"R01 the spool cannot be used ({error.strerror or type(error).__name__}). To do: see "
            "to the space and the rights of its folder and start again; what is stored stays.",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED) from None
    typer.echo(f"{received} objects received")


@app.command()
def send(
    results: Annotated[
        Path,
        typer.Argument(help="Output folder of infer or batch.", exists=True, file_okay=False),
    ],
    to: Annotated[str, typer.Option(help="The peer: AE@host:port.")],
    calling_ae: Annotated[str, typer.Option(help="Own AE title.")] = "SPIDER",
    retries: Annotated[int, typer.Option(help="Further attempts.", min=0)] = 3,
    pause: Annotated[
        float, typer.Option(help="Seconds before the first of them; then doubled.", min=0)
    ] = 5.0,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.", min=1)] = 30.0,
) -> None:
    """Send the DICOM results below RESULTS to a PACS; run again to send what is new.

    Exit codes: 0 all sent, now or before, 1 something could not be sent, 2 bad usage, 3 there are
    no DICOM results. What was sent is in RESULTS/sent.jsonl.
    """
    _require_pacs()
    from spider_bundle.pacs.codes import PacsCode, PacsError
    from spider_bundle.pacs.peer import Peer
    from spider_bundle.pacs.store import Patience, send_results

    try:
        outcome = send_results(
            results, Peer.parse(to), calling_ae, patience=Patience(retries, pause, timeout)
        )
    except PacsError as error:
        if error.code is PacsCode.N01:
            raise typer.BadParameter(str(error)) from None
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        typer.echo(
            f"R01 what was sent cannot be recorded ({error.strerror or type(error).__name__}). "
            "To do: see to the space and the rights of the results' folder and run again.",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED) from None
    typer.echo(
        f"{outcome.stored} objects sent, {outcome.skipped} sent before, "
        f"{sum(outcome.refused.values())} refused, of {outcome.studies} studies"
    )
    for problem in outcome.problems:
        typer.echo(str(problem), err=True)
    if outcome.problems:
        raise typer.Exit(EXIT_FAILED)
    if not outcome.studies:
        raise typer.Exit(EXIT_REFUSED)


def _require_pacs() -> None:
    """End with R03 as bad usage where the extra ``pacs`` is not installed."""
    from spider_bundle.outputs.extras import MissingExtraError, require_extra

    try:
        require_extra("pacs")
    except MissingExtraError as error:
        raise typer.BadParameter(str(error)) from None


def _run(overrides: dict[str, Any], root: Path | None) -> tuple[list[Any], int, int]:
    """Run the inference config.

    Returns:
        The refusals, and the numbers of studies that could not be written and that were.
    """
    from spider_bundle.bundle import inference_workflow

    try:
        overrides["handlers::1::_disabled_"] = True  # no statistics of a run without scores
        workflow = inference_workflow(overrides, root)
        workflow.run()
        dataset = workflow.parser.get_parsed_content("dataset")
        writer = workflow.parser.get_parsed_content("writer")
    except Exception as error:
        if os.environ.get("SPIDER_DEBUG"):
            raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        # the text of an unexpected error may quote a path or an attribute: name its kind only
        typer.echo(
            f"R02 the run failed ({type(cause).__name__}). To do: run again with SPIDER_DEBUG=1 to "
            "see where; the details may name files. Results that are complete stay.",
            err=True,
        )
        raise typer.Exit(EXIT_FAILED) from None
    return dataset.refused, len(writer.failed), len(dataset) - len(writer.failed)


def _dataset(inputs: list[Path]) -> dict[str, Any]:
    """Config values that name the input.

    Raises:
        ValueError: Not one folder or two files.
    """
    if len(inputs) == 1 and inputs[0].is_dir():
        return {"dataset_dir": _config_path(inputs[0])}
    if len(inputs) == 2 and all(path.is_file() for path in inputs):
        pair = {"frontal": _config_path(inputs[0]), "lateral": _config_path(inputs[1])}
        return {"dataset::folder": None, "dataset::data": [{"image": pair}]}
    raise ValueError("name two existing DICOM files, or one existing folder")


def _config_path(path: Path) -> str:
    """A path as a config value; MONAI would evaluate a relative one that starts with ``$``."""
    return str(path.absolute())


def _computation(device: str, precision: str) -> dict[str, Any]:
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


def _check_extras(dicom: bool, mesh: bool, keep_identity: bool) -> None:
    """Refuse optional outputs that this installation cannot write.

    Raises:
        ValueError: R03, or an option that would do nothing.
    """
    from spider_bundle.outputs.extras import MissingExtraError, require_extra

    if keep_identity and not dicom:
        raise ValueError("--keep-identity concerns the DICOM results; give --dicom as well")
    try:
        for wanted, extra in ((dicom, "dicom"), (mesh, "mesh")):
            if wanted:
                require_extra(extra)
    except MissingExtraError as error:
        raise ValueError(str(error)) from None


def _stated_overrides(
    values: dict[str, str], orientations: dict[str, str], masks: dict[str, list[str]]
) -> dict[str, Any]:
    """Overrides of the options, checked.

    Raises:
        ValueError: An option is not of its form.
    """
    from spider_bundle.radiographs.overrides import PairOverrides

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


if __name__ == "__main__":
    app()
