"""Finding studies in folders, and cross-checks between the two radiographs."""

from __future__ import annotations

import hashlib
import hmac
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from spider_bundle.dicom.overrides import Overrides, PairOverrides
from spider_bundle.dicom.studies import PUBLIC_KEY, find_studies, study_key
from spider_bundle.dicom.write import SyntheticIdentity
from spider_bundle.errors import Code, Severity, SpiderError
from spider_bundle.geometry import ViewPosition, positioner_rotation
from tests.films import read_pair, read_radiograph

from .conftest import Writer, make_view


def pair_errors(*arguments: Path, overrides: PairOverrides | None = None) -> set[str]:
    with pytest.raises(SpiderError) as caught:
        read_pair(*arguments, overrides)
    return {found.code.value for found in caught.value.errors}


def test_a_pair_reads_in_either_order(write: Writer) -> None:
    paths = write("AP"), write("RL")
    for given in (paths, paths[::-1]):
        pair = read_pair(*given)
        assert pair.frontal.position is ViewPosition.AP
        assert pair.lateral.position is ViewPosition.RL
        assert pair.findings == ()
        assert pair.isocentric_assumed
    frame = {"FrameOfReferenceUID": "1.2.3"}
    assert not read_pair(write("AP", **frame), write("RL", **frame)).isocentric_assumed


def test_study_key_is_a_keyed_hash() -> None:
    digest = hmac.new(b"site", b"1.2.3", hashlib.sha256).hexdigest()
    assert study_key("1.2.3", "site") == digest[:16]
    assert study_key("1.2.3") == study_key("1.2.3", PUBLIC_KEY) != study_key("1.2.3", "site")


def test_overrides_belong_to_the_role_not_the_order(write: Writer) -> None:
    stated = PairOverrides(frontal=Overrides(sod=950.0), lateral=Overrides(sod=1050.0))
    for paths in ((write("AP"), write("LL")), (write("LL"), write("AP"))):
        pair = read_pair(*paths, stated)
        assert pair.frontal.view.sod == pytest.approx(950)
        assert pair.lateral.view.sod == pytest.approx(1050)


def test_stated_views_outweigh_one_wrong_header(write: Writer) -> None:
    frontal = write("PA", ViewPosition="LL", ViewCodeSequence=None)
    nothing: dict[str, None] = {"ViewPosition": None, "ViewCodeSequence": None}
    lateral = write("LL", PatientOrientation=None, **nothing)
    stated = PairOverrides(
        Overrides(view=ViewPosition.PA, orientation=("L", "F")),
        Overrides(view=ViewPosition.LL, orientation=("P", "F")),
    )
    truth = read_radiograph(lateral, stated.lateral)
    assert np.array_equal(read_pair(frontal, lateral, stated).lateral.pixels, truth.pixels)


def test_findings_of_both_files_come_at_once(write: Writer) -> None:
    frontal = write("AP", DistanceSourceToDetector="11.5")
    lateral = write("LL", PatientOrientation=None)
    with pytest.raises(SpiderError) as caught:
        read_pair(lateral, frontal)
    found = {(f.code, f.role) for f in caught.value.errors}
    assert {(Code.INVALID_SDD, "frontal"), (Code.MISSING_ORIENTATION, "lateral")} <= found


def test_e05(write: Writer) -> None:
    other = SyntheticIdentity("another")
    assert pair_errors(write("AP"), write("LL", identity=other)) == {"E05"}
    one = write("AP", AccessionNumber="7")
    joined = read_pair(one, write("LL", StudyInstanceUID="1.2.3", AccessionNumber="7"))
    assert [(f.code, f.severity) for f in joined.findings] == [
        (Code.DIFFERENT_STUDIES, Severity.WARNING)
    ]


def test_e06(write: Writer) -> None:
    assert "E06" in pair_errors(write("AP"), write("PA"))
    assert "E06" in pair_errors(write("LL"), write("RL"))


@pytest.mark.parametrize(
    ("acquired", "severity"),
    [
        (datetime(2000, 1, 1, 12, 29), None),
        (datetime(2000, 1, 1, 12, 31), Severity.WARNING),
        (datetime(2000, 1, 2, 12, 0), Severity.ERROR),
    ],
)
def test_e07(write: Writer, acquired: datetime, severity: Severity | None) -> None:
    paths = write("AP"), write("LL", identity=SyntheticIdentity("tests", acquired))
    if severity is Severity.ERROR:
        assert pair_errors(*paths) == {"E07"}
    else:
        found = [(f.code, f.severity) for f in read_pair(*paths).findings]
        assert found == ([] if severity is None else [(Code.TIME_GAP, severity)])


def test_e19(write: Writer) -> None:
    def tilted(position: str, primary: float, nominal: float) -> Path:
        rotation = positioner_rotation(primary) @ positioner_rotation(nominal).T
        return write(
            position,
            view=make_view(position, rotation=rotation),
            options={"positioner_angles": (primary, 0.0)},
        )

    assert pair_errors(tilted("PA", 8.0, 0.0), tilted("LL", 83.0, 90.0)) == {"E19"}
    assert read_pair(tilted("PA", 8.0, 0.0), tilted("LL", 97.0, 90.0)).findings == ()


def test_e23(write: Writer) -> None:
    frontal, lateral = write("AP", ImageLaterality="R"), write("LL", ImageLaterality="L")
    assert pair_errors(frontal, lateral) == {"E23"}
    stated = PairOverrides(lateral=Overrides(view=ViewPosition.LL))
    assert read_pair(frontal, lateral, stated).findings == ()


