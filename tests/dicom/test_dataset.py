"""A folder with good and bad studies: the good ones are kept, each bad one is named."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
import torch
from monai.data import DataLoader
from monai.data.utils import no_collation
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose

from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.dataset import StudyDataset
from spider_bundle.dicom.header import FilmStream
from spider_bundle.dicom.load import load_radiographs
from spider_bundle.dicom.pair import describe_pair
from spider_bundle.dicom.transforms import BiplanarRadiographsd
from spider_bundle.errors import Code, SpiderError
from spider_bundle.inferers import StudyIteration
from spider_bundle.outputs.study import write_refusals


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
        assert len(dataset) == 2
        assert len(dataset.refused) == 1  # by its headers
        (item,) = dataset.read()
    assert item["image"].shape == (2, 256, 256)
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
    (item,) = StudyDataset(data=[entry], transform=BiplanarRadiographsd())
    assert item["image"].shape == (2, 256, 256)


def test_an_entry_may_name_folders_or_be_wrong(night: Path) -> None:
    folder = night / "ward 1" / "x"
    sources = [[str(folder)], {"frontal": "\0"}, ["\0", "\0"], [str(folder)] * 2]
    dataset = StudyDataset(
        data=[{"image": source} for source in sources], transform=BiplanarRadiographsd()
    )
    (item,) = dataset.read()
    assert item["image"].shape == (2, 256, 256)
    codes = [entry["findings"][0]["code"] for entry in dataset.refused]
    assert codes == ["E01"] * 3


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
    assert [item["image"] for item in dataset.read()] == [str(folder)]
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
    assert len(list(dataset.read())) == 1
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
        list(StudyDataset(night, BiplanarRadiographsd()).read())
    assert "E22 (lateral)" in caplog.text
    assert "1 files that are not DICOM" in caplog.text


@pytest.mark.parametrize(
    ("with_good", "processes", "batch_size"),
    [(True, 0, 1), (True, 2, 1), (False, 0, 1), (False, 2, 1), (True, 0, 2)],
)
def test_refusals_that_need_pixels_reach_the_main_process(
    night: Path, tmp_path: Path, with_good: bool, processes: int, batch_size: int
) -> None:
    if not with_good:
        shutil.rmtree(night / "ward 1")
    dataset = StudyDataset(night, BiplanarRadiographsd())
    write = partial(write_refusals, tmp_path)
    written = []

    def note(refused: Sequence[Mapping[str, Any]]) -> None:
        write(refused=refused)
        written.append(errors_of(refused))
        assert stored(tmp_path) == refused

    note(dataset.refused)
    assert written == [["E06"]]  # before anything is read
    read = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(
            dataset, batch_size=batch_size, num_workers=processes, collate_fn=no_collation
        ),
        network=torch.nn.Identity(),
        inferer=lambda inputs, _: inputs,
        iteration_update=StudyIteration(dataset, note),
        postprocessing=lambda item: read.append(item["image"].meta["provenance"]) or item,
        decollate=False,
    )
    evaluator.run()
    assert written == [["E06"], ["E06", "E02"]]
    assert [len(provenance.views) for provenance in read] == [2] * with_good
    assert (len(dataset), dataset.unusable) == (1 + with_good, 1)


def test_a_study_refused_after_the_network_is_noted_and_ends_no_run(
    night: Path, tmp_path: Path
) -> None:
    dataset = StudyDataset(night, BiplanarRadiographsd())
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=2, collate_fn=no_collation),
        network=torch.nn.Identity(),
        inferer=lambda inputs, _: inputs,
        iteration_update=StudyIteration(dataset, partial(write_refusals, tmp_path)),
        postprocessing=Compose([disagree]),
        decollate=False,
    )
    evaluator.run()
    assert sorted(errors_of(stored(tmp_path))) == ["E02", "E06", "E32"]
    assert len({entry["study_key"] for entry in stored(tmp_path)}) == 3


def disagree(item: Mapping[Hashable, Any]) -> None:
    raise SpiderError(Code.REPROJECTION_DISAGREES, role="lateral")


def test_a_list_of_refusals_that_cannot_be_written_takes_no_study_down(
    night: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**_: Any) -> None:
        raise OSError(28, "No space left on device", "/films/Doe_Jane")

    dataset = StudyDataset(night, BiplanarRadiographsd())
    iterate = StudyIteration(dataset, fail)
    refused = next(item for item in map(dataset.__getitem__, range(2)) if "refused" in item)
    assert iterate(SimpleNamespace(state=SimpleNamespace()), [refused]) == []
    assert dataset.unusable == 1
    assert "R01" in caplog.text
    assert "Doe" not in caplog.text


def errors_of(refused: Sequence[Mapping[str, Any]]) -> list[str]:
    """Code of the first error of each refusal."""
    findings = [entry["findings"] for entry in refused]
    return [next(f["code"] for f in found if f["severity"] == "error") for found in findings]


def stored(folder: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / "refused.json").read_text())["refused"]
    return entries


def test_each_file_is_opened_once_for_its_header_and_once_for_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_demo_pair(tmp_path / "x", shape=(160, 160), pitch=1.8)
    opened: Counter[str] = Counter()

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if counting and event == "open" and str(arguments[0]).startswith(str(tmp_path)):
            opened[str(arguments[0])] += 1

    counting = True
    sys.addaudithook(count)  # for good: it cannot be removed
    dataset = StudyDataset(tmp_path / "x", BiplanarRadiographsd(keep_identity=True))
    films = [str(path) for path in files]
    once = {film: opened[film] for film in films}
    (item,) = dataset.read()
    counting = False
    assert item["mask"].any()
    assert once == dict.fromkeys(films, 1)
    assert {film: opened[film] for film in films} == dict.fromkeys(films, 2)


@pytest.mark.parametrize("exchange", ["by another film", "pixels", "by text", "gone"])
def test_a_file_exchanged_between_check_and_read_is_noticed(tmp_path: Path, exchange: str) -> None:
    frontal, lateral = write_demo_pair(tmp_path / "x", shape=(160, 160), pitch=1.8)
    dataset = StudyDataset(tmp_path / "x", BiplanarRadiographsd())
    if exchange == "by another film":
        other, _ = write_demo_pair(tmp_path / "y", name="other", shape=(160, 160), pitch=1.8)
        times = frontal.stat()
        shutil.copy(other, frontal)
        os.utime(frontal, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif exchange == "pixels":
        data = bytearray(frontal.read_bytes())
        data[-10_000] ^= 1
        frontal.write_bytes(data)
        os.utime(frontal, ns=(0, lateral.stat().st_mtime_ns + 10**9))
    elif exchange == "by text":
        frontal.write_text("no DICOM")
    else:
        frontal.unlink()
    assert list(dataset.read()) == []
    ((found,),) = (entry["findings"] for entry in dataset.refused)
    assert (found["code"], found["role"]) == ("E01", "frontal")
    if exchange in ("by another film", "pixels"):
        assert found["message"] == "the file was changed after it was checked"


def test_a_file_that_changes_while_its_header_is_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontal, lateral = write_demo_pair(tmp_path / "x", shape=(160, 160), pitch=1.8)
    parse = FilmStream.parse

    def parse_and_change(stream: FilmStream, role: str, *, pixels: bool) -> pydicom.Dataset:
        dataset = parse(stream, role, pixels=pixels)
        times = frontal.stat()
        os.utime(frontal, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
        return dataset

    with monkeypatch.context() as patch:
        patch.setattr(FilmStream, "parse", parse_and_change)
        pair = describe_pair([frontal, lateral])
    with pytest.raises(SpiderError, match="the file was changed after it was checked"):
        load_radiographs(pair)


def test_an_old_result_of_a_refused_study_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = [{"study_key": "0123", "findings": []}, {"study_key": "4567", "findings": []}]
    (tmp_path / "0123").mkdir()
    write_refusals(tmp_path, refused)
    assert "study 0123 was refused; its result is one of an earlier run" in caplog.text
    assert "4567" not in caplog.text
