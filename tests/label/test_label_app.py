"""What the MONAI Label app is made of, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from fastapi import HTTPException
from pydicom.dataset import Dataset
from requests import ConnectionError as NoConnectionError

from spider_bundle.cases.case import phantom_case
from spider_bundle.geometry import Grid
from spider_bundle.label_app.heads import LoadEditedHeadd, check_prepared
from spider_bundle.label_app.studies import fetch_radiographs
from spider_bundle.labels import Label
from spider_bundle.phantom import HeadPhantom
from tests.label.placement import SHARE, agreement, assert_placed


@pytest.fixture(scope="module")
def head() -> Any:
    """Label map of the head that the servers' tests reconstruct, on their grid."""
    grid = Grid.centred(4.0, 64)
    _, labels = HeadPhantom.random(3).voxelise(grid, supersample=1)
    return nibabel.Nifti1Image(labels.astype(np.uint8), grid.ras_affine)


def test_a_map_agrees_with_itself_however_it_is_stored(head: Any) -> None:
    turned = head.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    assert not np.array_equal(turned.get_fdata(), head.get_fdata())
    assert agreement(head, head) == 1.0
    assert agreement(turned, head) == 1.0


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [-1.5, -1.0, 1.0, 1.5])
def test_a_planted_shift_is_noticed(head: Any, axis: int, voxels: float) -> None:
    affine = head.affine.copy()
    affine[axis, 3] += voxels * 4.0
    assert agreement(nibabel.Nifti1Image(head.dataobj, affine), head) < SHARE


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [-2, -1, 1, 2])
def test_the_check_of_every_route_notices_a_planted_shift(
    head: Any, axis: int, voxels: int
) -> None:
    assert_placed(head, head)
    rolled = nibabel.Nifti1Image(np.roll(head.dataobj, voxels, axis), head.affine)
    with pytest.raises(AssertionError):
        assert_placed(rolled, head)
    affine = head.affine.copy()
    affine[axis, 3] += voxels * 4.0
    with pytest.raises(AssertionError):
        assert_placed(nibabel.Nifti1Image(head.dataobj, affine), head)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_planted_flip_is_noticed(head: Any, axis: int) -> None:
    flipped = nibabel.Nifti1Image(np.flip(head.dataobj, axis), head.affine)
    assert agreement(flipped, head) < SHARE


def test_swapped_axes_are_noticed(head: Any) -> None:
    for order in ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
        swapped = nibabel.Nifti1Image(np.transpose(head.dataobj, order), head.affine)
        assert agreement(swapped, head) < SHARE


class FakeDicomWeb:
    """The few calls of a DICOMweb client, over series by (study, series, modality)."""

    def __init__(self, series: dict[tuple[str, str, str], int], filters: bool = True) -> None:
        self.series = series
        self.filters = filters
        self.retrieved: list[str] = []

    def search_for_series(self, fields: Any, search_filters: dict[str, str]) -> list[Any]:
        ((keyword, uid),) = search_filters.items()
        position = ("StudyInstanceUID", "SeriesInstanceUID").index(keyword)
        tags = ("0020000D", "0020000E", "00080060")
        return [
            {tag: {"vr": "UI", "Value": [value]} for tag, value in zip(tags, key, strict=True)}
            for key in self.series
            if not self.filters or key[position] == uid
        ]

    def retrieve_series(self, study: str, series: str) -> list[Any]:
        self.retrieved.append(series)
        (count,) = [n for key, n in self.series.items() if key[:2] == (study, series)]
        return [_Saved() for _ in range(count)]

    def retrieve_series_metadata(self, study: str, series: str) -> list[Any]:
        (count,) = [n for key, n in self.series.items() if key[:2] == (study, series)]
        kinds = [["ORIGINAL", "PRIMARY", "LOCALIZER"]] * 2 + [
            ["ORIGINAL", "PRIMARY", "AXIAL"]
        ] * count
        return [
            {"00080008": {"Value": kind}, "00080018": {"Value": [f"{series}.{number}"]}}
            for number, kind in enumerate(kinds)
        ]

    def retrieve_instance(self, study: str, series: str, instance: str) -> Any:
        self.retrieved.append(instance)
        return _Saved()


class _Saved:
    def save_as(self, path: Path, write_like_original: bool) -> None:
        dataset = Dataset()
        assert not write_like_original
        path.write_bytes(dataset.__class__.__name__.encode())


