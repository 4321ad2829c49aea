"""The slot scan: its matrix, its rays and its radiographs, beside those of the pinhole."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from spider_bundle.geometry import (
    View,
    ViewPosition,
    isocentric_view,
    rotation_about,
)
from spider_bundle.grid import Grid
from spider_bundle.intensity import attenuation
from spider_bundle.networks import SPIDER
from spider_bundle.phantom import HeadPhantom
from spider_bundle.projection import project_volume
from spider_bundle.projection_matrix import both_cameras, project_points, rays, resize_matrix
from spider_bundle.slot_view import SlotView, slot_view

AP, PA, LL, RL = ViewPosition
LEFT, UP = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
SOD, SDD = 541.0, 949.075


def scan(position: ViewPosition = LL, shape: tuple[int, int] = (60, 50)) -> SlotView:
    return slot_view(
        position,
        sod=SOD,
        sdd=SDD,
        spacing=(3.0, 4.0),
        shape=shape,
        axis=(7.0, -12.0),
        middle=20.0,
    )


@pytest.mark.parametrize("position", ViewPosition)
def test_columns_are_in_perspective_and_rows_are_travel(position: ViewPosition) -> None:
    view = scan(position)
    on_axis = np.array([7.0, -12.0, 20.0])
    np.testing.assert_allclose(view.project(on_axis), [24.5, 29.5], atol=1e-9)
    # 30 mm up is ten rows up wherever the point is: nearer, farther, to the side
    for aside in (0.0, 80.0, -80.0):
        point = on_axis + aside * view.beam + 0.3 * aside * view.column_vector
        assert view.project(point + 30 * UP)[1] == pytest.approx(19.5)
        assert view.project(point + 30 * UP)[0] == pytest.approx(view.project(point)[0])
    # 40 mm aside are ten columns at the axis, more nearer to the tube, fewer near the detector
    for depth in (0.0, 90.0, -90.0):
        point = on_axis + depth * view.beam + 40 * view.column_vector
        assert view.project(point)[0] - 24.5 == pytest.approx(10 * SOD / (SOD + depth))


@pytest.mark.parametrize("position", ViewPosition)
def test_rays_of_a_row_start_at_the_tube_of_that_row(position: ViewPosition) -> None:
    view = scan(position)
    pixels = np.array([[0.0, 0.0], [49.0, 59.0], [13.25, 40.5]])
    source, direction = rays(torch.from_numpy(view.matrix), torch.from_numpy(pixels))
    travel = (pixels[:, 1:] - 29.5) * 3.0 * view.row_vector
    np.testing.assert_allclose(source.numpy(), view.source + travel, atol=1e-9)
    np.testing.assert_allclose((source + direction).numpy(), view.pixel_position(pixels), atol=1e-9)
    for share in (0.3, 0.9):
        np.testing.assert_allclose(
            view.project((source + share * direction).numpy()), pixels, atol=1e-8
        )


def test_a_row_is_a_fan() -> None:
    view = scan()
    fan = view.fan(11)
    points = np.random.default_rng(0).uniform(-70, 70, (20, 3))
    points[:, 2] = fan.centre[2]
    np.testing.assert_allclose(fan.project(points)[:, 0], view.project(points)[:, 0], atol=1e-9)
    np.testing.assert_allclose(view.project(points)[:, 1], 11, atol=1e-9)
    np.testing.assert_allclose(fan.project(points)[:, 1], 0, atol=1e-9)


@pytest.mark.parametrize("camera", ["pinhole", "slot"])
def test_matrix_follows_the_image(camera: str) -> None:
    """Crops, flips, other grids and edge-to-edge resizing, for both cameras."""
    view: View = scan()
    if camera == "pinhole":
        view = isocentric_view(PA, sod=SOD, sdd=SDD, spacing=(2.0, 3.0), shape=(60, 50))
    points = np.random.default_rng(1).uniform(-80, 80, (30, 3))
    pixels = view.project(points)
    rows, columns = view.shape
    np.testing.assert_allclose(view.cropped(7, 5, (20, 30)).project(points), pixels - [5, 7])
    flipped = view.flipped(columns=True, rows=True).project(points)
    np.testing.assert_allclose(flipped, [columns - 1, rows - 1] - pixels)
    halved = torch.from_numpy(resize_matrix((60, 50), (30, 25)) @ view.matrix)
    small = project_points(halved[None, None], torch.from_numpy(points)[None])[0, 0]
    np.testing.assert_allclose(small.numpy(), (pixels - 0.5) / 2, atol=1e-9)


@pytest.mark.parametrize("position", ViewPosition)
def test_canonical_scan_has_square_pixels_about_the_isocentre(position: ViewPosition) -> None:
    seen = scan(position).flipped(columns=True).canonical(1.2, 64, position)
    assert isinstance(seen, SlotView)
    np.testing.assert_allclose(seen.project(np.zeros(3)), [31.5, 31.5], atol=1e-9)
    step = seen.project(12 * seen.column_vector) - seen.project(np.zeros(3))
    np.testing.assert_allclose(step, [10, 0], atol=1e-9)
    np.testing.assert_allclose(
        seen.project([0, 0, 12.0]) - seen.project([0, 0, 0]), [0, -10], atol=1e-9
    )
    with pytest.raises(ValueError, match="travel"):
        seen.transposed()


@pytest.mark.parametrize("position", ViewPosition)
def test_projected_volume_is_the_phantoms_exact_line_integrals(position: ViewPosition) -> None:
    """Voxels through the projector against fans through the analytic phantom."""
    phantom = HeadPhantom.nominal()
    view = slot_view(position, sod=600, sdd=1050, spacing=(11.0, 9.0), shape=(18, 24), axis=(5, -8))
    exact = phantom.line_integrals(view)
    grid = Grid.centred(4.0, 64)
    hu = torch.from_numpy(phantom.voxelise(grid, supersample=2)[0]).float()
    image = project_volume(
        attenuation(hu)[None],
        torch.from_numpy(grid.affine)[None],
        torch.from_numpy(view.matrix)[None, None],
        view.shape,
    )[0, 0].numpy()
    assert exact.max() > 3
    assert np.corrcoef(image.ravel(), exact.ravel())[0, 1] > 0.995
    assert np.abs(image - exact).mean() < 0.03 * exact.max()
    # as a pinhole it is another image
    wrong = project_volume(
        attenuation(hu)[None],
        torch.from_numpy(grid.affine)[None],
        torch.from_numpy(View.matrix.fget(view))[None, None],  # type: ignore[attr-defined]
        view.shape,
    )[0, 0].numpy()
    assert np.abs(wrong - exact).mean() > 3 * np.abs(image - exact).mean()


def mixed() -> torch.Tensor:
    """Two cases: a pinhole and a slot scan, two slot scans."""
    turn = rotation_about(2, 3.0) @ rotation_about(0, 2.0)
    pinhole = isocentric_view(
        PA, sod=900, sdd=1100, spacing=(12.0, 12.0), shape=(32, 32), rotation=turn
    )
    slots = [slot_view(p, sod=SOD, sdd=SDD, spacing=(10.0, 10.0), shape=(32, 32)) for p in (LL, AP)]
    pairs: list[list[View]] = [[pinhole, slots[0]], [slots[1], slots[0]]]
    return torch.from_numpy(np.array([[view.matrix for view in pair] for pair in pairs]))


def test_folded_decoder_gives_what_points_give_for_both_cameras() -> None:
    torch.manual_seed(0)
    network = SPIDER(features=(8, 8, 8, 16), map_channels=8, context_channels=8, image_size=32)
    image, projection = torch.rand(2, 2, 32, 32), mixed()
    x, y, z = torch.linspace(-90, 80, 5), torch.linspace(-70, 90, 4), torch.linspace(-60, 70, 6)
    points = torch.stack(torch.meshgrid(x, y, z, indexing="ij"), -1).reshape(1, -1, 3)
    with torch.no_grad():
        maps = network.encode(image)
        plain = network.decode(maps, projection, points.expand(2, -1, -1))
        folded = network.decode_grid(maps, projection, x, y, z)
        scripted = torch.jit.script(network)(image, projection, points.expand(2, -1, -1))
    expected = plain.transpose(1, 2).reshape(folded.shape)
    assert torch.allclose(folded, expected, atol=1e-4)
    assert torch.allclose(scripted, plain, atol=1e-5)


def test_pinholes_are_accepted_as_3x4() -> None:
    full = mixed()[:1, :1]
    short = full[..., :3, :]
    assert torch.equal(both_cameras(short), full)
    assert both_cameras(full) is full
    points = torch.rand(1, 9, 3, dtype=torch.float64) * 100 - 50
    assert torch.equal(project_points(short, points), project_points(full, points))


def test_real_localizer_shows_its_ct(shared_data: Path) -> None:
    """The CT of a plastic skull, projected by the file's geometry alone, is the image of the file.

    An independent simulation of the same scan reaches a correlation of 0.84; with the tube on the
    other side it is 0.79.
    """
    folder = shared_data / "radiographs" / "localizer"
    dataset = pydicom.dcmread(folder / "philips_lateral_plastic_skull.dcm")
    pixels = dataset.pixel_array.astype(float)
    row_pitch, column_pitch = map(float, dataset.PixelSpacing)
    sod, sdd = float(dataset.DistanceSourceToPatient), float(dataset.DistanceSourceToDetector)
    first = np.array(dataset.ImagePositionPatient, dtype=float)
    columns, down = np.split(np.array(dataset.ImageOrientationPatient, dtype=float), 2)
    rows = pixels.shape[0]
    middle = first + column_pitch * (pixels.shape[1] - 1) / 2 * columns
    middle = middle + row_pitch * (rows - 1) / 2 * down
    ct = nibabel.load(folder / "plastic_skull_ct.nii.gz")
    mu = attenuation(torch.from_numpy(np.asarray(ct.dataobj, dtype=np.float32)))
    affine = torch.from_numpy(np.diag([-1.0, -1.0, 1.0, 1.0]) @ ct.affine)

    def fit(tube: float) -> dict[tuple[int, int], float]:
        """Correlation by shift, for a tube at patient left (1) or right (-1)."""
        view = SlotView(
            middle + tube * sod * LEFT,
            middle - tube * (sdd - sod) * LEFT,
            columns,
            down,
            (row_pitch, column_pitch * sdd / sod),
            pixels.shape,
        )
        matrix = torch.from_numpy(view.matrix)[None, None]
        image = project_volume(mu[None], affine[None], matrix, view.shape)[0, 0].numpy()
        dense = image > 0.2
        return {
            (i, j): float(np.corrcoef(image[dense], np.roll(pixels, (i, j), (0, 1))[dense])[0, 1])
            for i in range(-3, 4)
            for j in range(-3, 4)
        }

    left = fit(1.0)
    assert left[0, 0] >= 0.83
    best = max(left, key=lambda shift: left[shift])
    assert np.abs(best).max() <= 1
    assert max(fit(-1.0).values()) < left[0, 0] - 0.03
