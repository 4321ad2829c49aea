"""DICOM CT and SEG hold the voxels of the NIfTI files at the same points, and whose they are."""

from __future__ import annotations

import logging
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import itk
import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from spider_bundle.dicom.identity import SourceIdentity
from spider_bundle.geometry import LPS_TO_RAS, Grid, rotation_about
from spider_bundle.labels import LABEL_NAMES, Label
from spider_bundle.outputs.dicom_ct import (
    NOTICE,
    DicomIdentity,
    derived_uid,
    write_ct_series,
)
from spider_bundle.outputs.dicom_seg import SEGMENT_CODES, write_segmentation
from spider_bundle.outputs.nifti import write_ct, write_labels
from spider_bundle.outputs.optional_dependencies import EXTRAS, SpiderError, require_extra
from tests.outputs.programs import conformance_errors, running_orthanc

highdicom = pytest.importorskip("highdicom")

KEY = "0123456789abcdef"
PSEUDONYM = DicomIdentity(KEY, weights_sha256="ab" * 32)
SOURCE = SourceIdentity(
    {
        "PatientName": "Müller^Zoë=山田^太郎",
        "PatientID": "MRN-42",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "StudyInstanceUID": "1.2.3.4",
        "StudyDate": "20240506",
        "StudyTime": "070809",
        "ReferringPhysicianName": "Doctor^Who",
        "StudyID": "S1",
        "AccessionNumber": "A77",
    },
    (
        ("1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4.5"),
        ("1.2.840.10008.5.1.4.1.1.1", "1.2.3.4.6"),
    ),
)
KEPT = DicomIdentity(KEY, SOURCE)
CORRECTED = DicomIdentity(
    KEY,
    SourceIdentity(
        {**SOURCE.attributes, "PatientName": "Right^Name", "PatientID": "MRN-24"},
        SOURCE.references,
    ),
)
IDENTITIES = pytest.mark.parametrize("identity", [PSEUDONYM, KEPT], ids=["pseudonym", "kept"])


class Volumes(NamedTuple):
    hu: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    grid: Grid


def random_volumes(grid: Grid) -> Volumes:
    generator = np.random.default_rng(1)
    hu = generator.normal(300.0, 900.0, grid.shape)  # not rounded, and beyond the range of files
    return Volumes(hu, generator.integers(0, 6, grid.shape).astype(np.uint8), grid)


@pytest.fixture
def volumes(grid: Grid) -> Volumes:
    return random_volumes(grid)


def oblique_grid() -> Grid:
    """Axes in another order, one mirrored, all turned."""
    affine = np.eye(4)
    turn = rotation_about(2, 20.0) @ rotation_about(0, -10.0)
    affine[:3, :3] = turn @ np.array([[0, 0, 1.5], [2.0, 0, 0], [0, -2.5, 0]])
    affine[:3, 3] = (3.25, -40.5, 17.125)
    return Grid((9, 11, 13), affine)


def write(folder: Path, volumes: Volumes, identity: DicomIdentity = PSEUDONYM) -> list[Path]:
    """CT slices in order, then the segmentation."""
    files = write_ct_series(folder / "ct", volumes.hu, volumes.grid, identity)
    segmentation = folder / "seg.dcm"
    write_segmentation(segmentation, volumes.labels, volumes.grid, files, identity)
    return [*files, segmentation]


def itk_series(files: list[Path]) -> Any:
    reader = itk.ImageSeriesReader[itk.Image[itk.SS, 3]].New()
    reader.SetImageIO(itk.GDCMImageIO.New())
    reader.SetFileNames([str(path) for path in files])
    reader.Update()
    return reader.GetOutput()


@pytest.mark.parametrize("keep", [True, False])
def test_results_in_the_scanners_frame_share_one(
    keep: bool, volumes: Volumes, tmp_path: Path
) -> None:
    source = replace(SOURCE, frame_of_reference="1.2.3.77") if keep else None
    identity = DicomIdentity(KEY, source, in_scanner_frame=True)
    other = volumes._replace(hu=volumes.hu + 1)
    files = [*write(tmp_path / "a", volumes, identity), *write(tmp_path / "b", other, identity)]
    frames = {str(pydicom.dcmread(path).FrameOfReferenceUID) for path in files}
    assert frames == ({"1.2.3.77"} if keep else {derived_uid(KEY, "frame of reference")})