HOSPITAL = {
    ("1.1", "1.1.1", "DX"): 2,
    ("1.2", "1.2.1", "DX"): 1,
    ("1.2", "1.2.2", "CR"): 1,
    ("1.2", "1.2.3", "CT"): 400,
    ("1.2", "1.2.4", "SEG"): 1,
}


@pytest.mark.parametrize("filters", [True, False])
@pytest.mark.parametrize(
    ("uid", "fetched"),
    [
        ("1.1.1", ["1.1.1"]),
        ("1.1", ["1.1.1"]),
        ("1.2.1", ["1.2.1", "1.2.1", "1.2.2"]),
        ("1.2", ["1.2.1", "1.2.2"]),
    ],
)
def test_both_views_are_fetched_and_no_ct(
    uid: str, fetched: list[str], filters: bool, tmp_path: Path
) -> None:
    client = FakeDicomWeb(HOSPITAL, filters)
    fetch_radiographs(client, uid, tmp_path)
    assert client.retrieved == fetched
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.dcm", "0001.dcm"]


def test_of_a_ct_study_only_the_localisers_are_fetched(tmp_path: Path) -> None:
    client = FakeDicomWeb({("1.3", "1.3.1", "CT"): 400, ("1.3", "1.3.2", "SR"): 1})
    fetch_radiographs(client, "1.3", tmp_path)
    assert client.retrieved == ["1.3.1.0", "1.3.1.1"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("uid", ["1.9", "../etc", "1.2/series", ""])
def test_unknown_studies_are_not_found(uid: str, tmp_path: Path) -> None:
    with pytest.raises(HTTPException) as caught:
        fetch_radiographs(FakeDicomWeb(HOSPITAL), uid, tmp_path)
    assert caught.value.status_code == 404
    assert not list(tmp_path.iterdir())


def test_a_dead_server_is_told_apart(tmp_path: Path) -> None:
    class Dead(FakeDicomWeb):
        def search_for_series(self, fields: Any, search_filters: dict[str, str]) -> list[Any]:
            raise NoConnectionError("http://somewhere/1.2")

    with pytest.raises(HTTPException) as caught:
        fetch_radiographs(Dead({}), "1.2", tmp_path)
    assert caught.value.status_code == 502
    assert "somewhere" not in str(caught.value.detail)


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, Any]:
    case = phantom_case(5, spacing=8.0, shape=32)
    edited = case.structure.copy()
    edited[10:12, 10:12, 10:12] = Label.MANDIBLE
    entry: dict[str, Any] = {}
    for name, values in (("image", case.hu), ("label", edited)):
        entry[name] = str(tmp_path / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(values, case.grid.ras_affine), entry[name])
    return entry


def test_edited_labels_are_what_is_trained_on(stored: dict[str, Any]) -> None:
    case = LoadEditedHeadd()(stored)
    assert torch.equal(
        case["structure"],
        torch.from_numpy(np.asarray(nibabel.load(stored["label"]).dataobj)),
    )
    assert (case["structure"][10:12, 10:12, 10:12] == Label.MANDIBLE).all()
    assert not case["ambiguous"].any()
    assert np.allclose(case["affine"], Grid.centred(8.0, 32).affine)


@pytest.mark.parametrize("wrong", ["value", "place", "shape"])
def test_label_maps_that_do_not_fit_are_refused(stored: dict[str, Any], wrong: str) -> None:
    label = nibabel.load(stored["label"])
    values, affine = np.array(label.dataobj), label.affine.copy()
    if wrong == "value":
        values[0, 0, 0] = 9
    elif wrong == "place":
        affine[0, 3] += 8.0
    else:
        values = values[1:]
    nibabel.save(nibabel.Nifti1Image(values, affine), stored["label"])
    with pytest.raises(ValueError, match="label map"):
        LoadEditedHeadd()(stored)


def test_a_ct_away_from_the_isocentre_is_refused(stored: dict[str, Any]) -> None:
    check_prepared(stored["image"], "CT 1")
    image = nibabel.load(stored["image"])
    affine = image.affine.copy()
    affine[2, 3] += 100.0
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(), affine), stored["image"])
    with pytest.raises(ValueError, match="CT 1 does not lie about the isocentre"):
        check_prepared(stored["image"], "CT 1")
