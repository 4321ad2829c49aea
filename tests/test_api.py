"""From two files to arrays: the place and the values of a known head, and those of the files."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from spider_bundle.api import Reconstruction, Reconstructor, reconstruct
from spider_bundle.cli import app
from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.studies import study_key
from spider_bundle.dicom.write import SyntheticIdentity
from spider_bundle.errors import SpiderError
from spider_bundle.geometry import LPS_TO_RAS
from spider_bundle.labels import Label
from spider_bundle.outputs.report import report_schema
from spider_bundle.phantom import HeadPhantom

SMALL: dict[str, Any] = {"shape": (240, 240), "pitch": 1.2}
#: LPS mm: to the left, to the front, up. Every axis and direction differs.
SHIFT = (12.0, -8.0, 6.0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_demo_pair(tmp_path_factory.mktemp("pair"), **SMALL)


@pytest.fixture(scope="module")
def coarse() -> Reconstructor:
    return Reconstructor(spacing=8.0, shape=32, device="cpu")


def phantom(shift: tuple[float, float, float]) -> HeadPhantom:
    motion = np.eye(4)
    motion[:3, 3] = shift
    return HeadPhantom.nominal().transformed(motion)


def centroid(mask: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64]) -> Any:
    """Middle of a mask, RAS mm."""
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


@pytest.mark.slow
def test_known_head_is_found_where_it_is(tmp_path: Path) -> None:
    head = phantom(SHIFT)
    films = write_demo_pair(tmp_path, head, **SMALL)
    found = reconstruct(films, spacing=4.0, shape=64)
    assert found.ct.dtype == np.int16
    assert found.labels.dtype == np.uint8
    assert found.ct.shape == found.labels.shape == (64, 64, 64)
    assert np.allclose(found.grid.ras_affine, found.affine)
    truth_hu, truth = head.voxelise(found.grid)
    inside = found.labels == Label.INTRACRANIAL
    truly = truth == Label.INTRACRANIAL
    assert 2 * (inside & truly).sum() / (inside.sum() + truly.sum()) > 0.85
    # a mirrored, turned or shifted volume would be more than two voxels off
    for structure in (Label.INTRACRANIAL, Label.MANDIBLE):
        off = centroid(found.labels == structure, found.affine) - centroid(
            truth == structure, found.affine
        )
        assert np.abs(off).max() < 8.0, structure
    moved = centroid(inside, found.affine) - centroid(
        phantom((0.0, 0.0, 0.0)).labels(found.grid.points()) == Label.INTRACRANIAL, found.affine
    )
    assert np.abs(moved - LPS_TO_RAS[:3, :3] @ SHIFT).max() < 4.0
    both = inside & truly
    assert abs(np.median(found.ct[both]) - np.median(truth_hu[both])) < 60
    air = (truth == Label.BACKGROUND) & (found.labels == Label.BACKGROUND)
    assert np.median(found.ct[air]) < -900


@pytest.mark.slow
def test_arrays_are_those_of_the_command(
    coarse: Reconstructor, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["infer", *map(str, pair), "-o", str(out), "--spacing", "8", "--shape", "32"]
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    head = coarse([pair[1], pair[0]])  # in any order
    (folder,) = out.glob("*/report.json")
    assert folder.parent.name == head.study_key
    for name, values in (("ct", head.ct), ("label", head.labels)):
        image = nibabel.load(folder.with_name(f"{name}.nii.gz"))
        assert np.array_equal(np.asanyarray(image.dataobj), values)
        assert np.array_equal(image.affine, head.affine)
    written = json.loads(folder.read_text(encoding="utf-8"))
    for report in (written, head.report):
        report.pop("timings_s")
    assert written.pop("files")
    assert head.report.pop("files") == []
    assert json.loads(json.dumps(head.report)) == written


def test_folder_and_names_are_taken_too(coarse: Reconstructor, pair: tuple[Path, Path]) -> None:
    by_name = coarse({"frontal": str(pair[0]), "lateral": pair[1]})
    by_folder = coarse(pair[0].parent)
    assert np.array_equal(by_name.ct, by_folder.ct)


def sod(head: Reconstruction) -> Any:
    return head.report["views"][0]["geometry"]["sod"]


def test_statements_hold_for_one_call(coarse: Reconstructor, pair: tuple[Path, Path]) -> None:
    stated = coarse(pair, overrides={"frontal": {"sod": 990.0}})
    assert (sod(stated)["value"], sod(stated)["source"]) == (pytest.approx(990.0), "override")
    after = coarse(pair)
    assert (sod(after)["value"], sod(after)["source"]) == (pytest.approx(1000.0), "attribute")
    assert not np.array_equal(stated.ct, after.ct)


def test_nothing_is_written_and_nothing_shows_the_patient(
    coarse: Reconstructor,
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SPIDER_SITE_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    head = coarse(pair)
    assert not list(tmp_path.iterdir())
    jsonschema.validate(json.loads(json.dumps(head.report)), report_schema())
    identity = SyntheticIdentity("demo")
    assert head.study_key == study_key(identity.uid("study"))
    shown = repr(head) + json.dumps(head.report)
    assert "Synthetic" not in shown
    assert str(pair[0].parent) not in shown
    assert identity.uid("study") not in shown


def test_bad_input_is_told(coarse: Reconstructor, pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SpiderError) as refused:
        coarse([pair[0], pair[0]])
    assert "E06" in {found.code.value for found in refused.value.findings}
    with pytest.raises(FileNotFoundError, match=r"none\.dcm"):
        coarse([pair[0], tmp_path / "none.dcm"])
    for films in ([pair[0]], [*pair, pair[0]], {"frontal": pair[0]}):
        with pytest.raises(ValueError, match="two files"):
            coarse(films)
    with pytest.raises(ValueError, match="sodd"):
        coarse(pair, overrides={"sodd": 1000.0})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"spacing": 0.0}, ValueError),
        ({"shape": -1}, ValueError),
        ({"precision": "half"}, ValueError),
        ({"overrides": {"frontal": {"view": "XX"}}}, ValueError),
        ({"device": "abacus"}, RuntimeError),
        ({"weights": "none.pt"}, FileNotFoundError),
        ({"root": "."}, FileNotFoundError),
    ],
)
def test_bad_options_are_told(
    options: dict[str, Any],
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        Reconstructor(**options)


@pytest.mark.slow
def test_example_runs_and_shows_the_head(
    bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = runpy.run_path(str(bundle_root / "docs" / "examples" / "from_two_radiographs.py"))
    head = names["head"]
    truth = HeadPhantom.nominal().labels(head.grid.points()) == Label.INTRACRANIAL
    litres = truth.sum() * np.prod(head.grid.spacing) / 1e6
    assert names["millilitres"]["intracranial"] == pytest.approx(1000 * litres, rel=0.15)
    saved = nibabel.load(tmp_path / "ct.nii.gz")
    assert np.array_equal(np.asanyarray(saved.dataobj), head.ct)
    assert np.array_equal(saved.affine, head.affine)
    assert (tmp_path / "head.png").stat().st_size > 20_000
