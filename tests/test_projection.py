"""The projector against closed forms, an independent implementation and finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch

from spider_bundle.geometry import Grid, View, ViewPosition, isocentric_view, rotation_about
from spider_bundle.intensity import attenuation
from spider_bundle.phantom import HeadPhantom
from spider_bundle.projection import project_volume

FloatArray = npt.NDArray[np.float64]
AP, PA, LL, RL = ViewPosition

# Nested and off-centre ellipsoids that add up: centre mm, semi-axes mm, attenuation 1/mm
ELLIPSOIDS = (
    ((0, 0, 0), (75, 95, 100), 0.065),
    ((0, 0, 0), (69, 89, 94), -0.045),
    ((30, 20, 40), (15, 15, 15), 0.03),
    ((-40, -30, -50), (10, 12, 14), -0.02),
)
BLOB_CENTRE, BLOB_SIGMA, BLOB_PEAK = np.array([20.0, -10.0, 30.0]), 20.0, 0.03


def view_of(
    position: ViewPosition,
    turn: Sequence[float] = (0, 0, 0),
    shape: tuple[int, int] = (64, 64),
    pitch: tuple[float, float] = (5.2, 5.2),
    **placement: float | tuple[float, float],
) -> View:
    rotation = np.eye(3)
    for axis, degrees in enumerate(turn):
        rotation = rotation_about(axis, degrees) @ rotation
    return isocentric_view(
        position,
        **{"sod": 1000.0, "sdd": 1150.0, "spacing": pitch, "shape": shape, **placement},
        rotation=rotation,
    )


BIPLANAR = (view_of(AP), view_of(LL))
BEAM_IDS = ["AP", "PA oblique", "LL oblique", "RL oblique", "PA tilted"]
# all four beams, far off the axes of the volume, off-centre, with pixels that are not square
ANY_VIEW = (
    view_of(AP, (0, 0, 0)),
    view_of(PA, (4, -9, 12), pitch=(4.5, 5.5), offset=(9, -6)),
    view_of(LL, (-15, 20, 30), shape=(56, 70), principal_point=(30.0, 28.0)),
    view_of(RL, (25, 5, -40), sod=900, sdd=1150),
    view_of(PA, (33, 0, 0)),
)


def project(
    volume: npt.NDArray, grid: Grid, views: Sequence[View], dtype: torch.dtype = torch.float32
) -> list[FloatArray]:
    """Radiographs of one volume by the projector under test, one view at a time."""
    mu = torch.from_numpy(np.asarray(volume)).to(dtype)[None]
    affine = torch.from_numpy(grid.affine)[None]
    return [
        project_volume(mu, affine, torch.from_numpy(v.matrix)[None, None], v.shape)[0, 0]
        .double()
        .numpy()
        for v in views
    ]


def rays_of(view: View) -> tuple[FloatArray, FloatArray]:
    """Unit directions ``(rows, columns, 3)`` and lengths of the rays to all pixels."""
    rows, columns = view.shape
    pixels = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    ray = view.pixel_position(pixels) - view.source
    length = np.linalg.norm(ray, axis=-1)
    return ray / length[..., None], length


def nrmse(image: FloatArray, truth: FloatArray) -> float:
    """Root mean square error over the largest value of the truth."""
    return float(np.sqrt(np.mean((image - truth) ** 2)) / truth.max())


def ellipsoid_integrals(view: View) -> FloatArray:
    direction, _ = rays_of(view)
    total = np.zeros(view.shape)
    for centre, semi, mu in ELLIPSOIDS:
        d = direction / semi
        o = (view.source - np.array(centre)) / semi
        a, b, c = (d * d).sum(-1), d @ o, o @ o - 1
        total += mu * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a
    return total


def ellipsoid_volume(grid: Grid, supersample: int = 4) -> npt.NDArray[np.float32]:
    """Voxel means of the ellipsoids on an axis-aligned grid."""
    fine_axes = [
        (axis[:, None] + (axis[1] - axis[0]) * ((np.arange(supersample) + 0.5) / supersample - 0.5))
        .ravel()
        .astype(np.float32)
        for axis in grid.axes()
    ]
    volume = np.zeros(grid.shape, dtype=np.float32)
    for centre, semi, mu in ELLIPSOIDS:
        x, y, z = (((a - c) / s) ** 2 for a, c, s in zip(fine_axes, centre, semi, strict=True))
        yz = y[:, None] + z
        for index in range(grid.shape[0]):
            part = x[index * supersample : (index + 1) * supersample]
            inside = sum((yz <= 1 - value).astype(np.uint8) for value in part)
            blocks = inside.reshape(grid.shape[1], supersample, grid.shape[2], supersample)
            volume[index] += mu * blocks.sum(axis=(1, 3)) / supersample**3
    return volume


def blob_integrals(view: View) -> FloatArray:
    direction, _ = rays_of(view)
    distance = np.linalg.norm(np.cross(direction, BLOB_CENTRE - view.source), axis=-1)
    total: FloatArray = (
        BLOB_PEAK * BLOB_SIGMA * np.sqrt(2 * np.pi) * np.exp(-0.5 * (distance / BLOB_SIGMA) ** 2)
    )
    return total


def blob_volume(grid: Grid) -> FloatArray:
    squared = ((grid.points() - BLOB_CENTRE) ** 2).sum(axis=-1)
    volume: FloatArray = BLOB_PEAK * np.exp(-0.5 * squared / BLOB_SIGMA**2)
    return volume


def turned_grid(spacing: Sequence[float], shape: Sequence[int], turn: Sequence[float]) -> Grid:
    """A grid around the isocentre whose axes are oblique to the patient's."""
    ras = np.eye(4)
    for axis, degrees in enumerate(turn):
        ras[:3, :3] = rotation_about(axis, degrees) @ ras[:3, :3]
    ras[:3, :3] = ras[:3, :3] * np.asarray(spacing)
    ras[:3, 3] = -ras[:3, :3] @ (np.asarray(shape) - 1) / 2
    return Grid.from_ras(ras, shape)


