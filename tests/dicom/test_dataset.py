"""A folder with good and bad studies: the good ones are kept, each bad one is named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pydicom
import pytest

from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.dataset import StudyDataset
from spider_bundle.dicom.transforms import BiplanarRadiographsd
from spider_bundle.outputs.refusals import write_refusals


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """Three studies: one good, one without its lateral, one whose pixel data are cut off."""
    folder = tmp_path / "night"
    write_demo_pair(folder / "ward 1" / "x", name="good", shape=(160, 160), pitch=1.8)
    _, lateral = write_demo_pair(folder / "b", name="half", shape=(80, 80), pitch=1.8)
    lateral.unlink()
    frontal, _ = write_demo_pair(folder / "c", name="cut", shape=(80, 80), pitch=1.8)
    dataset = pydicom.dcmread(frontal)
    dataset.PixelData = dataset.PixelData[:100]
    dataset.save_as(frontal)
    (folder / "readme.txt").write_text("not a radiograph")
    return folder


def test_bad_studies_take_no_other_down(
    night: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        dataset = StudyDataset(night, BiplanarRadiographsd())
    assert len(dataset) == 1
    assert dataset[0]["image"].shape == (2, 256, 256)
    codes = [
        {found["code"] for found in entry["findings"] if found["severity"] == "error"}
        for entry in dataset.refused
    ]
    assert {"E06"} in codes
    assert len(codes) == 2
    assert all(found["action"] for entry in dataset.refused for found in entry["findings"])
    assert "ward" not in caplog.text
    assert str(tmp_path) not in caplog.text
    written = json.loads(write_refusals(tmp_path / "out", dataset.refused).read_text())
    assert written["refused"] == dataset.refused


def test_entries_need_no_folder(night: Path) -> None:
    folder = night / "ward 1" / "x"
    entry = {"image": [str(folder / "lateral.dcm"), str(folder / "frontal.dcm")]}
    assert len(StudyDataset(data=[entry], transform=BiplanarRadiographsd())) == 1


def test_empty_folder_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(StudyDataset(tmp_path, BiplanarRadiographsd())) == 0
    assert "E06 no radiographs found. To do: " in caplog.text


def test_a_study_is_either_read_or_refused(night: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = night / "ward 1" / "x"
    entries = [{"image": str(folder)}, {"image": str(folder / "Doe")}]

    def transform(entry: dict[str, str]) -> dict[str, str]:
        if entry["image"].endswith("Doe"):
            raise OSError(f"cannot read {entry['image']}")
        return entry

    dataset = StudyDataset(data=entries, transform=transform)
    assert [item["image"] for item in dataset] == [str(folder)]
    assert len(dataset.refused) == 1
    assert "OSError" in caplog.text
    assert "Doe" not in caplog.text


def test_unexpected_errors_take_no_other_down_and_show_nobody(
    night: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read = BiplanarRadiographsd()

    def fail_once(entry: dict[str, Any]) -> Any:
        if "b" in entry:
            raise OSError(28, "No space left on device", "/films/Doe_Jane.dcm")
        return read(entry)

    folder = night / "ward 1" / "x"
    good = {"image": [str(folder / "lateral.dcm"), str(folder / "frontal.dcm")]}
    dataset = StudyDataset(data=[{"b": 1}, good], transform=fail_once)
    assert len(dataset) == 1
    ((found,),) = (entry["findings"] for entry in dataset.refused)
    assert found["severity"] == "error"
    assert "OSError" in found["message"]
    assert "Doe" not in json.dumps(dataset.refused) + caplog.text


def test_what_was_noticed_is_logged(night: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder,) = (night / "ward 1").iterdir()
    dataset = pydicom.dcmread(folder / "lateral.dcm")
    dataset.LossyImageCompression = "01"
    dataset.save_as(folder / "lateral.dcm")
    with caplog.at_level(logging.INFO):
        StudyDataset(night, BiplanarRadiographsd())
    assert "E22 (lateral)" in caplog.text
    assert "1 files that are not DICOM" in caplog.text


def test_an_old_result_of_a_refused_study_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = [{"study_key": "0123", "findings": []}, {"study_key": "4567", "findings": []}]
    (tmp_path / "0123").mkdir()
    write_refusals(tmp_path, refused)
    assert "study 0123 was refused; its result is one of an earlier run" in caplog.text
    assert "4567" not in caplog.text
