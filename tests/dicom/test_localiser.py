"""CT localisers: geometry, the side of the tube, the frame, and what is asked or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pydicom.data
import pytest
import torch
from pydicom.dataset import Dataset

from spider_bundle.dicom.ct_image import gantry_angle
from spider_bundle.dicom.film import Film, describe
from spider_bundle.dicom.load import load
from spider_bundle.dicom.overrides import Overrides, PairOverrides
from spider_bundle.dicom.pair import FilmPair, describe_pair, judge_film
from spider_bundle.dicom.write import SyntheticIdentity, write_localiser
from spider_bundle.errors import SpiderError
from spider_bundle.geometry import Grid, ViewPosition
from spider_bundle.intensity import attenuation
from spider_bundle.phantom import ISOCENTRE_IN_TEMPLATE, HeadPhantom
from spider_bundle.projection import project_volume
from spider_bundle.slot_view import SlotView, slot_view
from tests.films import read_radiograph

from .localisers import Scanner, write

#: Where the phantom lies in the scanner's frame, LPS mm: beside the axis.
SHIFT = np.array([20.0, -31.0, 14.0])
HEAD = SHIFT + ISOCENTRE_IN_TEMPLATE
SCANNER = Scanner(axis=(-6.0, 11.0), pitch=3.0, travel=2.5, columns=160, rows=120, top=165.0)
POSITIONS = {"A": "AP", "P": "PA", "L": "RL", "R": "LL"}
PHILIPS = {"Manufacturer": "Philips"}


@cache
def phantom() -> tuple[np.ndarray, Grid]:
    grid = Grid.centred(4.0, 64)
    hu, _ = HeadPhantom.nominal().voxelise(grid)
    return hu.astype(np.float32), grid.moved(SHIFT)


@cache
def image(side: str, scanner: Scanner = SCANNER) -> np.ndarray:
    hu, grid = phantom()
    return scanner.image(side, hu, grid.affine)


def angle(side: str, patient: str = "HFS") -> float:
    return gantry_angle(ViewPosition(POSITIONS[side]), patient)


def philips(side: str) -> dict[str, Any]:
    return {**PHILIPS, "AngularPosition": angle(side)}


def write_pair(
    folder: Path,
    sides: str = "AL",
    scanner: Scanner = SCANNER,
    frontal: Mapping[str, Any] | None = None,
    lateral: Mapping[str, Any] | None = None,
) -> list[Path]:
    """A Philips pair with changed attributes."""
    folder.mkdir(exist_ok=True)
    changes = (frontal or {}, lateral or {})
    return [
        write(
            folder / f"{number}.dcm",
            image(side, scanner),
            scanner,
            side,
            instance=number,
            **{**philips(side), **change},
        )
        for number, (side, change) in enumerate(zip(sides, changes, strict=True), 1)
    ]


def pixel_of(point: np.ndarray, side: str, scanner: Scanner = SCANNER) -> np.ndarray:
    """(column, row) of a point by the theorem of intersecting lines."""
    away = {"A": -point[1], "P": point[1], "L": point[0], "R": -point[0]}[side]
    on_axis = {"A": -scanner.axis[1], "P": scanner.axis[1], "L": scanner.axis[0]}
    from_tube = scanner.sod - (away - on_axis.get(side, -scanner.axis[0]))
    across = 0 if side in "AP" else 1
    aside = (point[across] - scanner.axis[across]) * scanner.sod / from_tube
    return np.array(
        [
            (scanner.columns - 1) / 2 + aside / scanner.pitch,
            (scanner.top - point[2]) / scanner.travel,
        ]
    )


def errors(pair: FilmPair) -> list[str]:
    return sorted({f.code.value for f in pair.findings if f.severity.value == "error"})


@pytest.mark.parametrize("sides", ["AL", "PR", "AR", "PL"])
def test_pixels_of_the_scanners_points(sides: str, tmp_path: Path) -> None:
    pair = describe_pair(write_pair(tmp_path, sides))
    assert not errors(pair)
    for side, film in zip(sides, pair.sides, strict=True):
        assert film.geometry is not None
        assert film.geometry.view is not None
        assert film.info.position == POSITIONS[side]
        for point in (HEAD, np.array([60.0, -80.0, 100.0]), np.array([-70.0, 90.0, -60.0])):
            np.testing.assert_allclose(
                film.geometry.view.project(point), pixel_of(point, side), atol=1e-6
            )


@pytest.mark.parametrize("sides", ["AL", "PR"])
def test_head_and_frame(sides: str, tmp_path: Path) -> None:
    """The oracle's images, in the network's frame, are those of the CT in the scanner's frame."""
    grid = Grid.centred(4.0, 64)
    item = load(describe_pair(write_pair(tmp_path, sides)), grid=grid)
    meta = item["image"].meta
    assert np.linalg.norm(meta["isocentre"] - HEAD) < 4.0
    assert meta["provenance"].isocentre == pytest.approx(meta["isocentre"])
    assert not meta["provenance"].isocentric_assumed
    centre = Grid.from_ras(meta["original_affine"], (64, 64, 64)).affine @ [31.5, 31.5, 31.5, 1.0]
    np.testing.assert_allclose(centre[:3], meta["isocentre"], atol=1e-9)
    hu, place = phantom()
    seen = project_volume(
        torch.from_numpy(attenuation(hu))[None],
        torch.from_numpy(place.moved(-meta["isocentre"]).affine)[None],
        meta["projection"][None],
        (256, 256),
    )[0].numpy()
    for image_, own, mask in zip(item["image"].numpy(), seen, item["mask"].numpy(), strict=True):
        inside = mask & (image_ < 1)
        assert np.corrcoef(image_[inside], own[inside])[0, 1] > 0.995


