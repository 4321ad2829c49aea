"""What is kept of an identity is exact or absent, and shows itself nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest

from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.film import describe
from spider_bundle.dicom.identity import (
    KEPT_ATTRIBUTES,
    SourceIdentity,
)
from spider_bundle.dicom.load import load
from spider_bundle.dicom.pair import describe_pair
from spider_bundle.dicom.transforms import BiplanarRadiographsd
from spider_bundle.dicom.write import save_dataset
from spider_bundle.geometry import Grid


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_demo_pair(tmp_path_factory.mktemp("pair"), shape=(160, 160), pitch=1.8)


def changed(path: Path, folder: Path, **attributes: object) -> Path:
    dataset = pydicom.dcmread(path)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    target = folder / path.name
    save_dataset(target, dataset)
    return target


def test_frontal_study_and_both_instances(pair: tuple[Path, Path], tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    frontal = changed(pair[0], tmp_path, PatientName=name, AccessionNumber="A 7")
    lateral = changed(pair[1], tmp_path, StudyDescription="of the lateral")
    datasets = [pydicom.dcmread(path) for path in (frontal, lateral)]
    for paths in ((frontal, lateral), (lateral, frontal)):
        kept = identity(paths)
        assert kept.attributes["PatientName"] == name
        assert kept.attributes["AccessionNumber"] == "A 7"
        assert kept.attributes["StudyInstanceUID"] == datasets[0].StudyInstanceUID
        assert "StudyDescription" not in kept.attributes
        assert kept.references == tuple((d.SOPClassUID, d.SOPInstanceUID) for d in datasets)


def identity(paths: Sequence[Path]) -> SourceIdentity:
    films = describe_pair(paths, keep_identity=True)
    item = load(films, grid=Grid.centred(8.0, 32))
    kept = item["image"].meta["provenance"].source_identity
    assert isinstance(kept, SourceIdentity)
    return kept


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "a" * 56),
        ("PatientBirthDate", "19991301"),
        ("PatientBirthDate", "2001.12.31"),
        ("PatientSex", "W"),
        ("PatientID", "x" * 65),
        ("PatientID", ["1", "2"]),
        ("StudyTime", "25"),
        ("StudyTime", "17:58:00"),
        ("AccessionNumber", "12345678901234567"),
        ("PatientName", "A=B=C=D"),
        ("PatientName", "N" * 65),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_malformed_values_are_left_out(
    keyword: str, value: object, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    assert keyword in KEPT_ATTRIBUTES
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        path = changed(pair[0], tmp_path, **{keyword: value})
    finally:
        pydicom.config.settings.writing_validation_mode = pydicom.config.WARN
    kept = describe(path, keep_identity=True).identity
    assert kept is not None
    assert keyword not in kept.attributes
    assert kept.attributes["StudyInstanceUID"]


def test_it_is_read_only_when_asked_for(pair: tuple[Path, Path]) -> None:
    plain = BiplanarRadiographsd(spacing=8.0, shape=32)({"image": list(pair)})["image"]
    assert plain.meta["provenance"].source_identity is None
    asked = BiplanarRadiographsd(spacing=8.0, shape=32, keep_identity=True)
    # the lateral file first: patient and study are still those of the frontal one
    image = asked({"image": [pair[1], pair[0]]})["image"]
    kept = image.meta["provenance"].source_identity
    assert isinstance(kept, SourceIdentity)
    assert kept.references[0][1] == pydicom.dcmread(pair[0]).SOPInstanceUID
    assert "SYN" not in repr(kept)
    assert "SYN" not in repr(image.meta["provenance"])
