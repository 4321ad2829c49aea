"""From a folder of scans to head cases on disk."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from spider_bundle.cases.case import load_case
from spider_bundle.cases.datalist import head_datalist
from spider_bundle.cases.folder import (
    PreparedCases,
    PrepareOptions,
    is_validation,
    prepare_folder,
    read_isocentres,
)
from spider_bundle.cases.localise import ISOCENTRE_IN_TEMPLATE
from spider_bundle.cli import EXIT_REFUSED, EXIT_USAGE, app
from spider_bundle.errors import Code
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from spider_bundle.phantom import HeadPhantom
from tests.cases.scans import (
    SHIFT,
    acquired,
    crash_or_prepare,
    head_scan,
    write_nifti,
    write_series,
)

OPTIONS = PrepareOptions(spacing=5.0, validation_share=0.5, key="site")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Doe_Jane")
    hu, grid = head_scan()
    mandible = HeadPhantom.nominal().voxelise(Grid.centred(4.0, 60))[1] == Label.MANDIBLE
    write_nifti(folder / "Doe.nii.gz", hu, grid, "LPI")
    write_nifti(folder / "Doe_mandible.nii.gz", mandible, grid, "PIR")
    write_series(folder / "19610203", *acquired(hu, grid, "LPS"))
    write_nifti(folder / "labels.nii.gz", hu > 0, grid)
    return folder


@pytest.fixture(scope="module")
def prepared(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedCases]:
    out = tmp_path_factory.mktemp("out")
    return out, prepare_folder(scans, out, OPTIONS)


def entries(out: Path) -> list[dict]:
    return head_datalist(out, "training") + head_datalist(out, "validation")


def test_every_scan_ends_as_a_case_or_with_its_code(prepared: tuple[Path, PreparedCases]) -> None:
    out, outcome = prepared
    assert len(outcome.prepared) == 2
    assert list(outcome.rejected.values()) == [Code.NOT_HU]
    assert outcome.failed == 0
    assert {entry["case"] for entry in entries(out)} == set(outcome.prepared)
    report = json.loads((out / "report.json").read_text())
    assert report["counts"] == {"prepared": 2, "rejected": 1, "patients": 3}
    (rejected,) = json.loads((out / "datalist.json").read_text())["rejected"]
    assert rejected["code"] == "P10"
    assert (out / "preview.png").stat().st_size > 10_000


def test_cases_show_the_head_about_its_isocentre(prepared: tuple[Path, PreparedCases]) -> None:
    out, _ = prepared
    scans = json.loads((out / "report.json").read_text())["scans"]
    places = {scan["case"]: scan["isocentre"] for scan in scans}
    for entry in entries(out):
        case = load_case(entry)
        origin = np.array(places[entry["case"]]["scan_lps_mm"])
        assert np.linalg.norm(origin - SHIFT - ISOCENTRE_IN_TEMPLATE) < 2.5
        assert np.allclose(case.grid.affine, Grid.centred(5.0, 51).affine)
        # the phantom, where the report says it is
        affine = case.grid.affine.copy()
        affine[:3, 3] += origin - SHIFT
        truth = HeadPhantom.nominal().voxelise(Grid(case.grid.shape, affine), supersample=3)[0]
        inside = case.measured & (truth > -900) & (case.hu > -900)
        assert np.abs(case.hu - truth)[inside].mean() < 60  # two kinds of averaging edges
        brain = (case.structure == Label.INTRACRANIAL) & (truth == np.median(truth[inside]))
        if brain.any():
            assert np.median(case.hu[brain]) == pytest.approx(np.median(truth[brain]), abs=3)
        assert (case.hu[~case.measured] == -1000).all()


def test_an_expert_mandible_is_merged(prepared: tuple[Path, PreparedCases]) -> None:
    (entry,) = (e for e in entries(prepared[0]) if "contours" in e)
    case = load_case(entry)
    assert set(np.unique(nibabel.load(entry["contours"]).dataobj)) == {0, 7}
    assert (case.structure == Label.MANDIBLE).sum() > 30
    assert entry["contour_margin"] == 5.0
    # bone far from the segmentation is known not to be mandible
    assert 0 < case.ambiguous.sum() < 0.3 * (case.structure == Label.BONE).sum()


def test_no_file_names_anybody(prepared: tuple[Path, PreparedCases], scans: Path) -> None:
    secrets = [b"Doe", b"SECRET", b"19610203", str(scans).encode(), b"1.2.826", b"labels.nii"]
    files = [path for path in prepared[0].rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert not any(s in content or s.decode() in path.name for s in secrets), path.name


def test_finished_scans_are_skipped_and_lost_ones_made_again(
    prepared: tuple[Path, PreparedCases], scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    before = {e["case"]: Path(e["ct"]).read_bytes() for e in entries(out)}
    times = {case: (out / "cases" / case / "ct.nii.gz").stat().st_mtime_ns for case in before}
    assert prepare_folder(scans, out, OPTIONS).skipped == 3
    lost, kept = sorted(before)
    (out / "cases" / lost / "valid.nii.gz").unlink()
    (out / "datalist.json").unlink()
    outcome = prepare_folder(scans, out, OPTIONS)
    assert outcome.skipped == 2
    assert {e["case"]: Path(e["ct"]).read_bytes() for e in entries(out)} == before
    assert (out / "cases" / lost / "valid.nii.gz").exists()
    assert (out / "cases" / kept / "ct.nii.gz").stat().st_mtime_ns == times[kept]
    assert (out / "cases" / lost / "ct.nii.gz").stat().st_mtime_ns != times[lost]


def test_a_cut_run_leaves_no_half_case(scans: Path, tmp_path: Path) -> None:
    half = tmp_path / "in"
    half.mkdir()
    shutil.copy(scans / "Doe.nii.gz", half / "a.nii.gz")
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spider_bundle.cases.folder.write_tile", _cut)
        with pytest.raises(KeyboardInterrupt):
            prepare_folder(half, out, OPTIONS)
    assert list(out.rglob("ct.nii.gz"))
    assert not list(out.rglob("case.json"))
    outcome = prepare_folder(half, out, OPTIONS)
    assert (len(outcome.prepared), outcome.skipped) == (1, 0)


def _cut(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_patient_never_changes_sides() -> None:
    patients = [f"{n:016x}" for n in range(3000)]
    few = {p for p in patients if is_validation(p, 0.15)}
    more = {p for p in patients if is_validation(p, 0.3)}
    assert few < more  # a larger share only adds patients
    assert len(few) / 3000 == pytest.approx(0.15, abs=0.03)
    assert not any(is_validation(p, 0.0) for p in patients)
    assert all(is_validation(p, 1.0) for p in patients)


def test_stated_isocentres_win(scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(scans / "Doe.nii.gz", folder / "a.nii.gz")
    stated = SHIFT + np.array([4.0, -10.0, 5.0])
    (tmp_path / "iso.csv").write_text("scan, x, y, z\ndeep/a.nii.gz,{},{},{}\n".format(*stated))
    isocentres = read_isocentres(tmp_path / "iso.csv")
    prepare_folder(tmp_path / "in", tmp_path / "out", OPTIONS, isocentres=isocentres)
    (scan,) = json.loads((tmp_path / "out" / "report.json").read_text())["scans"]
    assert scan["isocentre"] == {"source": "stated", "scan_lps_mm": stated.tolist()}
    with pytest.raises(ValueError, match="1 stated isocentres belong to no scan"):
        prepare_folder(tmp_path / "in", tmp_path / "out", OPTIONS, isocentres={"b": (0, 0, 0)})


@pytest.mark.parametrize(
    "text", ["[1, 2]", '{"a": [1, 2]}', '{"a": ["x", 2, 3]}', "{", '{"a": [NaN, 0, 0]}']
)
def test_isocentres_of_another_form_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "iso.json").write_text(text)
    with pytest.raises(ValueError, match="isocentres"):
        read_isocentres(tmp_path / "iso.json")
    (tmp_path / "good.json").write_text('{"a": [1, 2, 3.5]}')
    assert read_isocentres(tmp_path / "good.json") == {"a": (1.0, 2.0, 3.5)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spacing", 0),
        ("spacing", 0.05),
        ("size", 10),
        ("validation_share", 1.5),
        ("key", 7040703),
        ("patient_pattern", 7040703),
        ("contours", 7040703),
    ],
)
def test_wrong_options_are_errors_that_do_not_quote_the_value(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        PrepareOptions(**{name: value})
    assert "7040703" not in str(caught.value)
    assert "SECRET" not in repr(PrepareOptions(key="SECRET"))


def test_a_scan_that_crashes_a_decoder_costs_no_other(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("crash", "labels"):
        shutil.copy(scans / "labels.nii.gz", tmp_path / f"{name}.nii.gz")
    monkeypatch.setattr("spider_bundle.cases.folder._prepare", crash_or_prepare)
    out = tmp_path / "out"
    outcome = prepare_folder(tmp_path, out, OPTIONS, isolated=True)
    assert sorted(outcome.rejected.values()) == [Code.NOT_HU, Code.PREPARATION_FAILED]
    assert outcome.failed == 1
    assert {r["detail"] for r in json.loads((out / "report.json").read_text())["scans"]} > {
        "the process died"
    }


@pytest.mark.slow
def test_the_command_tells_what_to_look_at(scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(scans / "Doe.nii.gz", folder / "Doe.nii.gz")
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["prepare", str(folder), str(out), "--validation-share", "0"])
    assert result.exit_code == 0
    assert "1 prepared" in result.output
    assert f"look at {out / 'preview.png'}" in result.output
    assert "0 validation patients: raise --validation-share" in result.output


def test_the_command_tells_what_was_rejected(scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(scans / "labels.nii.gz", folder / "Doe.nii.gz")
    result = CliRunner().invoke(app, ["prepare", str(folder), str(tmp_path / "out")])
    assert result.exit_code == EXIT_REFUSED
    assert "0 prepared, 1 rejected" in result.output
    assert "preview.png" not in result.output
    assert "Doe" not in result.stdout
    assert "Doe.nii.gz" in result.stderr  # for whoever named the folder
    (scan,) = json.loads((tmp_path / "out" / "report.json").read_text())["scans"]
    assert scan["code"] == "P10"
    for arguments in (["--patient-pattern", "("], ["--size", "3"], ["--validation-share", "2"]):
        result = CliRunner().invoke(
            app, ["prepare", str(folder), str(tmp_path / "out"), *arguments]
        )
        assert result.exit_code == EXIT_USAGE, arguments
        assert "Traceback" not in result.output
