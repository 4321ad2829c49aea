"""What was lost in a radiograph is said of all that is derived from it (PS3.3 C.7.6.1.1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.film import describe
from spider_bundle.dicom.load import lossy_compression
from spider_bundle.dicom.lossy import LossyCompression, combined
from spider_bundle.dicom.write import save_dataset
from spider_bundle.geometry import Grid
from spider_bundle.outputs.dicom_ct import DicomIdentity, write_ct_series
from spider_bundle.outputs.dicom_seg import write_segmentation
from tests.outputs.programs import conformance_errors

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
SIZE = 160

STATED = LossyCompression(("ISO_10918_1",), (15.0,))
TWICE = LossyCompression(("ISO_15444_1", "ISO_10918_1"), (7.5, 15.25))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    frontal, lateral = write_demo_pair(folder, shape=(SIZE, SIZE), pitch=1.8)
    return frontal, lateral


def radiograph(
    pair: tuple[Path, Path],
    folder: Path,
    syntax: str = ExplicitVRLittleEndian,
    *,
    view: int = 0,
    **attributes: object,
) -> Path:
    """A radiograph with other statements; in a compressed syntax with a 10th of the bytes."""
    dataset = pydicom.dcmread(pair[view])
    del dataset.LossyImageCompression
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    if syntax != ExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
        # 16 bytes are the item tags around it; nothing here decodes it
        dataset.PixelData = encapsulate([bytes(SIZE * SIZE * 2 // 10 - 16)], has_bot=False)
        dataset["PixelData"].is_undefined_length = True
    target = folder / f"{view}.dcm"
    save_dataset(target, dataset)
    return target


@pytest.mark.parametrize(
    ("syntax", "stated", "wanted"),
    [
        (ExplicitVRLittleEndian, {}, None),
        (ExplicitVRLittleEndian, {"LossyImageCompression": "00"}, None),
        (JPEG_LOSSLESS, {}, None),
        (JPEG_LS_LOSSLESS, {}, None),
        (JPEG_2000_LOSSLESS, {"LossyImageCompression": "00"}, None),
        # decompressed again, and nothing kept of how
        (ExplicitVRLittleEndian, {"LossyImageCompression": "01"}, ((), ())),
        (JPEG_2000_LOSSLESS, {"LossyImageCompression": "01"}, ((), ())),
        (JPEG_BASELINE, {"LossyImageCompression": "01"}, (("ISO_10918_1",), (10.0,))),
        (JPEG_BASELINE, {}, (("ISO_10918_1",), (10.0,))),
        # that syntax always loses something, whatever the file says
        (JPEG_EXTENDED, {"LossyImageCompression": "00"}, (("ISO_10918_1",), (10.0,))),
        (JPEG_LS_NEAR_LOSSLESS, {}, (("ISO_14495_1",), (10.0,))),
        (JPEG_2000, {}, (("ISO_15444_1",), (10.0,))),
        # these may be used without loss
        (JPEG_2000, {"LossyImageCompression": "00"}, None),
        (JPEG_LS_NEAR_LOSSLESS, {"LossyImageCompression": "00"}, None),
        # what the file states goes before what can be derived
        (
            JPEG_2000,
            {
                "LossyImageCompression": "01",
                "LossyImageCompressionMethod": ["ISO_15444_1", "ISO_10918_1"],
                "LossyImageCompressionRatio": ["7.5", "15.25"],
            },
            (TWICE.methods, TWICE.ratios),
        ),
        (
            ExplicitVRLittleEndian,
            {"LossyImageCompression": "01", "LossyImageCompressionRatio": "15"},
            ((), (15.0,)),
        ),
        # a term of its own could name somebody, and a ratio below zero is none
        (
            JPEG_BASELINE,
            {
                "LossyImageCompression": "01",
                "LossyImageCompressionMethod": "DOE_JANE",
                "LossyImageCompressionRatio": "-1",
            },
            (("ISO_10918_1",), (10.0,)),
        ),
        (
            ExplicitVRLittleEndian,
            {"LossyImageCompression": "01", "LossyImageCompressionRatio": ["2"] * 9},
            ((), ()),
        ),
    ],
)
def test_what_a_radiograph_says(
    syntax: str,
    stated: dict[str, object],
    wanted: tuple[tuple[str, ...], tuple[float, ...]] | None,
    pair: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    path = radiograph(pair, tmp_path, syntax, **stated)
    for paths in ((path, pair[1]), (pair[1], path)):
        found = lossy_of(paths)
        assert found == (None if wanted is None else LossyCompression(*wanted))


@pytest.mark.parametrize(
    ("representation", "value"), [("US", 5), ("SQ", [pydicom.Dataset()]), ("LO", "text")]
)
def test_pixel_data_that_are_none_tell_no_ratio(
    representation: str, value: object, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    film = describe(radiograph(pair, tmp_path, JPEG_BASELINE))
    dataset = pydicom.Dataset()
    dataset.add_new("PixelData", representation, value)
    assert lossy_compression(film, dataset) == LossyCompression(("ISO_10918_1",), ())


def lossy_of(paths: Sequence[Path]) -> LossyCompression | None:
    return combined(lossy_compression(describe(path), pydicom.dcmread(path)) for path in paths)


def test_of_two_it_is_that_which_lost_more(pair: tuple[Path, Path], tmp_path: Path) -> None:
    said = {"LossyImageCompression": "01", "LossyImageCompressionMethod": "ISO_10918_1"}
    frontal = radiograph(pair, tmp_path, **said, LossyImageCompressionRatio="8")
    lateral = radiograph(pair, tmp_path, view=1, **said, LossyImageCompressionRatio="15")
    assert lossy_of((frontal, lateral)) == STATED
    assert lossy_of((lateral, frontal)) == STATED


def write(folder: Path, lossy: LossyCompression | None) -> list[Path]:
    """Slices of a CT and the segmentation on it."""
    pytest.importorskip("highdicom")
    grid = Grid.centred(8.0, 4)
    identity = DicomIdentity("0123456789abcdef")
    files = write_ct_series(folder / "ct", np.zeros(grid.shape), grid, identity, lossy)
    labels = np.ones(grid.shape, np.uint8)
    write_segmentation(folder / "seg.dcm", labels, grid, files, identity)
    return [*files, folder / "seg.dcm"]


def values(dataset: pydicom.Dataset, keyword: str) -> list[object]:
    value = dataset.get(keyword, [])
    return list(value) if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]


@pytest.mark.parametrize("lossy", [None, LossyCompression(), STATED, TWICE])
def test_ct_and_segmentation_say_it(lossy: LossyCompression | None, tmp_path: Path) -> None:
    for path in write(tmp_path, lossy):
        dataset = pydicom.dcmread(path)
        assert dataset.LossyImageCompression == ("00" if lossy is None else "01")
        methods = values(dataset, "LossyImageCompressionMethod")
        assert methods == list(lossy.methods if lossy else ())
        assert values(dataset, "LossyImageCompressionRatio") == list(lossy.ratios if lossy else ())


def test_other_losses_make_other_objects(tmp_path: Path) -> None:
    found = [
        {pydicom.dcmread(path).SOPInstanceUID for path in write(tmp_path / str(number), lossy)}
        for number, lossy in enumerate((None, LossyCompression(), STATED, TWICE))
    ]
    assert len(set.union(*found)) == sum(map(len, found)) == 4 * 5


@pytest.mark.integration
@pytest.mark.parametrize("lossy", [None, LossyCompression(), STATED, TWICE])
def test_both_states_conform(lossy: LossyCompression | None, tmp_path: Path) -> None:
    first, *_, segmentation = write(tmp_path, lossy)
    assert conformance_errors(first) == []
    assert conformance_errors(segmentation) == []
