"""CT scans from files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from spider_bundle.cases.prepare import MIN_CORRELATION
from spider_bundle.cases.scan import (
    AIR_HU,
    MAX_SPACING_MM,
    MIN_AIR_FRACTION,
    MIN_BONE_HU,
    MIN_EXTENT_MM,
    Scan,
    find_scans,
    read_scan,
)
from spider_bundle.cases.series import (
    MAX_ASTRAY_MM,
    MAX_GAP_STEPS,
    MAX_TILT_DEGREES,
    MIN_SLICES,
    MIN_STEP_MM,
)
from spider_bundle.errors import CODES, Code, SpiderError
from spider_bundle.geometry import Grid
from tests.cases.scans import acquired, edit, write_nifti, write_series, write_with_itk


def volume(shape: tuple[int, int, int] = (24, 30, 27)) -> tuple[np.ndarray, Grid]:
    """Different HU everywhere, on an anisotropic grid off the origin."""
    hu = np.random.default_rng(0).integers(-1020, 1500, size=shape).astype(np.float32)
    grid = Grid.centred((4.0, 3.5, 4.5), shape)
    affine = grid.affine.copy()
    affine[:3, 3] += [13.0, -7.0, 300.0]
    return hu, Grid(shape, affine)


def only(folder: Path, **options: Any) -> Scan:
    (source,) = find_scans(folder, **options)
    return read_scan(source)


def same(scan: Scan, hu: np.ndarray, grid: Grid) -> None:
    """The same HU at the same places."""
    assert scan.hu.shape == hu.shape
    assert np.allclose(scan.grid.affine, grid.affine, atol=1e-4)
    assert np.array_equal(scan.hu[scan.measured], hu[scan.measured])
    assert scan.measured.all()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LPI", "PIR", "SAL", "ILP"])
def test_nifti_of_any_orientation_gives_the_same_volume(tmp_path: Path, axes: str) -> None:
    hu, grid = volume()
    write_nifti(tmp_path / "a.nii.gz", hu, grid, axes)
    same(only(tmp_path), hu, grid)


@pytest.mark.parametrize("axes", ["LPS", "LPI", "PIR", "PIL", "LIP", "RAS"])
def test_series_of_any_orientation_gives_the_same_volume(tmp_path: Path, axes: str) -> None:
    hu, grid = volume()
    write_series(tmp_path, *acquired(hu, grid, axes))
    same(only(tmp_path), hu, grid)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_volumes_of_other_formats_give_the_same_volume(tmp_path: Path, name: str) -> None:
    hu, grid = volume()
    turned, there = acquired(hu, grid, "PIR")
    write_with_itk(tmp_path / name, turned, there)
    write_with_itk(tmp_path / "a_mandible.nrrd", turned > 0, there)
    (source,) = find_scans(tmp_path, contours="{stem}_mandible.nrrd")
    same(read_scan(source), hu, grid)
    assert source.contours == tmp_path / "a_mandible.nrrd"


def test_nrrd_without_an_anatomical_space_is_refused(tmp_path: Path) -> None:
    write_with_itk(tmp_path / "a.nrrd", *volume())
    content = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"left-posterior-superior", b"scanner-xyz"))
    assert rejection(tmp_path) == Code.INVALID_VOLUME
    ras = content.replace(b"left-posterior-superior", b"right-anterior-superior")
    (tmp_path / "a.nrrd").write_bytes(ras)
    hu, grid = volume()
    scan = only(tmp_path)
    assert np.array_equal(scan.hu, hu[::-1, ::-1])
    corner = np.array([-1.0, -1.0, 1.0, 1.0]) * (grid.affine @ [0, 0, 0, 1])
    assert np.allclose(scan.grid.affine @ [23, 29, 0, 1], corner, atol=1e-4)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_keeps_a_sheared_affine_and_prefers_the_sform(tmp_path: Path, kind: type) -> None:
    hu, grid = volume()
    affine = grid.ras_affine.copy()
    affine[1, 2] = 1.2
    image = kind(hu, affine)
    image.set_qform(np.diag([9.0, 9.0, 9.0, 1.0]), code=1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    same(only(tmp_path), hu, Grid.from_ras(affine, hu.shape))


def test_nifti_scale_is_applied(tmp_path: Path) -> None:
    hu, grid = volume()
    image = nibabel.Nifti1Image(((hu + 1000) * 2).astype(np.int16), grid.ras_affine)
    image.header.set_slope_inter(0.5, -1000.0)
    nibabel.save(image, tmp_path / "a.nii")
    same(only(tmp_path), hu, grid)


def test_gantry_tilt_is_part_of_the_grid(tmp_path: Path) -> None:
    hu, grid = acquired(*volume(), "LPS")
    affine = grid.affine.copy()
    affine[1, 2] = affine[2, 2] * np.tan(np.radians(18.0))
    write_series(tmp_path, hu, Grid(grid.shape, affine))
    scan = only(tmp_path)
    assert scan.gantry_tilt == pytest.approx(18.0, abs=0.01)
    index = np.array([4, 5, 20, 1])  # in the order as acquired
    flipped = np.array([23 - 4, 29 - 5, 20, 1])
    assert np.allclose(scan.grid.affine @ flipped, affine @ index, atol=1e-4)
    assert scan.hu[tuple(flipped[:3])] == hu[tuple(index[:3])]


@pytest.mark.parametrize("signed", [0, 1])
def test_values_do_not_depend_on_how_they_are_shown(tmp_path: Path, signed: int) -> None:
    hu, grid = volume()
    changes = {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": signed}
    write_series(tmp_path, *acquired(hu, grid, "LPS"), **changes)
    same(only(tmp_path), hu, grid)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_slices_need_no_further_codec(tmp_path: Path, syntax: UID) -> None:
    hu, grid = volume((64, 64, 24))
    for path in write_series(tmp_path, *acquired(hu, grid, "LPS")):
        data = pydicom.dcmread(path)
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
    same(only(tmp_path), hu, grid)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    assert rejection(tmp_path) == Code.SCAN_UNREADABLE


def test_a_slice_off_its_place_is_interpolated(tmp_path: Path) -> None:
    grid = Grid.centred(4.0, 30)
    hu = (grid.points()[..., 2] * 16).astype(np.float32)
    paths = write_series(tmp_path, *acquired(hu, grid, "LPS"))
    x, y, z = grid.axes()
    # slice 10 of 30 lies 1.4 mm lower than it should, and shows what is there
    edit(
        paths[10],
        ImagePositionPatient=[float(x.min()), float(y.min()), float(z[10] - 1.4)],
        PixelData=np.full((30, 30), round((z[10] - 1.4) * 16 + 2000) * 2, np.uint16).tobytes(),
    )
    scan = only(tmp_path)
    assert np.abs(scan.hu - scan.grid.points()[..., 2] * 16).max() < 0.5


def test_declared_padding_counts_only_where_it_reaches_the_border(tmp_path: Path) -> None:
    hu, grid = acquired(*volume(), "LPS")
    hu = hu.copy()
    hu[:5] = -1024.0
    hu[12, 15, :] = -1024.0
    write_series(tmp_path, hu, grid, PixelPaddingValue=round((-1024 + 2000) / 0.5))
    scan = only(tmp_path)
    assert not scan.measured[-5:].any()  # L and R are swapped
    assert scan.measured[:-5].all()
    assert (scan.hu[-5:] == -1000).all()


@pytest.mark.parametrize("value", [-2000, -3024, -1024])
def test_a_disc_shaped_field_of_view_ends_the_measurement(tmp_path: Path, value: int) -> None:
    hu, grid = volume((40, 40, 30))
    hu[10, 10] = -1024.0  # air within the field of view
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in hu.shape), indexing="ij")
    outside = np.hypot(x, y) > 1.0
    write_nifti(tmp_path / "a.nii.gz", np.where(outside, value, hu), grid)
    scan = only(tmp_path)
    assert np.array_equal(scan.measured, ~outside)


def test_clipped_air_around_the_head_was_measured(tmp_path: Path) -> None:
    hu, grid = volume((40, 40, 30))
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in hu.shape), indexing="ij")
    write_nifti(tmp_path / "a.nii.gz", np.where(np.hypot(x, y) > 0.7, -1024, hu), grid)
    assert only(tmp_path).measured.all()


def test_values_that_are_no_numbers_were_not_measured(tmp_path: Path) -> None:
    hu, grid = volume()
    hu[3] = np.nan
    nibabel.save(nibabel.Nifti1Image(hu, grid.ras_affine), tmp_path / "a.nii.gz")
    scan = only(tmp_path)
    assert np.array_equal(scan.measured, np.isfinite(hu))
    assert (scan.hu[3] == -1000).all()


def test_find_groups_series_and_leaves_out_the_rest(tmp_path: Path) -> None:
    hu, grid = volume()
    first = write_series(tmp_path / "p1" / "s", *acquired(hu, grid, "LPS"))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "again.dcm").write_bytes(first[0].read_bytes())
    write_nifti(tmp_path / "sub-02" / "ses-1" / "ct.nii.gz", hu, grid)
    write_nifti(tmp_path / "sub-02" / "ses-2" / "ct.nii.gz", hu, grid)
    mandible = write_nifti(tmp_path / "sub-02" / "ses-2" / "ct_mandible.nii.gz", hu > 0, grid)
    beside = write_nifti(tmp_path / "p1" / "s_mandible.nii.gz", hu > 0, grid)
    write_nifti(tmp_path / "out" / "cases" / "x.nii.gz", hu, grid)
    (tmp_path / "notes.txt").write_text("not a scan")
    sources = find_scans(tmp_path, patient_pattern=r"(sub-\d+)/", leave_out=tmp_path / "out")
    by_patient = {source.patient: source for source in sources}
    assert len(sources) == 3
    assert sorted(by_patient) == ["sub-02", "|SECRET-ID"]
    assert {s.contours for s in sources} == {None, mandible, beside}
    assert len(by_patient["|SECRET-ID"].files) == len(first)
    assert "SECRET" not in repr(sources)
    assert str(tmp_path) not in repr(sources)
    # without a pattern every file is a patient of its own
    assert len({s.patient for s in find_scans(tmp_path / "sub-02")}) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"SOPInstanceUID": "1.2.9"}, {"SOPInstanceUID": "1.2.9"}),
        ({"SOPInstanceUID": ""}, {"SOPInstanceUID": ""}),
        ({"SeriesInstanceUID": ""}, {"SeriesInstanceUID": ""}),
        ({"SeriesInstanceUID": "1.2"}, {"SeriesInstanceUID": "1.2", "PatientID": "other"}),
        ({"SeriesInstanceUID": "1.2", "StudyInstanceUID": "1.1"},) * 2,
        ({"SeriesInstanceUID": "1.2", "SOPInstanceUID": "1.3", "StudyInstanceUID": "1.1"},) * 2,
    ],
)
def test_no_scan_is_lost_whatever_uids_an_anonymiser_leaves(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    hu, grid = volume()
    for number, (name, changes) in enumerate((("p1", one), ("p2", other))):
        # numbered anew for every patient, as files too
        slices = write_series(tmp_path / name, *acquired(hu - number, grid, "LPS"), **changes)
        (tmp_path / f"copy of {name}").mkdir()
        for path in slices[:2]:
            shutil.copy(path, tmp_path / f"copy of {name}")
    sources = find_scans(tmp_path)
    assert [len(source.files) for source in sources] == [hu.shape[2]] * 2
    assert len({source.uid for source in sources}) == 2
    for source, number in zip(sources, (0, 1), strict=True):
        assert np.nanmax(read_scan(source).hu) == pytest.approx(hu.max() - number, abs=0.5)


def test_a_series_without_preambles_is_read(tmp_path: Path) -> None:
    hu, grid = volume()
    for path in write_series(tmp_path, *acquired(hu, grid, "LPS")):
        data = path.read_bytes()
        path.write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])
    (source,) = find_scans(tmp_path)
    assert np.abs(read_scan(source).hu - hu).max() < 0.5


def test_slices_that_cannot_be_read_are_a_scan_with_a_fault(tmp_path: Path) -> None:
    hu, grid = volume()
    for number, path in enumerate(write_series(tmp_path / "a", *acquired(hu, grid, "LPS"))):
        path.write_bytes(path.read_bytes()[: 300 + 5 * number])
    (tmp_path / "a" / "gone.dcm").symlink_to(tmp_path / "never")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.dcm").touch()
    (tmp_path / "b" / "done.txt").touch()
    sources = find_scans(tmp_path)
    assert [source.fault for source in sources] == [Code.SCAN_UNREADABLE] * 2
    assert [len(source.files) for source in sources] == [hu.shape[2] + 1, 1]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    hu, grid = volume()
    write_nifti(tmp_path / "store" / "a.nii.gz", hu, grid)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    assert [s.name for s in find_scans(tmp_path / "in")] == ["linked/a.nii.gz"]


@pytest.mark.parametrize("pattern", ["(", "[a"])
def test_a_wrong_pattern_is_an_error(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        find_scans(tmp_path, patient_pattern=pattern)


def rejection(folder: Path) -> Code:
    with pytest.raises(SpiderError) as caught:
        only(folder)
    assert str(folder) not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        (Code.NOT_CT, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}),
        (Code.NOT_CT, {"SamplesPerPixel": 3}),
        (Code.LOCALISER, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        (Code.NOT_CT, {"NumberOfFrames": 2, "PixelData": b"\0" * 2880}),
        (Code.SCAN_UNREADABLE, {"PixelData": b"\0" * 10}),
        (Code.SCAN_UNREADABLE, {"PixelData": b"\0" * 1438}),
        (Code.SCAN_UNREADABLE, {"PixelData": None}),
        (Code.INCONSISTENT_SLICES, {"ImagePositionPatient": None}),
        (Code.INCONSISTENT_SLICES, {"PixelSpacing": [4.0, 0.0]}),
        (Code.INCONSISTENT_SLICES, {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}),
        (Code.DUPLICATE_SLICES, {"ImagePositionPatient": [0, 0, 0]}),
        (Code.VOXELS_TOO_COARSE, {"PixelSpacing": [8.0, 8.0]}),
        (Code.NOT_HU, {"RescaleIntercept": None}),
        (Code.NOT_HU, {"RescaleSlope": 0}),
        (Code.NOT_HU, {"RescaleIntercept": 0}),
        (Code.NOT_HU, {"RescaleType": "OD"}),
    ],
)
def test_series_that_cannot_be_used(tmp_path: Path, code: Code, changes: dict[str, Any]) -> None:
    write_series(tmp_path, *acquired(*volume(), "LPS"), **changes)
    assert rejection(tmp_path) == code


def test_too_much_tilt(tmp_path: Path) -> None:
    hu, grid = acquired(*volume(), "LPS")
    affine = grid.affine.copy()
    affine[1, 2] = affine[2, 2]  # 45 degrees
    write_series(tmp_path, hu, Grid(grid.shape, affine))
    assert rejection(tmp_path) == Code.GANTRY_TILT


@pytest.mark.parametrize("lost", [(10,), (5, 6, 7)])
def test_missing_slices(tmp_path: Path, lost: tuple[int, ...]) -> None:
    paths = write_series(tmp_path, *acquired(*volume(), "LPS"))
    for index in lost:
        paths[index].unlink()
    assert rejection(tmp_path) == Code.MISSING_SLICES


def test_a_slice_out_of_line(tmp_path: Path) -> None:
    paths = write_series(tmp_path, *acquired(*volume(), "LPS"))
    x, y, z = acquired(*volume(), "LPS")[1].axes()
    edit(paths[9], ImagePositionPatient=[float(x[0]) + 9, float(y[0]), float(z[9])])
    assert rejection(tmp_path) == Code.MISSING_SLICES


@pytest.mark.parametrize("shape", [(40, 40, 12), (40, 40, 17)])
def test_too_little_of_a_head(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    hu, grid = acquired(*volume(shape), "LPS")
    write_series(tmp_path, hu, grid)
    assert rejection(tmp_path) == Code.SCAN_TOO_SMALL


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        (Code.GANTRY_TILT, MAX_TILT_DEGREES),
        (Code.MISSING_SLICES, MAX_GAP_STEPS),
        (Code.MISSING_SLICES, MAX_ASTRAY_MM),
        (Code.DUPLICATE_SLICES, MIN_STEP_MM),
        (Code.SCAN_TOO_SMALL, MIN_SLICES),
        (Code.SCAN_TOO_SMALL, MIN_EXTENT_MM),
        (Code.VOXELS_TOO_COARSE, MAX_SPACING_MM),
        (Code.NOT_HU, AIR_HU),
        (Code.NOT_HU, 100 * MIN_AIR_FRACTION),
        (Code.NOT_HU, MIN_BONE_HU),
        (Code.NO_HEAD, MIN_CORRELATION),
    ],
)
def test_conditions_state_the_limits(code: Code, limit: float) -> None:
    assert f"{limit:g}" in re.split(r"[^-.\w]+", CODES[code].condition)


def test_messages_of_decoders_do_not_reach_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = write_series(tmp_path / "Doe_Jane", *acquired(*volume(), "LPS"))
    paths[3].write_bytes(paths[3].read_bytes()[:900])
    write_with_itk(tmp_path / "Doe_Jane.nrrd", *volume())
    content = (tmp_path / "Doe_Jane.nrrd").read_bytes()
    (tmp_path / "Doe_Jane.nrrd").write_bytes(content[: len(content) // 2])
    for source in find_scans(tmp_path):
        with pytest.raises(SpiderError) as caught:
            read_scan(source)
        assert "Doe" not in str(caught.value)
    assert "Doe" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("order", [("itk", "gdcm"), ("gdcm", "itk")])
def test_itk_and_gdcm_live_in_one_process(tmp_path: Path, order: tuple[str, str]) -> None:
    pytest.importorskip("gdcm")
    hu, grid = acquired(*volume(), "LPS")
    for path in write_series(tmp_path, hu, grid):
        data = pydicom.dcmread(path)
        data.compress(JPEGLSLossless, generate_instance_uid=False)
        data.save_as(path)
    use = {
        "itk": "from spider_bundle.cases.scan import find_scans, read_scan\n"
        "scan = read_scan(*find_scans(sys.argv[1]))\n",
        "gdcm": "import gdcm, pathlib, pydicom\n"
        "data = pydicom.dcmread(sorted(pathlib.Path(sys.argv[1]).iterdir())[0])\n"
        "data.pixel_array_options(decoding_plugin='gdcm')\n"
        "assert data.pixel_array.shape == (30, 24)\n",
    }
    code = "import sys\n" + "".join(use[name] for name in order * 2) + "print(scan.hu.sum())"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(hu.sum())


def test_nothing_but_reading_scans_loads_itk() -> None:
    code = (
        "import sys, spider_bundle.api, spider_bundle.cases.folder, spider_bundle.cli\n"
        "assert not any(name.startswith('itk._') for name in sys.modules)  # compiled parts"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nifti_that_cannot_be_used(tmp_path: Path) -> None:
    hu, grid = volume()
    series = nibabel.Nifti1Image(np.stack([hu, hu], axis=3), grid.ras_affine)
    nowhere = nibabel.Nifti1Image(hu, None)
    for number, image in enumerate((series, nowhere)):
        nibabel.save(image, tmp_path / f"{number}.nii")
        with pytest.raises(SpiderError, match="P13"):
            read_scan(find_scans(tmp_path)[number])
    (tmp_path / "broken.nii.gz").write_bytes(b"not gzip")
    with pytest.raises(SpiderError, match="P03"):
        read_scan(next(s for s in find_scans(tmp_path) if "broken" in s.name))


def test_labels_are_no_ct(tmp_path: Path) -> None:
    hu, grid = volume()
    write_nifti(tmp_path / "labels.nii.gz", hu > 0, grid)
    assert rejection(tmp_path) == Code.NOT_HU