@pytest.mark.parametrize("make", ["axial", "oblique"])
def test_ct_has_the_voxels_of_the_nifti_at_the_same_points(
    make: str, grid: Grid, tmp_path: Path
) -> None:
    volumes = random_volumes(grid if make == "axial" else oblique_grid())
    write_ct(tmp_path / "ct.nii.gz", volumes.hu, volumes.grid)
    image = itk_series(write_ct_series(tmp_path / "ct", volumes.hu, volumes.grid, PSEUDONYM))
    truth = nibabel.load(tmp_path / "ct.nii.gz")
    values = np.asanyarray(truth.dataobj)
    assert sorted(itk.size(image)) == sorted(values.shape)
    to_index = np.linalg.inv(LPS_TO_RAS @ truth.affine)
    seen = itk.array_view_from_image(image)
    compared = 0
    for index in np.random.default_rng(2).integers(0, seen.shape[::-1], (400, 3)).tolist():
        world = np.array(image.TransformIndexToPhysicalPoint(index))
        there = to_index[:3, :3] @ world + to_index[:3, 3]
        nearest = np.rint(there).astype(int)
        step = volumes.grid.affine[:3, :3] @ (there - nearest)
        assert np.linalg.norm(step) < 1e-3  # mm
        assert seen[tuple(index[::-1])] == values[tuple(nearest)]
        compared += 1
    assert compared == 400
    np.testing.assert_array_equal(np.sort(seen, axis=None), np.sort(values, axis=None))


def test_slices_are_axial_in_lps_from_the_feet_up(volumes: Volumes, tmp_path: Path) -> None:
    files = write_ct_series(tmp_path, volumes.hu, volumes.grid, PSEUDONYM)
    slices = [pydicom.dcmread(path) for path in files]
    assert [path.name for path in files] == [f"{n:04d}.dcm" for n in range(1, 21)]
    assert [s.InstanceNumber for s in slices] == list(range(1, 21))
    for number, dataset in enumerate(slices):
        assert dataset.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        # the fixture's RAS x runs from -21 to 18 and y from -35 to 23
        assert dataset.ImagePositionPatient == [-18, -23, -13 + 3 * number]
        assert dataset.PixelSpacing == [2, 1]
        assert dataset.SliceThickness == dataset.SpacingBetweenSlices == 3
        assert (dataset.Rows, dataset.Columns) == (30, 40)
        assert (dataset.RescaleSlope, dataset.RescaleIntercept) == (1, 0)
    assert slices[0].file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({s[keyword].value for s in slices}) == 1
    assert len({s.SOPInstanceUID for s in slices}) == len(slices)


def test_segments_are_the_labels(volumes: Volumes, tmp_path: Path) -> None:
    write_labels(tmp_path / "label.nii.gz", volumes.labels, volumes.grid)
    *ct_files, path = write(tmp_path, volumes)
    segmentation = highdicom.seg.segread(path)
    slices = [pydicom.dcmread(file) for file in ct_files]
    decoded = segmentation.get_pixels_by_source_instance(
        [s.SOPInstanceUID for s in slices], combine_segments=True
    )
    truth = np.asanyarray(nibabel.load(tmp_path / "label.nii.gz").dataobj)
    # the fixture's grid is RAS: columns and rows of an axial slice run the other way
    np.testing.assert_array_equal(decoded, truth[::-1, ::-1].T)
    volume = segmentation.get_volume(combine_segments=True)
    corner = volume.affine @ [0, 0, 0, 1]
    first = volume.array[0, 0, 0]
    inverse = np.linalg.inv(volumes.grid.affine)
    index = np.rint(inverse @ corner)[:3].astype(int)
    np.testing.assert_allclose(volumes.grid.affine @ [*index, 1], corner, atol=1e-3)
    assert first == truth[tuple(index)]