# Exact integrals


@pytest.fixture(scope="module")
def ellipsoids_by_spacing() -> dict[float, list[FloatArray]]:
    """Radiographs of the voxelised ellipsoids by voxel size, one per view of ``ANY_VIEW``."""
    grids = {256 / n: Grid.centred(256 / n, n) for n in (32, 64, 128)}
    return {s: project(ellipsoid_volume(g), g, ANY_VIEW) for s, g in grids.items()}


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(ANY_VIEW)), ids=BEAM_IDS)
def test_integrals_of_ellipsoids_converge_with_the_voxel_size(
    ellipsoids_by_spacing: dict[float, list[FloatArray]], index: int
) -> None:
    truth = ellipsoid_integrals(ANY_VIEW[index])
    coarse, middle, fine = (nrmse(ellipsoids_by_spacing[s][index], truth) for s in (8, 4, 2))
    # the error is that of the voxelised edges (0.0119 with this phantom, whatever the projector)
    assert fine < 0.014
    assert 1.7 < coarse / middle < 2.6
    assert 1.7 < middle / fine < 2.6
    bias = ellipsoids_by_spacing[2][index].sum() / truth.sum() - 1
    assert abs(bias) < 2e-3


@pytest.mark.parametrize("index", range(len(ANY_VIEW)), ids=BEAM_IDS)
def test_integrals_of_a_smooth_blob_are_exact_to_second_order(index: int) -> None:
    view = ANY_VIEW[index]
    truth = blob_integrals(view)
    coarse, fine = (
        nrmse(project(blob_volume(grid), grid, [view])[0], truth)
        for grid in (Grid.centred(8, 32), Grid.centred(4, 64))
    )
    assert fine < 7e-4
    assert 3.2 < coarse / fine < 4.8  # a quarter for half the voxel


@pytest.mark.parametrize(
    "grid",
    [
        turned_grid((4, 4, 4), (64, 64, 64), (10, -20, 35)),
        turned_grid((2, 3, 5), (128, 96, 60), (0, 0, 0)),
        turned_grid((2, 3, 5), (128, 96, 60), (-30, 15, 50)),
        turned_grid((-3, 4, -4), (80, 60, 60), (90, 2, -85)),
    ],
    ids=["turned", "anisotropic", "both", "other axis order"],
)
def test_any_affine_gives_the_same_radiographs(grid: Grid) -> None:
    for view, image in zip(ANY_VIEW, project(blob_volume(grid), grid, ANY_VIEW), strict=True):
        assert nrmse(image, blob_integrals(view)) < 8e-4


