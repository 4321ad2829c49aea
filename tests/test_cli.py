"""The command line as an operator types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from spider_bundle import __version__
from spider_bundle.cli import EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE, app
from spider_bundle.cli.options import check_layers
from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.studies import study_key
from spider_bundle.dicom.write import SyntheticIdentity
from spider_bundle.errors import SpiderError
from spider_bundle.geometry import Grid
from spider_bundle.phantom import HeadPhantom
from spider_bundle.pseudonym import create_key_file
from tests.dicom.localisers import Scanner, write
from tests.tiny import PHANTOMS, TINY_NETWORK


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_demo_pair(tmp_path_factory.mktemp("pair"), shape=(160, 160), pitch=1.8)


def spider(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_demo_writes_the_pair(tmp_path: Path) -> None:
    code, output = spider("demo", tmp_path / "in")
    assert code == 0
    assert {Path(line).name for line in output.split()} == {"frontal.dcm", "lateral.dcm"}
    assert all(Path(line).stat().st_size > 100_000 for line in output.split())


@pytest.mark.slow
def test_infer_two_files_with_overrides(pair: tuple[Path, Path], tmp_path: Path) -> None:
    code, output = spider(
        *("infer", pair[1], pair[0], "-o", tmp_path / "out", "--spacing", 8, "--shape", 32),
        *("--sod", "990,1010", "--frontal-mask", "0,0,20,30", "--precision", "float32"),
    )
    assert code == 0, output
    assert "1 reconstructed, 0 refused" in output
    (path,) = (tmp_path / "out").glob("*/report.json")
    assert f"open {path.parent / 'preview.png'}" in output
    frontal, lateral = json.loads(path.read_text())["views"]
    assert frontal["geometry"]["sod"] == {
        "attribute": None,
        "source": "override",
        "unit": "mm",
        "value": 990.0,
    }
    assert lateral["geometry"]["sod"]["value"] == 1010.0
    assert frontal["geometry"]["mask_boxes"]["source"] == "override"
    assert "mask_boxes" not in lateral["geometry"]


@pytest.mark.slow
def test_localisers_are_reconstructed_in_the_scanners_frame(tmp_path: Path) -> None:
    """A make that does not tell the tube's side is asked; the result lies where the head is."""
    scanner = Scanner(axis=(-6.0, 11.0), pitch=3.0, travel=2.5, columns=160, rows=120, top=165.0)
    grid = Grid.centred(4.0, 64)
    place = grid.moved([20.0, -31.0, 14.0])
    hu, _ = HeadPhantom.nominal().voxelise(grid)
    for number, side in enumerate("AL", 1):
        image = scanner.image(side, hu.astype(float), place.affine)
        write(tmp_path / f"{number}.dcm", image, scanner, side, instance=number)
    size = ("--spacing", 4, "--shape", 64, "--precision", "float32")
    code, output = spider("infer", tmp_path, "-o", tmp_path / "out", *size)
    assert code == EXIT_REFUSED
    refused = json.loads((tmp_path / "out" / "refused.json").read_text())["refused"][0]
    assert [f["code"] for f in refused["findings"] if f["severity"] == "error"] == ["E25"] * 2
    code, output = spider("infer", tmp_path, "-o", tmp_path / "out", *size, "--tube-side", "A,L")
    assert code == 0, output
    (path,) = (tmp_path / "out").glob("*/ct.nii.gz")
    ct = nibabel.load(path)
    seen = Grid.from_ras(ct.affine, ct.shape)
    bone = ct.get_fdata() > 250
    middle = seen.points()[bone].mean(axis=0)
    wanted = place.points()[hu > 250].mean(axis=0)
    assert np.linalg.norm(middle - wanted) < 15.0
    report = json.loads((path.parent / "report.json").read_text())
    assert np.allclose(report["grid"]["isocentre_lps_mm"], seen.affine[:3] @ [31.5, 31.5, 31.5, 1])
    assert [len(view["projection"]) for view in report["views"]] == [4, 4]
    assert all(view["geometry"]["scale_uncertainty"]["unit"] == "%" for view in report["views"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["infer", "", "-o", "out"],
        ["infer", "x", "-o", ""],
        ["infer", "x", "--weights="],
        ["batch", "", "out"],
        ["batch", "x", ""],
        ["prepare", "", "out"],
        ["evaluate", "--dataset-dir", ""],
        ["demo", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    arguments: list[str], pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pair[0].parent)
    before = set(pair[0].parent.iterdir())
    code, output = spider(*arguments)
    assert code == EXIT_USAGE
    assert "an argument is empty" in output
    assert set(pair[0].parent.iterdir()) == before


def test_refused_study_ends_with_its_code(pair: tuple[Path, Path], tmp_path: Path) -> None:
    code, output = spider("infer", pair[0], pair[0], "-o", tmp_path / "out")
    assert code == EXIT_REFUSED
    assert "0 reconstructed, 1 refused" in output
    refused = json.loads((tmp_path / "out" / "refused.json").read_text())["refused"]
    assert "E06" in {found["code"] for found in refused[0]["findings"]}
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere.dcm", "-o", "out"],
        ["--sod", "near"],
        ["--sod", "1,2,3"],
        ["--sod", "1000", "--oid", "150"],
        ["--tube-side", "X"],
        ["--kind", "film"],
        ["--view", "PA"],
        ["--view", "PA,XX"],
        ["--frontal-orientation", "L"],
        ["--lateral-mask", "1,2,3"],
        ["--spacing", "0"],
        ["--shape", "2000"],
        ["--precision", "half"],
        ["--device", "abacus"],
    ],
)
def test_bad_usage_is_told(arguments: list[str], pair: tuple[Path, Path], tmp_path: Path) -> None:
    files = [] if "nowhere.dcm" in arguments else [*pair, "-o", tmp_path / "out"]
    code, output = spider("infer", *files, *arguments)
    assert code == EXIT_USAGE
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"not weights", b""])
def test_wrong_weights_are_told_first_and_name_no_file(
    content: bytes, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    weights = tmp_path / "Doe_Jane.pt"
    weights.write_bytes(content)
    code, output = spider("infer", *pair, "-o", tmp_path / "out", "--weights", weights)
    assert code == EXIT_USAGE
    assert "M01 the weights file is not one of this bundle" in " ".join(output.split())
    assert "Doe" not in output
    assert "Traceback" not in output
    assert not list((tmp_path / "out").iterdir())


def test_an_output_folder_that_cannot_be_made_is_r01(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "Doe").touch()
    code, output = spider("infer", *pair, "-o", tmp_path / "Doe" / "sub")
    assert code == EXIT_FAILED
    assert output.startswith("R01 the run could not continue (Not a directory). To do: ")
    assert "Doe" not in output


def test_an_interruption_says_what_is_kept(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["spider_bundle.cli.infer"], "_reconstruct", interrupt)
    code, output = spider("infer", *pair, "-o", tmp_path / "out")
    assert code == 130
    assert output.startswith("Interrupted: nothing was written of the study at hand")


@pytest.mark.slow
def test_train_then_infer_with_its_weights(
    pair: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = {"train::data": PHANTOMS[:1], "validate::data": PHANTOMS[1:]}
    (tmp_path / "data.json").write_text(json.dumps(data))
    (tmp_path / "layer.json").write_text(json.dumps({**TINY_NETWORK, **data}))
    small = ("iterations_per_epoch=1", "batch_size=1", "points_per_case=64", "tensorboard=false")
    values = [word for text in small for word in ("--set", text)]
    run = tmp_path / "run"
    options = ("--config-file", tmp_path / "layer.json", "-o", run, "--device", "cpu", *values)
    code, output = spider("train", *options, "--epochs", 1)
    assert code == 0, output
    assert f"weights: {run / 'model.pt'}" in output
    assert json.loads((run / "model.json").read_text())["recipe"]["iterations_per_epoch"] == 1
    code, output = spider("train", *options, "--epochs", 2, "--learning-rate", 0.01)
    assert code == 0, output
    assert "resumed after epoch 1, iteration 1" in caplog.text
    # the network is that of the weights, here and in a training that asks for another one
    shown = ("-o", tmp_path / "out", "--spacing", 8, "--shape", 32)
    code, output = spider("infer", *pair, "--weights", run / "model.pt", *shown)
    assert "refused: E32" in caplog.text  # two steps of training show no head
    assert code == EXIT_REFUSED, output
    other = ("--config-file", tmp_path / "data.json", "-o", tmp_path / "x")
    assert spider("train", *other, "--initial-weights", run / "model.pt")[0] == EXIT_USAGE
    assert "M02 these weights belong to another network_def (features, " in caplog.text
    assert spider("train", "--set", "epochs")[0] == EXIT_USAGE


def test_version_help_and_groups() -> None:
    assert spider("--version") == (0, f"spider {__version__}\n")
    code, output = spider("infer", "-h")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    for text in ("Outputs:", "Geometry, if the files lack it:", "--lateral-orientation COLUMNS"):
        assert text in output


def test_demo_writes_several_studies(tmp_path: Path) -> None:
    code, output = spider("demo", tmp_path / "in", "--number", 2)
    assert code == 0
    first, _, second, _ = map(Path, output.split())
    assert (first.parent.name, second.parent.name) == ("1", "2")
    assert first.read_bytes() != second.read_bytes()
    (tmp_path / "file").touch()
    code, output = spider("demo", tmp_path / "file" / "in")
    assert (code, output[:3]) == (EXIT_FAILED, "R01")


def test_a_file_name_is_never_evaluated(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "$open('evaluated','w')"
    Path(name).write_bytes(pair[0].read_bytes())
    code, output = spider("infer", name, name, "-o", tmp_path / "out")
    assert code == EXIT_REFUSED, output
    assert not Path("evaluated").exists()


@pytest.mark.slow
def test_a_study_that_cannot_be_written_takes_no_other_down(
    pair: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    films, out = tmp_path / "films", tmp_path / "out"
    write_demo_pair(films / "a", name="other", shape=(160, 160), pitch=1.8)
    for path in pair:
        (films / path.name).write_bytes(path.read_bytes())
    blocked = study_key(SyntheticIdentity("other").uid("study"))
    (out / blocked).mkdir(parents=True)
    (out / blocked / "notes.txt").touch()  # not a study, so it must not be replaced
    code, output = spider("infer", films, "-o", out, "--spacing", 8, "--shape", 32)
    assert code == EXIT_FAILED
    assert "1 reconstructed, 0 refused, 1 failed; open " in output
    (report,) = out.glob("*/report.json")
    assert report.parent.name != blocked
    assert (out / blocked / "notes.txt").exists()
    assert json.loads((out / "refused.json").read_text())["refused"] == []
    assert f"study {blocked} failed: R01" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_evaluate_needs_prepared_heads(tmp_path: Path) -> None:
    code, output = spider("evaluate", "--dataset-dir", tmp_path, "-o", tmp_path / "out")
    assert code == EXIT_USAGE
    assert "M04 there are no prepared heads" in " ".join(output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["nowhere", "http://head:6379", "head:port"])
def test_the_address_of_a_cluster_must_be_one(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    code, output = spider("batch", tmp_path, tmp_path / "out", "--cluster", address)
    assert code == EXIT_USAGE
    assert "HOST:PORT" in output


def test_export_writes_the_part_that_is_asked_for(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    code, output = spider("export", tmp_path / "encoder.onnx", "--part", "encoder")
    assert code == 0, output
    graph = onnx.load(tmp_path / "encoder.onnx").graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["maps"]
    assert spider("export", tmp_path / "x.onnx", "--part", "half")[0] == EXIT_USAGE


def test_a_key_leads_to_its_files(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPIDER_SITE_KEY", raising=False)
    folder = tmp_path / "in" / "Doe #1"
    folder.mkdir(parents=True)
    for path in pair:
        (folder / path.name).symlink_to(path)
    (folder / "cut.dcm").write_bytes(pair[0].read_bytes()[:700])
    secret = tmp_path / "key"
    create_key_file(secret)
    code, output = spider("key", tmp_path / "in", "--key-file", secret)
    assert code == 0
    uid = pydicom.dcmread(pair[0]).StudyInstanceUID
    named = study_key(uid, secret.read_text().strip())
    rows = [line.split("  ", 1) for line in output.splitlines()]
    paths = {path for key, path in rows if key == named}
    assert paths == {str(folder / path.name) for path in pair}
    # which may also be of a CT scan
    assert {path for key, path in rows if key != named} == {str(folder / "cut.dcm"), str(folder)}


def test_infer_tells_the_files_of_refused_studies_and_writes_a_map(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "Doe_front.dcm").symlink_to(pair[0])
    table = tmp_path / "map.tsv"
    table.write_text("0123\t/elsewhere\n")
    code, output = spider("infer", "in", "-o", "out", "--map", table)
    assert code == EXIT_REFUSED
    key = study_key(pydicom.dcmread(pair[0]).StudyInstanceUID)
    assert f"{key}  in/Doe_front.dcm" in output
    assert "Doe" not in (tmp_path / "out" / "refused.json").read_text()
    assert table.read_text() == f"0123\t/elsewhere\n{key}\t{tmp_path}/in/Doe_front.dcm\n"
    assert table.stat().st_mode & 0o777 == 0o600
    for command in ("infer", "batch", "prepare"):
        where = ["-o", "out"] if command == "infer" else ["out"]
        code, output = spider(command, "in", *where, "--map", "out/map.tsv")
        assert code == EXIT_USAGE
        assert "outside the output" in output


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o646])
def test_a_config_that_others_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    layer = tmp_path / "mine.json"
    layer.write_text("{}")
    layer.chmod(mode)
    is_open = bool(mode & 0o022)
    if is_open:
        with pytest.raises(SpiderError, match="S02"):
            check_layers([layer], is_trusted=False)
    check_layers([layer], is_trusted=is_open)