def test_segments_are_named_by_snomed_codes(volumes: Volumes, tmp_path: Path) -> None:
    *ct_files, path = write(tmp_path, volumes)
    segmentation, ct = pydicom.dcmread(path), pydicom.dcmread(ct_files[0])
    named = {
        item.SegmentNumber: (
            item.SegmentLabel,
            item.SegmentedPropertyTypeCodeSequence[0].CodeValue,
            item.SegmentAlgorithmType,
        )
        for item in segmentation.SegmentSequence
    }
    assert set(named) == set(Label) - {Label.BACKGROUND} == set(SEGMENT_CODES)
    assert named[Label.MANDIBLE] == (LABEL_NAMES[Label.MANDIBLE], "91609006", "AUTOMATIC")
    assert named[Label.BONE][1] == "272673000"
    (algorithm,) = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    (family,) = algorithm.AlgorithmFamilyCodeSequence
    written = Code(family.CodeValue, family.CodingSchemeDesignator, family.CodeMeaning)
    assert written == codes.DCM.ArtificialIntelligence
    assert segmentation.SegmentationType == "BINARY"
    assert segmentation.FrameOfReferenceUID == ct.FrameOfReferenceUID
    assert segmentation.StudyInstanceUID == ct.StudyInstanceUID
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == ct.SeriesInstanceUID
    referenced = {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence}
    assert referenced == {pydicom.dcmread(file).SOPInstanceUID for file in ct_files}


@pytest.mark.parametrize("labels", [Label.BACKGROUND, Label.BONE])
def test_a_volume_of_one_label_can_be_written(
    labels: Label, volumes: Volumes, tmp_path: Path
) -> None:
    plain = volumes._replace(labels=np.full(volumes.grid.shape, labels, np.uint8))
    segmentation = highdicom.seg.segread(write(tmp_path, plain)[-1])
    frames = segmentation.get_volume(combine_segments=True)
    assert np.all(frames.array == labels)


def contents(files: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in files]


def uids(files: list[Path]) -> set[str]:
    found = set()
    for path in files:
        dataset = pydicom.dcmread(path)
        found |= {dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID}
    return found


@IDENTITIES
def test_equal_results_are_equal_files(
    identity: DicomIdentity, volumes: Volumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path / "a", volumes, identity)
    # another day and other random numbers
    monkeypatch.setattr("highdicom.base.datetime", _AnotherDay)
    second = write(tmp_path / "b", volumes, identity)
    assert contents(first) == contents(second)


class _AnotherDay:
    import datetime as _datetime

    date, time = _datetime.date, _datetime.time

    class datetime(_datetime.datetime):  # noqa: N801 - the name highdicom uses
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2031, 2, 3, 4, 5, 6)


def test_other_results_never_share_a_uid(volumes: Volumes, tmp_path: Path) -> None:
    shifted = volumes.grid.affine.copy()
    shifted[0, 3] += 1e-7  # mm; positions are written with nine digits
    changed = volumes.hu.copy()
    changed[0, 0, 0] += 1
    renamed = ((SOURCE.references[0][0], "1.2.3.4.7"), SOURCE.references[1])
    variants = {
        "same": (volumes, PSEUDONYM),
        "voxel": (volumes._replace(hu=changed), PSEUDONYM),
        "place": (volumes._replace(grid=Grid(volumes.grid.shape, shifted)), PSEUDONYM),
        "study": (volumes, DicomIdentity("f" * 16)),
        "weights": (volumes, DicomIdentity(KEY, weights_sha256="cd" * 32)),
        # else the pseudonymous series would lead to the patient
        "kept": (volumes, KEPT),
        # an archive would hold two patients' objects under one UID
        "patient": (volumes, CORRECTED),
        "references": (volumes, DicomIdentity(KEY, SourceIdentity(SOURCE.attributes, renamed))),
    }
    found = [uids(write(tmp_path / name, *variant)) for name, variant in variants.items()]
    slices = volumes.grid.shape[2]
    # of the slices and the segmentation, of two series and of their frame of reference
    assert list(map(len, found)) == [slices + 1 + 2 + 1] * len(variants)
    assert len(set.union(*found)) == sum(map(len, found))
    studies = {n: pydicom.dcmread(tmp_path / n / "seg.dcm").StudyInstanceUID for n in variants}
    pseudonymous = {studies[name] for name in ("same", "voxel", "place", "weights")}
    assert len(pseudonymous) == 1  # one study holds all its results
    assert studies["study"] not in pseudonymous
    assert {studies[n] for n in ("kept", "patient", "references")} == {"1.2.3.4"}