def test_voxelised_head_has_the_integrals_of_the_exact_head() -> None:
    head = HeadPhantom.nominal()
    errors = {}
    truth = [head.line_integrals(view) for view in BIPLANAR]
    for spacing, size in ((8, 32), (4, 64)):
        grid = Grid.centred(spacing, size)
        hu, _ = head.voxelise(grid, supersample=2)
        images = project(attenuation(hu.astype(np.float64)), grid, BIPLANAR)
        errors[spacing] = [nrmse(i, t) for i, t in zip(images, truth, strict=True)]
    assert max(errors[4]) < 0.017
    for coarse, fine in zip(errors[8], errors[4], strict=True):
        assert 1.6 < coarse / fine < 2.6


@pytest.mark.parametrize(
    "index", [(0, 0, 0), (3, 2, 1), (6, 4, 5)], ids=["corner", "inner", "edge"]
)
@pytest.mark.parametrize("turn", [(0, 0, 0), (8, -15, 20)])
def test_unit_voxel_has_its_volume(index: tuple[int, int, int], turn: Sequence[float]) -> None:
    """The integrals over the solid angle, times the squared distance, are the mass of a voxel."""
    grid = turned_grid((4, 3, 5), (7, 5, 8), turn)
    volume = np.zeros(grid.shape)
    volume[index] = 1.0
    place = grid.points()[index]
    for position in (AP, RL):
        view = view_of(position)
        near = view.resampled((0.25, 0.25), (96, 96), view.project(place))
        image = project(volume, grid, [near], torch.float64)[0]
        assert image[[0, -1]].max() == image[:, [0, -1]].max() == 0  # the whole shadow is seen
        _, length = rays_of(near)
        cosine = near.sdd / length
        solid_angle = 0.25**2 * cosine**3 / near.sdd**2
        mass = (image * solid_angle).sum() * ((place - near.source) ** 2).sum()
        assert mass == pytest.approx(4 * 3 * 5, rel=5e-3)


def test_empty_air_casts_no_shadow_and_rays_that_miss_are_zero() -> None:
    grid = Grid.centred(4, 16)
    assert not project(np.zeros(grid.shape), grid, BIPLANAR)[0].any()
    view = view_of(AP, shape=(32, 32), pitch=(10, 10))
    image = project(np.ones(grid.shape), grid, [view])[0]
    at_isocentre = 10 / view.magnification
    reach = 34 + at_isocentre  # half the cube, its linear border, a pixel
    centres = np.abs((np.arange(32) - 15.5) * at_isocentre)
    assert (image[centres > 1.15 * reach] == 0).all()
    assert (image[:, centres > 1.15 * reach] == 0).all()
    # a ray through the middle of a uniform cube sees its width
    assert image[15:17, 15:17].mean() == pytest.approx(64, rel=1e-3)


# An independent implementation