def test_find_studies_in_a_messy_folder(write: Writer, tmp_path: Path) -> None:
    second = SyntheticIdentity("second")
    write("AP", name="a/deep/down/IM0001")
    write("LL", name="a/else/scan.jpg")
    write("PA", name="b/1", identity=second)
    write("RL", name="b/2", identity=second)
    write("AP", name="b/ct", SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT")
    copy = (tmp_path / "b" / "1").read_bytes()
    (tmp_path / "b" / "copy of 1").write_bytes(copy)
    (tmp_path / "notes.txt").write_text("foreign")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    found = find_studies(tmp_path)
    assert found.foreign_files == 1
    assert [refusal.codes for refusal in found.refusals] == [["E01"]]
    assert found.other_objects == {"CT": 1}
    assert [study.is_complete for study in found.studies] == [True, True]
    assert {s.key for s in found.studies} == {
        study_key(SyntheticIdentity(name).uid("study")) for name in ("tests", "second")
    }
    for study in found.studies:
        assert study.frontal is not None
        assert study.lateral is not None
        assert read_pair(study.frontal.path, study.lateral.path).study_key == study.key
        assert str(tmp_path) not in repr(study)
        assert pydicom.dcmread(study.frontal.path).StudyInstanceUID not in repr(study)


def test_e06_lists_candidates_safely(write: Writer, tmp_path: Path) -> None:
    write("PA", name="x/Doe_1", options={"instance_number": 1})
    write("AP", name="x/Doe_2", options={"instance_number": 2})
    (study,) = find_studies(tmp_path / "x").studies
    assert not study.is_complete
    (found,) = study.findings
    assert found.code is Code.NOT_A_PAIR
    assert "frontal PA 180x200 for processing, instance 1" in found.message
    assert "frontal AP 180x200 for processing, instance 2" in found.message
    assert "Doe" not in found.message


def test_oblique_extra_views_are_left_out(write: Writer, tmp_path: Path) -> None:
    write("PA", name="x/1")
    write("LL", name="x/2")
    write("AP", name="x/3", ViewPosition="RLO", ViewCodeSequence=None)
    (study,) = find_studies(tmp_path / "x").studies
    assert study.is_complete
    assert len(study.films) == 3


def test_studies_of_one_accession_are_joined(write: Writer, tmp_path: Path) -> None:
    write("PA", name="x/1", AccessionNumber="7")
    write("LL", name="x/2", AccessionNumber="7", StudyInstanceUID="1.2.3")
    other_study = {"AccessionNumber": "8", "StudyInstanceUID": "1.2.4"}
    write("LL", name="x/3", options={"instance_number": 3}, **other_study)
    joined, other = find_studies(tmp_path / "x").studies
    assert joined.is_complete
    assert [f.code for f in joined.findings] == [Code.DIFFERENT_STUDIES]
    assert not other.is_complete


def test_studies_of_two_patients_are_not_joined(write: Writer, tmp_path: Path) -> None:
    write("PA", name="x/1", AccessionNumber="7")
    write("LL", name="x/2", AccessionNumber="7", StudyInstanceUID="1.2.3", PatientID="X")
    studies = find_studies(tmp_path / "x").studies
    assert [len(study.films) for study in studies] == [1, 1]


@pytest.mark.parametrize("names", ["12", "21"])
def test_joined_studies_keep_one_key(write: Writer, tmp_path: Path, names: str) -> None:
    write("PA", name=f"x/{names[0]}", AccessionNumber="7")
    write("LL", name=f"x/{names[1]}", AccessionNumber="7", StudyInstanceUID="1.2.3")
    (study,) = find_studies(tmp_path / "x").studies
    assert study.frontal is not None
    assert study.lateral is not None
    assert read_pair(study.frontal.path, study.lateral.path).study_key == study.key


def test_pairs_without_study_uid_do_not_share_a_key(write: Writer, tmp_path: Path) -> None:
    keys = set()
    for name in ("one", "two"):
        for position in ("PA", "LL"):
            file = f"{name}/{position}"
            write(position, name=file, identity=SyntheticIdentity(name), StudyInstanceUID=None)
        (study,) = find_studies(tmp_path / name).studies
        assert read_pair(tmp_path / name / "PA", tmp_path / name / "LL").study_key == study.key
        keys.add(study.key)
    assert len(keys) == 2


def test_patients_mixed_in_one_study_are_refused(write: Writer, tmp_path: Path) -> None:
    write("PA", name="x/1")
    write("LL", name="x/2", PatientID="X")
    (study,) = find_studies(tmp_path / "x").studies
    assert Code.DIFFERENT_STUDIES in {f.code for f in study.findings}
    assert not study.is_complete


def test_bolton_folder_with_both_versions_is_refused(shared_data: Path) -> None:
    found = find_studies(shared_data / "radiographs" / "bolton")
    assert found.foreign_files == 1
    (study,) = found.studies
    assert [f.code for f in study.findings] == [Code.NOT_A_PAIR]
    assert study.findings[0].message.count("frontal PA 1024x1280") == 2
    assert study.findings[0].message.count("lateral LL 1024x1280") == 2


def test_bolton_pair_in_the_wrong_order(shared_data: Path) -> None:
    folder = shared_data / "radiographs" / "bolton"
    pair = read_pair(folder / "B1893L12_masked.dcm", folder / "B1893F12_masked.dcm")
    assert pair.frontal.position is ViewPosition.PA
    assert pair.frontal.view.magnification == pytest.approx(1.0776, abs=1e-4)
    assert pair.lateral.view.magnification == pytest.approx(1.0571, abs=1e-4)


def test_three_views_of_a_real_study(shared_data: Path) -> None:
    (study,) = find_studies(shared_data / "radiographs" / "other" / "cspine_study").studies
    assert study.findings[0].code is Code.NOT_A_PAIR
    assert study.findings[0].message.count("frontal AP") == 2