def test_order_of_the_files_does_not_matter(tmp_path: Path) -> None:
    frontal, lateral = write_pair(tmp_path)
    one, other = describe_pair([frontal, lateral]), describe_pair([lateral, frontal])
    assert [side.film and side.film.path for side in one.sides] == [frontal, lateral]
    assert [side.film and side.film.path for side in other.sides] == [frontal, lateral]


@pytest.mark.parametrize("scanner", ["Philips", "GE", "Canon"])
@pytest.mark.parametrize("sides", ["AL", "PR"])
def test_written_localisers_are_read_as_they_were(scanner: str, sides: str, tmp_path: Path) -> None:
    views, paths = [], []
    for number, side in enumerate(sides, 1):
        position = ViewPosition(POSITIONS[side])
        view = slot_view(
            position, sod=541.0, sdd=949.0, spacing=(2.5, 3.0), shape=(120, 160), axis=(7.0, -9.0)
        )
        paths.append(tmp_path / f"{number}.dcm")
        write_localiser(
            paths[-1],
            image(side),
            view,
            position,
            SyntheticIdentity("localisers"),
            sod=541.0,
            scanner=scanner,
            instance_number=number,
        )
        views.append(view)
    pair = describe_pair(paths)
    assert not errors(pair)
    for side, view in zip(pair.sides, views, strict=True):
        assert side.geometry is not None
        assert side.geometry.view is not None
        np.testing.assert_allclose(side.geometry.view.matrix, view.matrix, rtol=1e-6, atol=1e-6)


# ---- side of the tube

#: Right and top of the gantry, seen from the table's end, as the patient lies.
LYING = {
    "HFS": ("L", "A"),
    "FFS": ("R", "A"),
    "HFP": ("R", "P"),
    "FFP": ("L", "P"),
}


@pytest.mark.parametrize("patient", LYING)
def test_tube_angle_is_the_gantrys(patient: str, tmp_path: Path) -> None:
    right, top = LYING[patient]
    tubes = {"PatientPosition": patient, "AngularPosition": None, "Manufacturer": "X"}
    paths = write_pair(
        tmp_path,
        top + right,
        frontal={**tubes, "TubeAngle": 0.0},
        lateral={**tubes, "TubeAngle": 90.0},
    )
    pair = describe_pair(paths)
    assert not errors(pair)
    assert [side.info.position for side in pair.sides] == [POSITIONS[top], POSITIONS[right]]


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, ""),
        ({"AngularPosition": None}, "lateral"),
        ({"AngularPosition": 45}, "lateral"),
        ({"Manufacturer": "SIEMENS"}, "lateral"),
        ({"PatientPosition": None}, "lateral"),
        ({"PatientPosition": "FFS"}, "lateral"),
        ({"PatientPosition": "HFP"}, "lateral"),
        ({"PatientPosition": "HFDR"}, "lateral"),
    ],
)
def test_an_angle_that_may_mean_either_side_is_asked_for(
    changes: dict[str, Any], asked: str, tmp_path: Path
) -> None:
    paths = write_pair(tmp_path, lateral=changes)
    pair = describe_pair(paths)
    found = [f for f in pair.findings if f.code.value == "E25"]
    assert [f.role for f in found] == [asked] * bool(asked)
    stated = PairOverrides.from_mapping({"lateral": {"tube_side": "R"}})
    answered = describe_pair(paths, stated)
    assert not errors(answered)
    assert answered.lateral.info.position == "LL"