def rtk_radiograph(volume: FloatArray, grid: Grid, view: View) -> FloatArray:
    """Joseph's projector of RTK with the same geometry, all in LPS mm."""
    itk = pytest.importorskip("itk")
    if not hasattr(itk, "RTK"):  # a lazy attribute of itk, not a module that importorskip finds
        pytest.skip("itk-rtk is not installed")
    rtk = itk.RTK
    pixel_type = itk.Image[itk.F, 3]
    image = itk.image_from_array(np.ascontiguousarray(volume.transpose(2, 1, 0), dtype=np.float32))
    image.SetSpacing(list(grid.spacing))
    image.SetOrigin([float(x) for x in grid.affine[:3, 3]])
    direction = np.ascontiguousarray(grid.affine[:3, :3] / grid.spacing)
    image.SetDirection(itk.matrix_from_array(direction))
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    points = [itk.Point[itk.D, 3]([float(x) for x in v]) for v in (view.source, view.centre)]
    axes = [
        itk.Vector[itk.D, 3]([float(x) for x in v]) for v in (view.column_vector, view.row_vector)
    ]
    assert geometry.AddProjection(*points, *axes)
    rows, columns = view.shape
    detector = rtk.ConstantImageSource[pixel_type].New()
    detector.SetSize([columns, rows, 1])
    detector.SetSpacing([view.spacing[1], view.spacing[0], 1.0])
    detector.SetOrigin(
        [-(columns - 1) / 2 * view.spacing[1], -(rows - 1) / 2 * view.spacing[0], 0.0]
    )
    detector.SetConstant(0.0)
    # New() without the types picks an instantiation that crashes the process
    projector = rtk.JosephForwardProjectionImageFilter[pixel_type, pixel_type].New()
    projector.SetGeometry(geometry)
    projector.SetInput(0, detector.GetOutput())
    projector.SetInput(1, image)
    projector.Update()
    result: FloatArray = itk.array_from_image(projector.GetOutput())[0].astype(np.float64)
    return result


# RTK stops at the detector, so this one stands behind every corner of the volume
BEHIND = tuple(
    view_of(position, turn, sdd=1500.0, sod=sod, pitch=pitch)
    for position, turn, sod, pitch in (
        (AP, (0, 0, 0), 1000.0, (6.5, 6.5)),
        (PA, (4, -9, 12), 1000.0, (6.0, 7.0)),
        (LL, (-15, 20, 30), 1000.0, (6.5, 6.5)),
        (RL, (25, 5, -40), 850.0, (7.5, 7.5)),
        (PA, (33, 0, 0), 1000.0, (6.5, 6.5)),
    )
)


@pytest.mark.slow
@pytest.mark.parametrize("turn", [(0, 0, 0), (-25, 0, 17)], ids=["axis-aligned", "oblique"])
def test_real_heads_agree_with_rtk(shared_data: Path, turn: Sequence[float]) -> None:
    heads = shared_data / "heads"
    coarse = nibabel.load(sorted((heads / "openkbp_4mm").glob("*_ct.nii.gz"))[0])
    fine = nibabel.load(heads / "visible_human_female_head.nii.gz")
    motion = np.eye(3)
    for axis, degrees in enumerate(turn):
        motion = rotation_about(axis, degrees) @ motion
    for image, steps in ((coarse, (1, 1, 1)), (fine, (2, 2, 3))):
        hu = np.asarray(image.dataobj)[tuple(slice(None, None, s) for s in steps)]
        mu = attenuation(hu.astype(np.float64))
        # what a volume does beyond its outermost voxel centres differs by convention
        inner = np.zeros_like(mu)
        inner[1:-1, 1:-1, 1:-1] = mu[1:-1, 1:-1, 1:-1]
        affine = np.eye(4)
        affine[:3, :3] = motion @ image.affine[:3, :3] @ np.diag(steps)
        affine[:3, 3] = -affine[:3, :3] @ (np.array(mu.shape) - 1) / 2
        grid = Grid.from_ras(affine, mu.shape)
        for view, mine in zip(BEHIND, project(inner, grid, BEHIND), strict=True):
            assert nrmse(mine, rtk_radiograph(inner, grid, view)) <= 1e-3


# Gradients


def moved(motion: torch.Tensor) -> torch.Tensor:
    """Rigid motion ``(4, 4)`` of a rotation vector (radians) and a shift (mm), shape ``(6,)``."""
    a, b, c, x, y, z = motion
    zero = torch.zeros_like(a)
    generator = [
        torch.stack(row)
        for row in ([zero, -c, b, x], [c, zero, -a, y], [-b, a, zero, z], [zero] * 4)
    ]
    return torch.linalg.matrix_exp(torch.stack(generator))


