"""The application as a container would run it: study in, CT series and segmentation out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import yaml

from spider_bundle.api import Reconstruction, Reconstructor
from spider_bundle.demo import write_demo_pair
from spider_bundle.deploy.settings import CONFIG_VARIABLE
from spider_bundle.labels import LABEL_NAMES
from spider_bundle.phantom import HeadPhantom
from tests.deploy.environment import deploy_python
from tests.environments import NoEnvironmentError

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PLANTED = "ZEPPELIN"
GRID: dict[str, Any] = {"spacing": 8.0, "shape": 32}


class Run(NamedTuple):
    """A run of the application.

    Attributes:
        exit_code: Its exit code.
        said: All that it printed.
        output: Its output folder.
    """

    exit_code: int
    said: str
    output: Path


@pytest.fixture(scope="module")
def python() -> Path:
    """Python of MONAI Deploy's environment."""
    try:
        return deploy_python()
    except NoEnvironmentError as error:
        pytest.skip(f"the environment of MONAI Deploy cannot be built ({error})")


@pytest.fixture(scope="module")
def package(bundle_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What docs/howto_deploy.md gives to ``monai-deploy package``."""
    folder = tmp_path_factory.mktemp("map")
    shutil.copytree(bundle_root / "spider_bundle", folder / "app" / "spider_bundle")
    for name in ("__main__.py", "requirements.txt"):
        shutil.copy(bundle_root / "spider_bundle" / "deploy" / name, folder / "app")
    for name in ("configs", "models"):
        shutil.copytree(bundle_root / name, folder / "models" / "spider_bundle" / name)
    return folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good study of a turned head, with something of the patient's in every place."""
    folder = tmp_path_factory.mktemp("in") / PLANTED
    pair = write_demo_pair(folder / "good", HeadPhantom.random(3), shape=(240, 240), pitch=1.2)
    for path in pair:
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID = f"{PLANTED}^A", f"{PLANTED}-1"
        dataset.AccessionNumber = PLANTED
        dataset.save_as(path)
    return folder


@pytest.fixture(scope="module")
def truth(studies: Path) -> Reconstruction:
    """The same study through the Python API."""
    return Reconstructor(**GRID, device="cpu")(studies / "good")


def run(python: Path, package: Path, studies: Path, folder: Path, **settings: Any) -> Run:
    config = folder / "app.yaml"
    content = yaml.safe_load((package / "app/spider_bundle/deploy/app.yaml").read_text())
    content["reconstruction"] |= {**GRID, "device": "cpu", **settings}
    config.write_text(yaml.safe_dump(content))
    # the variables that the container sets
    environment = {
        **os.environ,
        CONFIG_VARIABLE: str(config),
        "HOLOSCAN_INPUT_PATH": str(studies),
        "HOLOSCAN_OUTPUT_PATH": str(folder / "out"),
        "HOLOSCAN_MODEL_PATH": str(package / "models"),
    }
    for name in ("SPIDER_SITE_KEY", "SPIDER_BUNDLE_ROOT", "SPIDER_DEBUG", "PYTHONPATH"):
        environment.pop(name, None)
    done = subprocess.run(
        [str(python), str(package / "app")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout + done.stderr, folder / "out")


def axial(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A volume with RAS axes as slices from below, rows to posterior, columns to the left."""
    return values[::-1, ::-1].T


def ct_series(folder: Path) -> list[pydicom.Dataset]:
    slices = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    return sorted(slices, key=lambda dataset: float(dataset.ImagePositionPatient[2]))


def test_ct_series_and_segmentation_hold_the_voxels_of_the_bundle(
    python: Path, package: Path, studies: Path, truth: Reconstruction, tmp_path: Path
) -> None:
    done = run(python, package, studies, tmp_path)
    assert done.exit_code == 0, done.said
    assert {p.name for p in done.output.glob("[!.]*")} == {truth.study_key, "refused.json"}
    study = done.output / truth.study_key
    slices = ct_series(study / "dicom" / "ct")
    stored = np.stack([dataset.pixel_array for dataset in slices])
    hu = stored * float(slices[0].RescaleSlope) + float(slices[0].RescaleIntercept)
    assert np.array_equal(hu, axial(truth.ct))
    assert hu.min() < -900
    assert hu.max() > 500  # 8 bits would have ended this
    corner = truth.grid.affine @ [31, 31, 0, 1]  # most right, most anterior, lowest, LPS
    assert np.allclose(slices[0].ImagePositionPatient, corner[:3])
    assert np.allclose(slices[0].ImageOrientationPatient, [1, 0, 0, 0, 1, 0])
    assert np.allclose(slices[0].PixelSpacing, [8, 8])

    segmentation = pydicom.dcmread(study / "dicom" / "seg.dcm")
    places = {d.SOPInstanceUID: index for index, d in enumerate(slices)}
    labels = np.zeros(stored.shape, dtype=np.uint8)
    for frame, mask in zip(
        segmentation.PerFrameFunctionalGroupsSequence, segmentation.pixel_array, strict=True
    ):
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        labels[places[source.ReferencedSOPInstanceUID]][mask > 0] = number
    assert np.array_equal(labels, axial(truth.labels))
    names = {s.SegmentNumber: s.SegmentLabel for s in segmentation.SegmentSequence}
    assert names == {value: name for value, name in LABEL_NAMES.items() if value}

    report = json.loads((study / "report.json").read_text())
    assert report["weights_sha256"] == truth.report["weights_sha256"]
    assert len(report["files"]) == 33
    for dataset in (*slices, segmentation):
        assert dataset.PatientID == truth.study_key
        assert PLANTED not in str(dataset)
    assert PLANTED not in done.said


def test_identity_is_kept_on_request_and_a_refused_study_is_told(
    python: Path, package: Path, studies: Path, truth: Reconstruction, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    shutil.copytree(studies, folder)
    _, lateral = write_demo_pair(folder / "half", name="half", shape=(64, 64), pitch=1.8)
    lateral.unlink()
    done = run(python, package, folder, tmp_path, keep_identity=True)
    assert done.exit_code == 3, done.said
    refused = json.loads((done.output / "refused.json").read_text())["refused"]
    assert [f["code"] for entry in refused for f in entry["findings"]] == ["E06"]
    assert "E06" in done.said
    assert "Traceback" not in done.said
    assert PLANTED not in done.said
    slices = ct_series(done.output / truth.study_key / "dicom" / "ct")
    assert {dataset.PatientID for dataset in slices} == {f"{PLANTED}-1"}
    source = pydicom.dcmread(studies / "good" / "frontal.dcm", stop_before_pixels=True)
    assert {dataset.StudyInstanceUID for dataset in slices} == {source.StudyInstanceUID}


def test_broken_installation_ends_with_a_code(
    python: Path, package: Path, studies: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "package"
    shutil.copytree(package / "app", empty / "app")
    (empty / "models").mkdir()
    done = run(python, empty, studies, tmp_path)
    assert done.exit_code == 1
    assert "R02 the run failed (FileNotFoundError)" in done.said
    assert "Traceback" not in done.said
