"""The network's image: normalisation, resampling and agreement with its projection matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spider_bundle.dicom.image import (
    network_input,
    normalise_radiograph,
    resample_radiograph,
)
from spider_bundle.geometry import View
from tests.films import read_pair

from .conftest import MARKER, Writer, make_view


def test_normalisation_is_that_of_percentiles_inside_each_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 2, 40, 50, generator=generator) * 7 + 3
    mask = torch.rand(3, 2, 40, 50, generator=generator) > 0.4
    scaled = normalise_radiograph(image, mask)
    for index in np.ndindex(3, 2):
        values = image[index][mask[index]].double().numpy()
        low, high = np.percentile(values, (1, 99))
        expected = np.clip((values - low) / (high - low), 0, 1)
        assert np.abs(scaled[index][mask[index]].numpy() - expected).max() < 1e-5
    assert (scaled[~mask] == 0).all()


def test_normalisation_ignores_gain_offset_and_masked_values() -> None:
    image = torch.rand(64, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[:10] = False
    reference = normalise_radiograph(image, mask)
    changed = torch.where(mask, 5 * image - 3, torch.tensor(1e6))
    assert torch.allclose(normalise_radiograph(changed, mask), reference, atol=1e-5)


@pytest.mark.parametrize("mask", [torch.zeros(8, 8), torch.ones(8, 8)])
def test_nothing_to_scale_gives_zeros_and_finite_gradients(mask: torch.Tensor) -> None:
    image = torch.full((8, 8), 4.0, requires_grad=True)
    scaled = normalise_radiograph(image, mask)
    assert (scaled == 0).all()
    scaled.sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_resampling_keeps_a_linear_image_and_its_place() -> None:
    view = make_view("PA", spacing=(0.6, 0.5), shape=(300, 320))
    rows, columns = np.mgrid[:300, :320]
    ramp = (2.0 * columns - 3.0 * rows).astype(np.float32)
    target = view.resampled((1.5, 1.7), (40, 50), view.project((5.0, 0.0, -7.0)))
    image, mask = resample_radiograph(ramp, np.ones(ramp.shape, bool), view, target)
    grid = np.stack(np.meshgrid(np.arange(50), np.arange(40)), -1)
    where = view.project(target.pixel_position(grid))
    assert mask.all()
    # The kernel's weights are samples of a triangle, so their mean is off by some 0.02 pixels.
    assert np.abs(image - (2 * where[..., 0] - 3 * where[..., 1])).max() < 0.1


def test_resampling_does_not_alias_or_leak() -> None:
    view = make_view("PA", spacing=(0.2, 0.2), shape=(400, 400))
    target = view.resampled((1.4, 1.4), (50, 50), (199.5, 199.5))
    stripes = np.tile([0.0, 1.0], (400, 200)).astype(np.float32)
    image, _ = resample_radiograph(stripes, np.ones((400, 400), bool), view, target)
    assert np.abs(image - 0.5).max() < 0.02
    values = np.ones((400, 400), np.float32)
    usable = np.ones((400, 400), bool)
    values[:, :150], usable[:, :150] = np.nan, False
    image, mask = resample_radiograph(values, usable, view, target)
    assert np.allclose(image[mask], 1.0, atol=1e-5)
    assert (image[~mask] == 0).all()
    # The first usable pixel is the first one whose centre lies beyond the edge.
    first = np.flatnonzero(mask.any(axis=0))[0]
    edge = target.project(view.pixel_position((149.5, 0)))[0]
    assert 0 <= first - edge < 1


@pytest.mark.parametrize("degrees", [-100.0, -8.0, 3.0, 10.0, 170.0])
@pytest.mark.parametrize("pitch", [0.4, 1.3])
def test_rolled_detectors_show_the_same_radiograph(degrees: float, pitch: float) -> None:
    """A smooth image of the detector plane comes out the same, however the pixels lie in it."""
    target = make_view("PA", spacing=(1.4, 1.4), shape=(60, 50))
    angle = np.radians(degrees)
    rolled = View(
        target.source,
        target.centre + np.array([4.0, 0.0, -3.0]),
        np.array([np.cos(angle), 0, np.sin(angle)]),
        np.array([np.sin(angle), 0, -np.cos(angle)]),
        (pitch, pitch),
        (int(150 / pitch), int(140 / pitch)),
    )

    def shade(view: View) -> np.ndarray:
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in view.shape[::-1])), -1)
        x, _, z = np.moveaxis(view.pixel_position(grid), -1, 0)
        return (np.sin(x / 11) * np.cos(z / 9) + 0.01 * x).astype(np.float32)

    image, mask = resample_radiograph(shade(rolled), np.ones(rolled.shape, bool), rolled, target)
    assert mask.all()
    assert np.abs(image - shade(target)).max() < 0.02
    level, _ = resample_radiograph(
        shade(target),
        np.ones(target.shape, bool),
        target,
        target.resampled((1.4, 1.4), (20, 20), (24.5, 29.5)),
    )
    assert np.abs(image[20:40, 15:35] - level).max() < 0.02
    usable = np.ones(rolled.shape, bool)
    usable[: usable.shape[0] // 2] = False
    spoiled = np.where(usable, shade(rolled), np.nan).astype(np.float32)
    image, mask = resample_radiograph(spoiled, usable, rolled, target)
    assert 0.3 < mask.mean() < 0.7
    assert np.abs(image - shade(target))[mask].max() < 0.1


def test_the_marker_is_where_the_projection_says(write: Writer) -> None:
    pair = read_pair(write("PA"), write("LL"))
    seen = network_input(pair)
    assert seen.image.shape == (2, 256, 256)
    assert seen.image.dtype == torch.float32
    assert seen.projection.dtype == torch.float64
    for channel in range(2):
        point = seen.projection[channel].numpy() @ np.array([*MARKER, 1.0])
        column, row = point[:2] / point[2]
        image = seen.image[channel].numpy()
        window = np.s_[int(row) - 9 : int(row) + 10, int(column) - 9 : int(column) + 10]
        bump = np.clip(image[window] - np.median(image[window]) - 0.05, 0, None)
        rows, columns = np.mgrid[window]
        found = ((columns * bump).sum() / bump.sum(), (rows * bump).sum() / bump.sum())
        assert np.hypot(found[0] - column, found[1] - row) < 0.5
    # The marker is left, anterior and superior of the isocentre.
    frontal, lateral = (seen.projection[i].numpy() @ np.array([*MARKER, 1.0]) for i in (0, 1))
    assert frontal[0] / frontal[2] > 127.5
    assert lateral[0] / lateral[2] < 127.5
    assert frontal[1] / frontal[2] < 127.5
    scale = seen.projection[0].numpy() @ np.array([10.0, 0, 0, 1])
    assert scale[0] / scale[2] - 127.5 == pytest.approx(10 / 1.2, rel=1e-6)


@pytest.mark.parametrize(
    ("frontal", "lateral"),
    [(("R", "F"), ("F", "P")), (("F", "L"), ("A", "H")), (("H", "R"), ("A", "F"))],
)
def test_storage_orientation_does_not_matter(
    write: Writer, frontal: tuple[str, str], lateral: tuple[str, str]
) -> None:
    reference = network_input(read_pair(write("PA"), write("LL")))
    paths = write("PA", orientation=frontal), write("LL", orientation=lateral)
    other = network_input(read_pair(*paths))
    assert torch.allclose(other.projection, reference.projection, atol=1e-5)
    assert (other.image - reference.image).abs().max() < 1e-4


def test_bolton_image_is_upright_and_fast(shared_data: Path) -> None:
    folder = shared_data / "radiographs" / "bolton"
    pair = read_pair(folder / "B1893F12.dcm", folder / "B1893L12.dcm")
    seen = network_input(pair)
    lateral = seen.image[1]
    # Air lies before the forehead, to the left, and the vault is to the right.
    assert lateral[90:115, 34:44].mean() < 0.15
    assert lateral[70:120, 130:190].mean() > 0.5
    assert seen.mask[:, 128, 128].all()
    assert not seen.mask[1, :30].any()