def test_a_stated_side_must_fit_the_plane(tmp_path: Path) -> None:
    stated = PairOverrides.from_mapping({"lateral": {"tube_side": "A"}})
    assert errors(describe_pair(write_pair(tmp_path), stated)) == ["E25"]


def test_ge_pair_of_pydicom() -> None:
    """A patient who lies feet first: 0 is above him either way, 90 may be at his left or right."""
    folder = Path(pydicom.data.__file__).parent / "test_files/dicomdirtests/98892001/CT2N"
    films = {name: describe(folder / name) for name in ("6924", "6293")}
    for film, plane, azimuth in zip(films.values(), ("frontal", "lateral"), (0, 90), strict=True):
        assert film.kind == "CT localiser"
        assert film.ct is not None
        assert film.ct.plane == plane
        assert film.ct.angles[-1] == ("Tube Azimuth (0019,1026)", azimuth)
        assert (film.sdd, film.source_to_patient) == (949.075012, 541.0)
        assert film.pixel_spacing == (0.545455, 0.596847)
        assert film.ct.tilt == 0
    assert films["6924"].ct is not None
    assert films["6924"].ct.tube_side()[0] == "A"
    pair = describe_pair([folder / "6924", folder / "6293"])
    assert ("E25", "lateral") in {(f.code.value, f.role) for f in pair.findings}


# ---- axis, plane, frame

REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "another frame": ("E26", {}, {"FrameOfReferenceUID": "1.2.3.9"}),
    "no frame": ("E26", {"FrameOfReferenceUID": None}, {"FrameOfReferenceUID": None}),
    "tilt": ("E26", {}, {"GantryDetectorTilt": -15}),
    "oblique plane": (
        "E08 E26",
        {"ImageOrientationPatient": [0.94, 0.34202, 0, 0, 0, -1]},
        {},
    ),
    "no plane": ("E08 E26", {"ImageOrientationPatient": None}, {}),
    "no position": ("E08 E26", {}, {"ImagePositionPatient": None}),
    "elsewhere": ("E26", {}, {"ImagePositionPatient": [-6.0, -227.5, 500.0]}),
    "no pixel spacing": ("E12", {"PixelSpacing": None}, {}),
    "no detector distance": ("E11 E14", {"DistanceSourceToDetector": None}, {}),
    "no source distance": ("E14", {}, {"DistanceSourceToPatient": None}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_geometry(name: str, tmp_path: Path) -> None:
    codes, frontal, lateral = REFUSED[name]
    pair = describe_pair(write_pair(tmp_path, frontal=frontal, lateral=lateral))
    found = errors(pair)
    assert set(found) <= {*codes.split(), "E26"}
    assert set(found) & set(codes.split())
    assert all(f.action and f.attribute for f in pair.findings)


def cropped(path: Path, columns: slice) -> None:
    """Crop the columns as an editor does: image and position change, nothing else."""
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array[:, columns]
    step = np.array(dataset.ImageOrientationPatient[:3], float) * float(dataset.PixelSpacing[1])
    position = np.array(dataset.ImagePositionPatient, float) + (columns.start or 0) * step
    dataset.ImagePositionPatient = [f"{v:.6f}" for v in position]
    dataset.Columns, dataset.PixelData = pixels.shape[1], pixels.tobytes()
    dataset.save_as(path)


@pytest.mark.parametrize("which", [0, 1])
def test_cropped_columns_of_one_view(which: int, tmp_path: Path) -> None:
    paths = write_pair(tmp_path)
    cropped(paths[which], slice(20, 110))
    pair = describe_pair(paths)
    assert not errors(pair)
    side = pair.sides[which]
    assert side.geometry is not None
    assert side.geometry.view is not None
    expected = pixel_of(HEAD, "AL"[which]) - [20, 0]
    np.testing.assert_allclose(side.geometry.view.project(HEAD), expected, atol=1e-4)


def test_cropped_columns_of_both_views_hide_the_axis(tmp_path: Path) -> None:
    paths = write_pair(tmp_path)
    for path in paths:
        cropped(path, slice(20, 110))
    pair = describe_pair(paths)
    assert errors(pair) == ["E26"]
    assert pair.pair_findings[-1].attribute == "DataCollectionCenterPatient"


def test_a_stated_centre_is_the_axis(tmp_path: Path) -> None:
    centre = {"DataCollectionCenterPatient": [*SCANNER.axis, 0.0]}
    paths = write_pair(tmp_path, frontal=centre, lateral=centre)
    for path in paths:
        cropped(path, slice(20, 110))
    pair = describe_pair(paths)
    assert not errors(pair)
    for side, film in zip("AL", pair.sides, strict=True):
        assert film.geometry is not None
        assert film.geometry.view is not None
        np.testing.assert_allclose(
            film.geometry.view.project(HEAD), pixel_of(HEAD, side) - [20, 0], atol=1e-4
        )


def test_mirrored_columns_and_feet_up(tmp_path: Path) -> None:
    """Orientation and position may run either way; the tube stays where it was."""
    paths = write_pair(tmp_path)
    for path in paths:
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
        orientation = np.array(dataset.ImageOrientationPatient, float)
        spacing = np.array(dataset.PixelSpacing, float)
        far = (
            np.array(dataset.ImagePositionPatient, float)
            + orientation[:3] * spacing[1] * (pixels.shape[1] - 1)
            + orientation[3:] * spacing[0] * (pixels.shape[0] - 1)
        )
        dataset.ImagePositionPatient = far.tolist()
        dataset.ImageOrientationPatient = (-orientation).tolist()
        dataset.PixelData = np.ascontiguousarray(pixels[::-1, ::-1]).tobytes()
        dataset.save_as(path)
    pair = describe_pair(paths)
    assert not errors(pair)
    last = np.array([SCANNER.columns - 1, SCANNER.rows - 1])
    for side, film in zip("AL", pair.sides, strict=True):
        assert film.geometry is not None
        assert film.geometry.view is not None
        np.testing.assert_allclose(
            film.geometry.view.project(HEAD), last - pixel_of(HEAD, side), atol=1e-6
        )
    item = load(pair, grid=Grid.centred(4.0, 64))
    assert np.linalg.norm(item["image"].meta["isocentre"] - HEAD) < 4.0


def test_enhanced_ct(tmp_path: Path) -> None:
    """The same pair with its attributes in functional groups."""
    plain = write_pair(tmp_path / "plain")
    paths = []
    for path, tube in zip(plain, (0.0, 90.0), strict=True):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.NumberOfFrames = 1
        shared = Dataset()
        for sequence, keywords in (
            ("PlaneOrientationSequence", ("ImageOrientationPatient",)),
            ("PixelMeasuresSequence", ("PixelSpacing",)),
            ("CTAcquisitionDetailsSequence", ("GantryDetectorTilt", "DataCollectionDiameter")),
            ("PlanePositionSequence", ("ImagePositionPatient",)),
        ):
            item = Dataset()
            for keyword in keywords:
                setattr(item, keyword, dataset[keyword].value)
                del dataset[keyword]
            setattr(shared, sequence, [item])
        geometry, acquisition = Dataset(), Dataset()
        geometry.DistanceSourceToDetector = float(dataset.DistanceSourceToDetector)
        geometry.DistanceSourceToDataCollectionCenter = float(dataset.DistanceSourceToPatient)
        acquisition.AcquisitionType, acquisition.TubeAngle = "CONSTANT_ANGLE", tube
        shared.CTGeometrySequence, shared.CTAcquisitionTypeSequence = [geometry], [acquisition]
        for keyword in ("DistanceSourceToDetector", "DistanceSourceToPatient", "AngularPosition"):
            del dataset[keyword]
        dataset.SharedFunctionalGroupsSequence = [shared]
        paths.append(tmp_path / path.name)
        dataset.save_as(paths[-1])
    pair = describe_pair(paths)
    assert not errors(pair)
    for side, film in zip("AL", pair.sides, strict=True):
        assert film.geometry is not None
        assert film.geometry.view is not None
        np.testing.assert_allclose(film.geometry.view.project(HEAD), pixel_of(HEAD, side))


# ---- the head


def test_no_head(tmp_path: Path) -> None:
    """A trunk, of which the files say nothing: an elliptic cylinder all along the table."""
    unsaid = {"BodyPartExamined": None}
    paths = write_pair(tmp_path, frontal=unsaid, lateral=unsaid)
    for path, half in zip(paths, (160.0, 110.0), strict=True):
        dataset = pydicom.dcmread(path)
        place = (np.arange(SCANNER.columns) - (SCANNER.columns - 1) / 2) * SCANNER.pitch
        profile = np.sqrt(np.clip(1 - (place / half) ** 2, 0, None)) * 4
        ribs = 1 + 0.1 * np.sin(np.arange(SCANNER.rows)[:, None] / 4)
        dataset.PixelData = np.rint(profile * ribs * 400 + 20).astype("<u2").tobytes()
        dataset.save_as(path)
    with pytest.raises(SpiderError) as caught:
        load(describe_pair(paths), grid=Grid.centred(4.0, 64))
    assert "E30" in {f.code.value for f in caught.value.errors}


def test_a_head_of_which_the_files_say_nothing(tmp_path: Path) -> None:
    unsaid = {"BodyPartExamined": None}
    paths = write_pair(tmp_path, frontal=unsaid, lateral=unsaid)
    item = load(describe_pair(paths), grid=Grid.centred(4.0, 64))
    assert np.linalg.norm(item["image"].meta["isocentre"] - HEAD) < 4.0


@pytest.mark.parametrize("top", [125.0, 150.0])
def test_cut_vertex(top: float, tmp_path: Path) -> None:
    scanner = replace(SCANNER, top=SHIFT[2] + top - 50.0, rows=90)
    item = load(describe_pair(write_pair(tmp_path, scanner=scanner)), grid=Grid.centred(4.0, 64))
    assert np.linalg.norm(item["image"].meta["isocentre"] - HEAD) < 15.0


# ---- real input


def test_real_localiser_agrees_with_its_ct(shared_data: Path) -> None:
    folder = shared_data / "radiographs/localizer"
    path = folder / "philips_lateral_plastic_skull.dcm"
    film: Film = describe(path)
    assert film.ct is not None
    assert film.ct.tube_side()[0] == "L"
    side = judge_film(film, Overrides())
    assert side.geometry is not None
    view = side.geometry.view
    assert isinstance(view, SlotView)
    ct = nibabel.load(folder / "plastic_skull_ct.nii.gz")
    grid = Grid.from_ras(ct.affine, ct.shape)
    mu = attenuation(torch.from_numpy(ct.get_fdata(dtype=np.float32)))

    def simulated(view: SlotView) -> np.ndarray:
        return project_volume(
            mu[None],
            torch.from_numpy(grid.affine)[None],
            torch.from_numpy(view.matrix)[None, None],
            view.shape,
        )[0, 0].numpy()

    real = read_radiograph(path).pixels
    own = simulated(view)

    def pearson(rows: int, columns: int, own: np.ndarray = own) -> float:
        moved = np.roll(own, (rows, columns), axis=(0, 1))
        inside = moved > 0.2
        return float(np.corrcoef(moved[inside], real[inside])[0, 1])

    assert pearson(0, 0) >= 0.83
    steps = [(r, c) for r in range(-3, 4) for c in range(-3, 4)]
    best = max(steps, key=lambda step: pearson(*step))
    assert max(map(abs, best)) <= 1
    wrong = judge_film(film, Overrides(tube_side="R"))
    assert wrong.geometry is not None
    assert isinstance(wrong.geometry.view, SlotView)
    assert pearson(0, 0, simulated(wrong.geometry.view)) < pearson(0, 0) - 0.03