def test_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    volume = torch.rand((2, 4, 5, 6), generator=generator, dtype=torch.float64)
    grids = [turned_grid((9, 7, 8), (4, 5, 6), turn) for turn in ((0, 0, 0), (9, -4, 20))]
    affine = torch.from_numpy(np.stack([grid.affine for grid in grids]))
    views = (view_of(AP, (3, 2, 8), (3, 4), (13, 11)), view_of(RL, (0, 0, 5), (3, 4), (13, 11)))
    matrices = torch.from_numpy(np.stack([view.matrix for view in views]))
    pose = 0.02 * torch.rand((2, 6), generator=generator, dtype=torch.float64)

    def radiographs(volume: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        motion = torch.stack([moved(row) for row in pose])
        return project_volume(volume, affine, matrices @ motion[:, None], (3, 4))

    assert radiographs(volume, pose).min() > 0  # every ray carries a gradient
    assert torch.autograd.gradcheck(
        radiographs, (volume.requires_grad_(), pose.requires_grad_()), atol=1e-5, rtol=1e-4
    )


def test_pose_gradient_is_the_motion_of_the_exact_shadow() -> None:
    """In float32, as in training; the derivative of the closed form is the truth."""
    grid = Grid.centred(4, 64)
    volume = torch.from_numpy(blob_volume(grid)).float()[None]
    view = view_of(PA, (4, -9, 12))
    weights = np.random.default_rng(0).uniform(-1, 1, size=view.shape)
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    motion = moved(torch.cat([torch.zeros(3, dtype=torch.float64), shift]))
    image = project_volume(
        volume,
        torch.from_numpy(grid.affine)[None],
        (torch.from_numpy(view.matrix) @ motion)[None, None],
        view.shape,
    )[0, 0]
    (image * torch.from_numpy(weights)).sum().backward()
    expected = []
    for axis in np.eye(3):
        # a blob moved by +x is the blob seen from a view moved by -x
        ahead, behind = (
            (weights * blob_integrals(moved_view(view, -sign * axis))).sum() for sign in (1, -1)
        )
        expected.append((ahead - behind) / 2)
    assert shift.grad is not None
    np.testing.assert_allclose(shift.grad, expected, atol=0.02 * np.abs(expected).max())


def moved_view(view: View, shift: FloatArray) -> View:
    return View(
        view.source + shift,
        view.centre + shift,
        view.column_vector,
        view.row_vector,
        view.spacing,
        view.shape,
    )


# Batches, chunks, devices


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three cases with their own volumes, grids and pairs of views."""
    generator = np.random.default_rng(5)
    volumes = generator.uniform(0, 0.04, size=(3, 20, 24, 16)).astype(np.float32)
    affines = [turned_grid((5, 4, 6), (20, 24, 16), generator.uniform(-20, 20, 3)) for _ in volumes]
    views = [
        [view_of(p, generator.uniform(-20, 20, 3), (24, 20), (9, 9)).matrix for p in (AP, LL)]
        for _ in volumes
    ]
    return (
        torch.from_numpy(volumes),
        torch.from_numpy(np.stack([grid.affine for grid in affines])),
        torch.from_numpy(np.array(views)),
    )


def test_batch_is_the_loop_over_its_cases_and_views() -> None:
    volumes, affines, matrices = batch()
    together = project_volume(volumes, affines, matrices, (24, 20))
    assert together.shape == (3, 2, 24, 20)
    for case, view in np.ndindex(3, 2):
        alone = project_volume(
            volumes[case : case + 1],
            affines[case : case + 1],
            matrices[case : case + 1, view : view + 1],
            (24, 20),
        )
        torch.testing.assert_close(together[case, view], alone[0, 0])
    assert together.std() > 0.1  # the cases do differ
    assert not torch.allclose(together[0], together[1], rtol=0.1)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes, affines, matrices = batch()
    whole = project_volume(volumes, affines, matrices, (24, 20))
    monkeypatch.setattr("spider_bundle.projection._CPU_SAMPLES", 7 * 24 * 20)
    torch.testing.assert_close(project_volume(volumes, affines, matrices, (24, 20)), whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu() -> None:
    volumes, affines, matrices = batch()
    expected = project_volume(volumes, affines, matrices, (24, 20))
    on_device = project_volume(volumes.cuda(), affines.cuda(), matrices.cuda(), (24, 20))
    torch.testing.assert_close(on_device.cpu(), expected, rtol=1e-4, atol=1e-4)