@pytest.mark.parametrize("module", ["dicom_ct", "dicom_seg"])
def test_another_version_of_the_software_makes_other_objects(
    module: str, volumes: Volumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write(tmp_path / "a", volumes)
    monkeypatch.setattr(f"spider_bundle.outputs.{module}.__version__", "99.0")
    after = write(tmp_path / "b", volumes)
    for old, new in zip(map(pydicom.dcmread, before), map(pydicom.dcmread, after), strict=True):
        # the version in dicom_seg is that of the algorithm, which no CT slice states
        changed = module == "dicom_ct" or old.Modality == "SEG"
        assert (old.SOPInstanceUID != new.SOPInstanceUID) == changed
        assert (old.SeriesInstanceUID != new.SeriesInstanceUID) == changed
        assert new.SOPInstanceUID == new.file_meta.MediaStorageSOPInstanceUID


def test_other_labels_make_another_segmentation_on_the_same_ct(
    volumes: Volumes, tmp_path: Path
) -> None:
    relabelled = volumes._replace(labels=np.roll(volumes.labels, 1))
    *ct_a, seg_a = write(tmp_path / "a", volumes)
    *ct_b, seg_b = write(tmp_path / "b", relabelled)
    assert contents(ct_a) == contents(ct_b)
    a, b = pydicom.dcmread(seg_a), pydicom.dcmread(seg_b)
    assert a.SOPInstanceUID != b.SOPInstanceUID
    assert a.SeriesInstanceUID != b.SeriesInstanceUID
    organisations = [
        {item.DimensionOrganizationUID for item in (*d.DimensionOrganizationSequence,)}
        | {item.DimensionOrganizationUID for item in d.DimensionIndexSequence}
        for d in (a, b)
    ]
    assert [len(uids) for uids in organisations] == [1, 1]
    assert organisations[0] != organisations[1]
    assert a.FrameOfReferenceUID == b.FrameOfReferenceUID


def test_derived_uids_are_valid_and_do_not_run_into_each_other() -> None:
    uid = derived_uid("a", "b")
    assert pydicom.uid.UID(uid).is_valid
    assert re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid)
    assert len({uid, derived_uid("ab"), derived_uid("a", "b", ""), derived_uid("", "ab")}) == 4


def test_without_identity_nothing_leads_to_the_patient(volumes: Volumes, tmp_path: Path) -> None:
    for path in write(tmp_path, volumes):
        dataset = pydicom.dcmread(path)
        assert dataset.PatientID == KEY
        assert str(dataset.PatientName) == f"{KEY}^"
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.StudyInstanceUID.startswith("2.25.")
        for keyword in ("PatientBirthDate", "StudyDate", "AccessionNumber", "StudyID"):
            assert not dataset[keyword].value
        assert "StationName" not in dataset
        text = path.read_bytes()
        dates = set(re.findall(rb"(?<!\d)(?:19|20)\d\d[01]\d[0-3]\d(?!\d)", text))
        assert dates <= {b"19000101"}  # a date that a segmentation must have
    assert "SourceImageSequence" not in pydicom.dcmread(tmp_path / "ct" / "0001.dcm")


def test_kept_identity_is_that_of_the_radiographs(volumes: Volumes, tmp_path: Path) -> None:
    *ct_files, path = write(tmp_path, volumes, KEPT)
    for file in (ct_files[0], path):
        dataset = pydicom.dcmread(file)
        for keyword, value in SOURCE.attributes.items():
            assert str(dataset[keyword].value) == value
        assert "PatientIdentityRemoved" not in dataset
    ct = pydicom.dcmread(ct_files[0])
    referenced = [
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for item in ct.SourceImageSequence
    ]
    assert tuple(referenced) == SOURCE.references
    assert ct.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert pydicom.dcmread(path).ContentDate == "20240506"


@IDENTITIES
def test_every_object_says_what_it_is_not_for(
    identity: DicomIdentity, volumes: Volumes, tmp_path: Path
) -> None:
    for path in write(tmp_path, volumes, identity):
        dataset = pydicom.dcmread(path)
        for keyword in ("SeriesDescription", "ImageComments", "DerivationDescription"):
            assert NOTICE in dataset[keyword].value
        assert len(dataset.SeriesDescription) <= 64
        # these two survive de-identification
        assert dataset.ImageType[0] == "DERIVED"
        assert dataset.ContentQualification == "RESEARCH"
        assert dataset.BurnedInAnnotation == "NO"
    assert pydicom.dcmread(tmp_path / "ct" / "0001.dcm").ImageType == [
        *("DERIVED", "SECONDARY", "AXIAL")
    ]


