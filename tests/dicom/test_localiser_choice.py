"""Which localisers of a CT study are taken, what is skipped, and what is asked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spider_bundle.dicom.dataset import StudyDataset
from spider_bundle.dicom.studies import Study, find_studies
from spider_bundle.dicom.transforms import single_pair
from spider_bundle.errors import SpiderError

from .conftest import Writer
from .localisers import Scanner, write

SCANNER = Scanner(pitch=8.0, travel=8.0, columns=60, rows=30, top=120.0)
BLANK = np.zeros((30, 60))


def localiser(folder: Path, side: str, number: int, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    angle = {"A": 0, "L": 90}[side]
    return write(
        folder / f"localiser{number}.dcm",
        BLANK,
        SCANNER,
        side,
        instance=number,
        **{"Manufacturer": "Philips", "AngularPosition": angle, **changes},
    )


def axial(folder: Path, z: float, number: int, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    values = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SeriesInstanceUID": "1.2.3.20",
        "ImagePositionPatient": [-100, -100, z],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "AcquisitionTime": "121500",
        "SOPInstanceUID": f"1.2.3.4.{number}",
    }
    image = np.zeros((4, 4))
    return write(folder / f"{number}.dcm", image, SCANNER, "A", instance=9, **{**values, **changes})


def slices(folder: Path, low: float = -40.0, high: float = 100.0, **changes: Any) -> None:
    for number, z in enumerate(np.arange(low, high, 10.0), 100):
        axial(folder, float(z), number, **changes)


def study(folder: Path, **options: Any) -> Study:
    found = find_studies(folder, **options)
    (one,) = found.studies or found.skipped
    return one


def chosen(folder: Path) -> list[str]:
    pair = study(folder).pair
    return [film.path.stem for film in pair] if pair else []


def code(folder: Path) -> str:
    (found,) = study(folder).findings
    assert found.action
    return found.code.value


def test_a_pair_among_slices(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    localiser(folder, "L", 1)
    localiser(folder, "A", 2)
    slices(folder)
    found = find_studies(folder)
    assert chosen(folder) == ["localiser2", "localiser1"]
    assert found.other_objects == {"CT": 14}
    assert len(found.studies[0].slices) == 14


def test_the_latest_complete_pair_before_the_scan(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for number, (side, at) in enumerate(
        (("A", "1200"), ("L", "1201"), ("A", "1205"), ("L", "1206"), ("A", "1230")), 1
    ):
        localiser(folder, side, number, AcquisitionTime=f"{at}00")
    slices(folder)
    assert chosen(folder) == ["localiser3", "localiser4"]


def test_the_pair_in_the_frame_of_the_scan(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for number, (side, frame) in enumerate((("A", "1"), ("L", "1"), ("A", "2"), ("L", "2")), 1):
        localiser(folder, side, number, FrameOfReferenceUID=f"1.2.3.{frame}")
    assert code(folder) == "E28"
    slices(folder, FrameOfReferenceUID="1.2.3.1")
    assert chosen(folder) == ["localiser1", "localiser2"]


def test_pairs_of_unknown_time_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for number, side in enumerate("ALA", 1):
        localiser(folder, side, number, AcquisitionDate=None, AcquisitionTime=None)
    assert code(folder) == "E28"
    assert study(folder).findings[0].message.count("instance") == 3


@pytest.mark.parametrize(
    ("changes", "of_slices", "is_taken"),
    [
        ({"BodyPartExamined": "HEAD"}, None, True),
        ({"BodyPartExamined": "CHEST"}, None, False),
        ({"BodyPartExamined": None}, None, True),  # the image decides
        ({"BodyPartExamined": "CHEST"}, "HEAD", True),
        ({"BodyPartExamined": None}, "ABDOMEN", False),
        ({"BodyPartExamined": None}, "HEAD", True),
    ],
)
def test_body_part(
    changes: dict[str, Any], of_slices: str | None, is_taken: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "s"
    localiser(folder, "A", 1, **changes)
    localiser(folder, "L", 2, **changes)
    if of_slices:
        slices(folder, BodyPartExamined=of_slices)
    found = find_studies(folder)
    assert (len(found.studies), len(found.skipped)) == ((1, 0) if is_taken else (0, 1))


def test_head_slices_elsewhere_do_not_make_a_localiser_one_of_the_head(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    localiser(folder, "A", 1, BodyPartExamined="CHEST")
    localiser(folder, "L", 2, BodyPartExamined="CHEST")
    slices(folder, low=400.0, high=520.0)
    assert code(folder) == "E27"


def test_a_study_without_a_pair_is_skipped_unless_it_is_named(tmp_path: Path) -> None:
    lone, whole = tmp_path / "all/lone", tmp_path / "all/whole"
    lone.parent.mkdir()
    localiser(lone, "A", 1, StudyInstanceUID="1.2.9")
    slices(lone, StudyInstanceUID="1.2.9")
    with pytest.raises(SpiderError) as caught:
        single_pair(lone)
    assert caught.value.code.value == "E27"
    named = StudyDataset(lone)
    assert [fact["code"] for fact in named.refused[0]["findings"]] == ["E27"]
    localiser(whole, "A", 2)
    localiser(whole, "L", 3)
    passed = StudyDataset(tmp_path / "all")
    assert (len(passed), passed.skipped, passed.refused) == (1, 1, [])


def test_a_copy_with_planned_slices_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    localiser(folder, "A", 1)
    localiser(folder, "L", 2)
    localiser(folder, "L", 3, ImageType=["DERIVED", "SECONDARY", "LOCALIZER"])
    assert chosen(folder) == ["localiser1", "localiser2"]


def test_localisers_that_share_nothing_are_no_pair(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    localiser(folder, "A", 1)
    localiser(folder, "L", 2, ImagePositionPatient=[12.0, -261.0, 700.0])
    assert code(folder) == "E27"


def test_radiographs_and_localisers(write: Writer, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    localiser(folder, "A", 1)
    localiser(folder, "L", 2)
    uid = {"StudyInstanceUID": "1.2.3.1", "PatientID": "P"}
    for position in ("PA", "LL"):
        write(position, **uid).rename(folder / f"{position}.dcm")
    assert code(folder) == "E29"
    assert {f.kind for f in study(folder, kind="localiser").pair or ()} == {"CT localiser"}
    assert {f.kind for f in study(folder, kind="radiograph").pair or ()} == {"DX"}


def test_a_study_of_400_files_is_found_quickly(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    localiser(folder, "A", 1)
    localiser(folder, "L", 2)
    slices(folder, -40.0, 3940.0)
    start = time.process_time()
    assert chosen(folder)
    assert time.process_time() - start < 3.0
