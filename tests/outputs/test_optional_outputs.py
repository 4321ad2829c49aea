"""The optional outputs as an operator asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from spider_bundle.cli import EXIT_FAILED, EXIT_USAGE, app
from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.write import save_dataset
from spider_bundle.outputs import optional_dependencies, study

pytest.importorskip("highdicom")
pytest.importorskip("skimage")

PLANTED = {
    "PatientName": "Planted^Name",
    "PatientID": "PLANTED-ID",
    "PatientBirthDate": "19330303",
    "AccessionNumber": "PLANTEDACC",
    "ReferringPhysicianName": "Planted^Doctor",
    "InstitutionName": "Planted Hospital",
    "StationName": "PLANTEDROOM",
    "StudyDescription": "Planted study",
    "ImageComments": "Planted comment",
    "OtherPatientNames": "Planted^Other",
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A pair that names somebody wherever it can."""
    folder = tmp_path_factory.mktemp("planted")
    paths = write_demo_pair(folder, shape=(160, 160), pitch=1.8)
    for path in paths:
        dataset = pydicom.dcmread(path)
        for keyword, value in PLANTED.items():
            setattr(dataset, keyword, value)
        save_dataset(path, dataset)
    return list(paths)


def infer(pair: list[Path], out: Path, *options: object) -> tuple[int, str]:
    size = ("--spacing", 8, "--shape", 32)
    arguments = ["infer", *pair, "-o", out, *size, *options]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.slow
def test_everything_without_the_patient(
    pair: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code, output = infer(pair, tmp_path, "--dicom", "--mesh", "--html")
    assert code == 0, output
    (report_path,) = tmp_path.glob("*/report.json")
    folder = report_path.parent
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    slices = {f"dicom/ct/{number:04d}.dcm" for number in range(1, 33)}
    assert written >= slices | {"dicom/seg.dcm", "bone.stl", "report.html", "ct.nii.gz"}
    listed = {entry["name"] for entry in json.loads(report_path.read_text())["files"]}
    assert listed == written - {"report.json"}
    middle = pydicom.dcmread(folder / "dicom" / "ct" / "0016.dcm")
    ct = np.asanyarray(nibabel.load(folder / "ct.nii.gz").dataobj)
    np.testing.assert_array_equal(middle.pixel_array, ct[::-1, ::-1, 15].T)
    assert middle.PatientID == folder.name
    source = pydicom.dcmread(pair[0])
    secrets = [*PLANTED.values(), "Planted", "PLANTED"]
    secrets += [source.StudyInstanceUID, source.SOPInstanceUID, source.StudyDate]
    text = output + caplog.text
    for path in tmp_path.rglob("*"):
        text += path.name
        if path.is_file():
            text += path.read_bytes().decode("latin-1")
    assert [secret for secret in secrets if secret in text] == []


@pytest.mark.slow
def test_kept_identity_reaches_dicom_and_nothing_else(
    pair: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code, output = infer(pair, tmp_path, "--dicom", "--html", "--keep-identity")
    assert code == 0, output
    (report_path,) = tmp_path.glob("*/report.json")
    source = pydicom.dcmread(pair[0])
    files = sorted(report_path.parent.glob("dicom/**/*.dcm"))
    assert len(files) == 33
    for path in files:
        dataset = pydicom.dcmread(path)
        assert dataset.StudyInstanceUID == source.StudyInstanceUID
        assert dataset.PatientName == "Planted^Name"
        assert dataset.AccessionNumber == "PLANTEDACC"
        assert "StationName" not in dataset
    ct = pydicom.dcmread(files[0])
    instances = [item.ReferencedSOPInstanceUID for item in ct.SourceImageSequence]
    assert instances == [pydicom.dcmread(path).SOPInstanceUID for path in pair]
    others = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".dcm"]
    text = output + caplog.text + "".join(p.read_bytes().decode("latin-1") for p in others)
    assert "lanted" not in text
    assert "PLANTED" not in text


@pytest.mark.slow
def test_loss_in_the_radiographs_is_not_forgotten(pair: list[Path], tmp_path: Path) -> None:
    lateral = pydicom.dcmread(pair[1])
    lateral.LossyImageCompression = "01"
    lateral.LossyImageCompressionMethod = "ISO_10918_1"
    lateral.LossyImageCompressionRatio = "15.5"
    path = tmp_path / "lateral.dcm"
    save_dataset(path, lateral)
    assert infer([pair[0], path], tmp_path / "out", "--dicom")[0] == 0
    for file in (tmp_path / "out").rglob("*.dcm"):
        dataset = pydicom.dcmread(file)
        assert dataset.LossyImageCompression == "01"
        assert dataset.LossyImageCompressionMethod == "ISO_10918_1"
        assert dataset.LossyImageCompressionRatio == 15.5


def test_usage_is_checked_before_the_run(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = infer(pair, tmp_path / "out", "--keep-identity")
    assert code == EXIT_USAGE
    assert "--dicom" in output
    monkeypatch.setattr(
        optional_dependencies, "EXTRAS", {"dicom": {"no-such-package": 0}, "mesh": {}}
    )
    code, output = infer(pair, tmp_path / "out", "--dicom")
    assert code == EXIT_USAGE
    assert "R03" in output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_output_that_cannot_be_made_leaves_no_half_study(
    pair: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("Planted^Name is odd")

    monkeypatch.setattr(study, "_write_dicom", refuse)
    code, output = infer(pair, tmp_path, "--dicom")
    assert code == EXIT_FAILED
    assert "R07 (batch) write: ValueError" in caplog.text
    assert "lanted" not in output + caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {".locks", "refused.json"}