def test_logs_name_nobody(
    volumes: Volumes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    odd = SourceIdentity({**SOURCE.attributes, "PatientName": "Mononym"}, SOURCE.references)
    write(tmp_path, volumes, DicomIdentity(KEY, odd))
    assert "1.2.3.4" not in caplog.text
    assert "Mononym" not in caplog.text
    assert "highdicom" not in {record.name.split(".")[0] for record in caplog.records}


def test_what_dicom_cannot_express_is_refused(volumes: Volumes, tmp_path: Path) -> None:
    sheared = volumes.grid.affine.copy()
    sheared[0, 1] = 0.5
    with pytest.raises(ValueError, match="right angles"):
        write_ct_series(tmp_path, volumes.hu, Grid(volumes.grid.shape, sheared), PSEUDONYM)
    with pytest.raises(ValueError, match="on a grid of shape"):
        write_ct_series(tmp_path, volumes.hu[1:], volumes.grid, PSEUDONYM)
    broken = volumes.hu.copy()
    broken[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="finite"):
        write_ct_series(tmp_path, broken, volumes.grid, PSEUDONYM)
    files = write_ct_series(tmp_path / "ct", volumes.hu, volumes.grid, PSEUDONYM)
    with pytest.raises(ValueError, match="a CT of 19"):
        write_segmentation(tmp_path / "s.dcm", volumes.labels, volumes.grid, files[1:], PSEUDONYM)
    with pytest.raises(ValueError, match="no label"):
        write_segmentation(tmp_path / "s.dcm", volumes.labels + 1, volumes.grid, files, PSEUDONYM)
    assert not (tmp_path / "s.dcm").exists()


@pytest.mark.parametrize(("found", "fails"), [("2.4.4", True), ("3.0.1", False), (None, True)])
def test_missing_packages_are_named(
    found: str | None, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        if found is None:
            raise optional_dependencies.PackageNotFoundError(package)
        return found

    from spider_bundle.outputs import optional_dependencies

    monkeypatch.setattr(optional_dependencies, "version", version)
    if not fails:
        require_extra("dicom")
        return
    with pytest.raises(SpiderError, match=r"^R03 .*pip install -e '.\[dicom\]'"):
        require_extra("dicom")


def test_extras_are_those_of_the_package() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    declared = pyproject["project"]["optional-dependencies"]
    for name, packages in EXTRAS.items():
        assert all(any(line.startswith(p) for line in declared[name]) for p in packages), name


@pytest.mark.integration
@IDENTITIES
def test_objects_conform(identity: DicomIdentity, volumes: Volumes, tmp_path: Path) -> None:
    files = write(tmp_path, volumes, identity)
    assert {path.name: conformance_errors(path) for path in files} == {p.name: [] for p in files}


@pytest.mark.integration
def test_orthanc_stores_both_and_gives_them_back(volumes: Volumes, tmp_path: Path) -> None:
    files = write(tmp_path, volumes, PSEUDONYM) + write(tmp_path / "kept", volumes, KEPT)
    with running_orthanc(tmp_path) as server:
        stored = {server.store(path): path for path in files}
        assert len(stored) == len(files)
        for name, path in stored.items():
            assert server.request(f"/instances/{name}/file") == path.read_bytes()
        counts = server.get("/statistics")
        assert (counts["CountPatients"], counts["CountStudies"]) == (2, 2)
        found = [server.get(f"/series/{name}") for name in server.get("/series")]
        held = sorted((s["MainDicomTags"]["Modality"], len(s["Instances"])) for s in found)
        slices = volumes.grid.shape[2]
        assert held == [("CT", slices), ("CT", slices), ("SEG", 1), ("SEG", 1)]
        # a resumed run stores the same objects again: nothing is added
        for path in write(tmp_path / "again", volumes, PSEUDONYM):
            assert server.store(path, "AlreadyStored") in stored
        assert server.get("/statistics")["CountInstances"] == len(files)


@pytest.mark.integration
def test_orthanc_holds_nobodys_objects_under_the_uid_of_another(
    volumes: Volumes, tmp_path: Path
) -> None:
    wrong = write(tmp_path / "wrong", volumes, KEPT)
    right = write(tmp_path / "right", volumes, CORRECTED)
    with running_orthanc(tmp_path) as server:
        for path in wrong + right:
            server.store(path)
        held = [server.get(f"/instances/{name}/tags?simplify") for name in server.get("/instances")]
        assert len({tags["SOPInstanceUID"] for tags in held}) == len(held) == len(wrong + right)
