"""From files to the network's image with its meta."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch

from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.provenance import ProvenancedValue
from spider_bundle.dicom.transforms import BiplanarRadiographsd, single_pair
from spider_bundle.errors import Code, Severity, SpiderError
from spider_bundle.geometry import ViewPosition, isocentric_view
from spider_bundle.phantom import HeadPhantom
from spider_bundle.projection_matrix import project_points

MARKER = np.array([31.0, -24.0, 47.0])  # LPS mm: left, anterior, superior


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    phantom = HeadPhantom.nominal().with_markers([MARKER], radius_mm=4.0, hu=60000.0)
    return write_demo_pair(folder, phantom, shape=(240, 240), pitch=1.2)


def test_marker_is_where_the_matrices_say(pair: tuple[Path, Path]) -> None:
    out = BiplanarRadiographsd()({"image": list(pair)})
    image, meta = out["image"], out["image"].meta
    assert image.shape == (2, 256, 256)
    pixels = project_points(
        torch.as_tensor(meta["projection"])[None], torch.from_numpy(MARKER)[None, None].float()
    )[0, :, 0]
    for view in range(2):
        row, column = divmod(int(image[view].argmax()), 256)
        assert abs(column - float(pixels[view, 0])) < 4
        assert abs(row - float(pixels[view, 1])) < 4
    # the canonical image: superior above the middle, left to the right, posterior to the right
    assert float(pixels[0, 1]) < 127.5 < float(pixels[0, 0])
    assert float(pixels[1, 0]) < 127.5


def test_output_grid_travels_in_the_meta(pair: tuple[Path, Path]) -> None:
    meta = BiplanarRadiographsd(spacing=4.0, shape=(40, 50, 60))({"image": list(pair)})[
        "image"
    ].meta
    assert meta["spatial_shape"].tolist() == [40, 50, 60]
    affine = meta["original_affine"].numpy()
    assert np.allclose(affine @ [19.5, 24.5, 29.5, 1], [0, 0, 0, 1])
    assert np.allclose(np.diag(affine), [4, 4, 4, 1])


@pytest.mark.parametrize(
    ("spacing", "shape", "is_cut"),
    [(1.0, None, False), (3.0, None, False), (1.0, 128, True), (2.0, (128, 128, 100), True)],
)
def test_a_grid_that_cuts_the_head_is_warned_of(
    pair: tuple[Path, Path], spacing: float, shape: Any, is_cut: bool
) -> None:
    meta = BiplanarRadiographsd(spacing, shape)({"image": list(pair)})["image"].meta
    found = [one for one in meta["provenance"].findings if one.code is Code.GRID_CUTS_HEAD]
    assert [one.severity for one in found] == [Severity.WARNING] * is_cut


def test_every_way_to_name_a_pair_gives_the_same(pair: tuple[Path, Path]) -> None:
    load = BiplanarRadiographsd()
    images = [
        load({"image": source})["image"].as_tensor()
        for source in (
            str(pair[0].parent),
            {"frontal": str(pair[0]), "lateral": str(pair[1])},
            [pair[1], pair[0]],
        )
    ]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_report_says_where_values_come_from(pair: tuple[Path, Path]) -> None:
    load = BiplanarRadiographsd(overrides={"frontal": {"sod": 900.0}})
    provenance = load({"image": list(pair)})["image"].meta["provenance"]
    frontal, lateral = provenance.views
    assert frontal.geometry["sod"] == ProvenancedValue(900.0, "override", unit="mm")
    assert frontal.geometry["sdd"].attribute == "DistanceSourceToDetector"
    assert lateral.geometry["sod"].source == "attribute"
    assert provenance.isocentric_assumed is True
    # the stated distance is the one that the matrices use: SOD is the depth of the origin
    view = isocentric_view(
        ViewPosition.PA, sod=900.0, sdd=1150.0, spacing=(1.2, 1.2), shape=(240, 240)
    ).canonical(1.2, 256, ViewPosition.PA)
    assert np.allclose(frontal.projection, view.matrix[:3], atol=1e-6)


def test_a_file_or_folder_that_is_not_there_is_named(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pair[0].parent)  # an empty name is not the current folder
    absent = str(tmp_path / "nope")
    for source, name in (
        (absent, absent),
        ([str(pair[0]), absent], absent),
        ({"frontal": absent, "lateral": str(pair[1])}, absent),
        ("", ""),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            BiplanarRadiographsd()({"image": source})
        assert caught.value.filename == name


def test_a_folder_with_something_unreadable_is_refused(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    for path in pair:
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "third.dcm").touch()
    with pytest.raises(SpiderError, match=r"A05 \(pair\) 1 files .*E01") as caught:
        single_pair(tmp_path)
    assert caught.value.__notes__ == [f"E01: {tmp_path / 'third.dcm'}"]
    assert "third" not in str(caught.value)


def test_folder_must_hold_one_study(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with pytest.raises(SpiderError) as nothing:
        single_pair(tmp_path)
    write_demo_pair(tmp_path / "a", name="one", shape=(32, 32), pitch=1.8)
    write_demo_pair(tmp_path / "b", name="two", shape=(32, 32), pitch=1.8)
    with pytest.raises(SpiderError) as two:
        single_pair(tmp_path)
    for caught in (nothing, two):
        assert [found.code for found in caught.value.errors] == [Code.NOT_A_PAIR]
    assert single_pair(tmp_path / "a").frontal.film is not None


def test_unknown_override_is_refused() -> None:
    with pytest.raises(ValueError, match="sodd"):
        BiplanarRadiographsd(overrides={"frontal": {"sodd": 1.0}})


def test_burned_in_text_is_said_unless_it_was_masked(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(pair[1])
    dataset.BurnedInAnnotation = "YES"
    marked = tmp_path / "lateral.dcm"
    dataset.save_as(marked)

    def burned_in(overrides: dict[str, object]) -> object:
        loaded = BiplanarRadiographsd(overrides=overrides)({"image": [pair[0], marked]})
        return loaded["image"].meta["provenance"].burned_in

    assert burned_in({}) == (False, True)
    assert burned_in({"lateral": {"mask_boxes": [[0, 0, 40, 40]]}}) == (False, False)
