"""The analytic head phantom against closed forms, numerical integration and anatomy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from spider_bundle.geometry import Grid, View, ViewPosition, isocentric_view, rotation_about
from spider_bundle.intensity import MU_WATER, attenuation
from spider_bundle.labels import Label
from spider_bundle.phantom import (
    AIR_HU,
    FLOOR,
    HeadPhantom,
    Primitive,
    cylinder,
    ellipsoid,
)

FloatArray = npt.NDArray[np.float64]
HU_OF_LABEL = {
    Label.BACKGROUND: (-1000.0, -1000.0),
    Label.SOFT_TISSUE: (-120.0, 150.0),
    Label.BONE: (251.0, 30000.0),  # metal counts as the bone that carries it
    Label.INTRACRANIAL: (-20.0, 80.0),
    Label.INTERNAL_AIR: (-1000.0, -400.0),
    Label.MANDIBLE: (251.0, 30000.0),
}
BONE, SOFT = Label.BONE, Label.SOFT_TISSUE


def small_view(position: ViewPosition = ViewPosition.AP, size: int = 65, fov: float = 300) -> View:
    pitch = fov / size
    turn = rotation_about(2, 7.0) @ rotation_about(0, -4.0)
    return isocentric_view(
        position, sod=900, sdd=1100, spacing=(pitch, pitch), shape=(size, size), rotation=turn
    )


def rays(view: View) -> tuple[FloatArray, FloatArray]:
    """Unit directions ``(R, C, 3)`` and lengths ``(R, C)`` of the rays to all pixels."""
    rows, columns = view.shape
    pixels = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    vectors = view.pixel_position(pixels) - view.source
    lengths = np.linalg.norm(vectors, axis=-1)
    return vectors / lengths[..., None], lengths


def sphere_chord(view: View, centre: npt.ArrayLike, radius: float) -> FloatArray:
    """Length of each ray of a view inside a sphere, from its distance to the centre."""
    directions, _ = rays(view)
    distance = np.linalg.norm(np.cross(directions, np.asarray(centre) - view.source), axis=-1)
    chord: FloatArray = 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0.0))
    return chord


def rigid(seed: int = 0) -> FloatArray:
    generator = np.random.default_rng(seed)
    motion = np.eye(4)
    for axis in range(3):
        motion[:3, :3] = motion[:3, :3] @ rotation_about(axis, generator.uniform(-40, 40))
    motion[:3, 3] = generator.uniform(-20, 20, 3)
    return motion


@pytest.fixture(scope="module")
def nominal() -> HeadPhantom:
    return HeadPhantom.nominal()


@pytest.fixture(scope="module")
def individual() -> HeadPhantom:
    return HeadPhantom.random(5)


def test_integral_of_a_sphere_is_chord_times_attenuation() -> None:
    view = small_view()
    phantom = HeadPhantom((ellipsoid((12, -7, 20), 45, 500, BONE),))
    expected = sphere_chord(view, (12, -7, 20), 45) * 1.5 * MU_WATER
    assert expected.max() > 2.6
    np.testing.assert_allclose(phantom.line_integrals(view), expected, atol=1e-9)


def test_later_primitive_overrides_an_earlier_one() -> None:
    view = small_view()
    shell = HeadPhantom((ellipsoid((0, 0, 0), 60, 1000, BONE), ellipsoid((5, 3, 2), 50, 0, SOFT)))
    outer, inner = sphere_chord(view, (0, 0, 0), 60), sphere_chord(view, (5, 3, 2), 50)
    expected = MU_WATER * (2 * (outer - inner) + inner)
    np.testing.assert_allclose(shell.line_integrals(view), expected, atol=1e-9)
    buried = HeadPhantom(shell.primitives[::-1])
    np.testing.assert_allclose(buried.line_integrals(view), 2 * MU_WATER * outer, atol=1e-9)


def test_more_layers_on_one_ray_than_bits_in_a_word() -> None:
    view = small_view(size=33)
    radii = np.linspace(100, 2, 130)
    hu = np.random.default_rng(1).uniform(-500, 2000, 130)
    phantom = HeadPhantom(
        tuple(ellipsoid((0, 0, 0), r, h, BONE) for r, h in zip(radii, hu, strict=True))
    )
    chords = np.stack([sphere_chord(view, (0, 0, 0), r) for r in [*radii, 0.0]])
    expected = np.tensordot(attenuation(hu), chords[:-1] - chords[1:], axes=1)
    np.testing.assert_allclose(phantom.line_integrals(view), expected, atol=1e-8)


@pytest.mark.parametrize("position", list(ViewPosition))
def test_ray_along_a_cylinder_sees_its_length(position: ViewPosition) -> None:
    view = isocentric_view(position, sod=900, sdd=1100, spacing=(1, 1), shape=(3, 3))
    end = 40 * position.beam
    across = np.roll(position.beam, 1)
    phantom = HeadPhantom((cylinder(-end, end, (20, 10), 0, SOFT, across),))
    assert phantom.line_integrals(view)[1, 1] == pytest.approx(80 * MU_WATER, abs=1e-12)
    outside = phantom.transformed(
        np.block([[np.eye(3), 30 * across[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])
    )
    assert outside.line_integrals(view)[1, 1] == 0.0


def test_cut_sphere_splits_into_two_parts_of_the_same_integral() -> None:
    view = small_view(ViewPosition.RL)
    ball = ellipsoid((5, 5, 5), 50, 0, SOFT)
    normal = np.array([0.6, 0.0, 0.8])
    low, high = ball.cut(normal, 20.0), ball.cut(-normal, -20.0)
    parts = [HeadPhantom((part,)).line_integrals(view) for part in (low, high)]
    assert min(part.max() for part in parts) > 0.5
    np.testing.assert_allclose(sum(parts), MU_WATER * sphere_chord(view, (5, 5, 5), 50), atol=1e-9)


def test_only_the_part_between_source_and_detector_counts() -> None:
    view = isocentric_view(ViewPosition.LL, sod=900, sdd=1100, spacing=(1, 1), shape=(1, 1))
    at_detector = HeadPhantom((ellipsoid(view.centre, 30, 0, SOFT),))
    at_source = HeadPhantom((ellipsoid(view.source, 30, 0, SOFT),))
    assert at_detector.line_integrals(view)[0, 0] == pytest.approx(30 * MU_WATER)
    assert at_source.line_integrals(view)[0, 0] == pytest.approx(30 * MU_WATER)


@pytest.mark.parametrize("position", [ViewPosition.PA, ViewPosition.LL])
def test_integrals_of_the_head_agree_with_numerical_integration(
    individual: HeadPhantom, position: ViewPosition
) -> None:
    view = small_view(position)
    directions, _ = rays(view)
    integrals = individual.line_integrals(view)
    chosen = np.random.default_rng(0).choice(np.argwhere(integrals > 0.5), 40, replace=False)
    step = 0.05
    depth = np.arange(900 - 190, 900 + 190, step) + step / 2
    for row, column in chosen:
        points = view.source + depth[:, None] * directions[row, column]
        numerical = attenuation(individual.hu(points)).sum() * step
        # Each of about 50 interfaces may be misplaced by half a step of up to 0.06 / mm.
        assert integrals[row, column] == pytest.approx(numerical, abs=0.01)


def test_moving_head_and_view_together_changes_nothing(individual: HeadPhantom) -> None:
    view, motion = small_view(ViewPosition.LL), rigid(3)
    turn, shift = motion[:3, :3], motion[:3, 3]
    moved = replace(
        view,
        source=turn @ view.source + shift,
        centre=turn @ view.centre + shift,
        column_vector=turn @ view.column_vector,
        row_vector=turn @ view.row_vector,
    )
    still = individual.line_integrals(view)
    np.testing.assert_allclose(
        individual.transformed(motion).line_integrals(moved), still, atol=1e-8
    )
    assert np.abs(individual.transformed(motion).line_integrals(view) - still).max() > 0.5


def test_transformed_head_has_the_same_tissue_at_the_moved_points(individual: HeadPhantom) -> None:
    points = np.random.default_rng(2).uniform(-100, 100, (4000, 3))
    motion = rigid(4)
    moved = individual.transformed(motion)
    there = points @ motion[:3, :3].T + motion[:3, 3]
    np.testing.assert_array_equal(moved.hu(there), individual.hu(points))
    np.testing.assert_array_equal(moved.labels(there), individual.labels(points))


@pytest.mark.parametrize("matrix", [np.diag([2.0, 2, 2, 1]), np.diag([-1.0, 1, 1, 1])])
def test_scaling_and_mirroring_are_not_rigid(nominal: HeadPhantom, matrix: FloatArray) -> None:
    with pytest.raises(ValueError, match="rigid"):
        nominal.transformed(matrix)


def test_result_does_not_depend_on_how_rays_are_cut_into_blocks(
    individual: HeadPhantom,
) -> None:
    """A 300 x 300 image takes several blocks of rows, its crop only one."""
    view = small_view(size=300)
    crop = view.cropped(95, 120, (40, 50))
    whole = individual.line_integrals(view)
    np.testing.assert_allclose(
        individual.line_integrals(crop), whole[95:135, 120:170], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("position", list(ViewPosition))
def test_markers_appear_where_the_view_projects_them(
    nominal: HeadPhantom, position: ViewPosition
) -> None:
    view = small_view(position, size=256)
    for place in [(30.0, -40.0, 60.0), (-50.0, 20.0, -30.0), (0.0, 0.0, 0.0)]:
        marked = nominal.with_markers([place], radius_mm=3.0, hu=20000.0)
        shadow = marked.line_integrals(view) - nominal.line_integrals(view)
        expected = view.project(place)
        row, column = np.unravel_index(np.argmax(shadow), shadow.shape)
        assert np.abs(expected - (column, row)).max() <= 1.0
        i, j = np.indices(shadow.shape)
        centroid = np.array([(j * shadow).sum(), (i * shadow).sum()]) / shadow.sum()
        assert np.abs(centroid - expected).max() < 0.1
        assert marked.hu(place) == 20000.0


HALF_BALL = ellipsoid((3, 2, 1), 30, 0, SOFT, rotation_about(0, 30)).cut((0, 0.6, 0.8), 2.0)


@pytest.mark.parametrize(
    ("body", "volume"),
    [
        (ellipsoid((3, 2, 1), (10, 20, 30), 0, SOFT, rotation_about(1, 25)), 4 / 3 * np.pi * 6000),
        (cylinder((-9, 0, -20), (9, 5, 20), (12, 20), 0, SOFT), np.pi * 240 * np.sqrt(1949)),
        (HALF_BALL, 2 / 3 * np.pi * 27000),
    ],
)
def test_voxelised_volume_is_the_volume_of_the_body(body: Primitive, volume: float) -> None:
    hu, labels = HeadPhantom((body,)).voxelise(Grid.centred(1.0, 80), supersample=2)
    assert np.count_nonzero(labels == SOFT) == pytest.approx(volume, rel=0.01)
    assert (hu + 1000.0).sum() / 1000.0 == pytest.approx(volume, rel=2e-3)


def turned_grid() -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = rotation_about(0, 20) @ rotation_about(2, 65) @ np.diag([3.1, -4.3, 5.7])
    affine[:3, 3] = affine[:3, :3] @ (-19.5, -17.5, -14.5) + (3.0, 1.0, -4.0)
    return Grid((40, 36, 30), affine)


def test_voxels_hold_the_tissue_at_their_centres(individual: HeadPhantom) -> None:
    for grid in (turned_grid(), Grid.centred((5, 6, 7), 40)):
        hu, labels = individual.voxelise(grid)
        np.testing.assert_array_equal(hu, np.rint(individual.hu(grid.points())))
        np.testing.assert_array_equal(labels, individual.labels(grid.points()))
        assert set(np.unique(labels)) == set(Label)


def test_supersampled_voxels_are_means_and_majorities(individual: HeadPhantom) -> None:
    grid = turned_grid()
    grid, n = Grid((14, 36, 30), grid.affine), 3
    hu, labels = individual.voxelise(grid, supersample=n)
    offsets = (np.indices((n, n, n)).reshape(3, -1).T - (n - 1) / 2) / n
    points = grid.points()[..., None, :] + offsets @ grid.affine[:3, :3].T
    np.testing.assert_allclose(hu, individual.hu(points).mean(axis=-1), atol=0.5 + 1e-6)
    votes = individual.labels(points)
    counts = np.stack([(votes == label).sum(axis=-1) for label in sorted(Label)], axis=-1)
    winners = np.take_along_axis(counts, labels[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_array_equal(winners, counts.max(axis=-1))


def test_supersampling_less_than_once_is_refused(nominal: HeadPhantom) -> None:
    with pytest.raises(ValueError, match="supersample"):
        nominal.voxelise(Grid.centred(8.0, 8), supersample=0)


def test_a_seed_fixes_the_head_and_another_seed_gives_another() -> None:
    grid = Grid.centred(6.0, 44)
    first, again, other = (HeadPhantom.random(seed).voxelise(grid) for seed in (8, 8, 9))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    head = (first[1] > 0) | (other[1] > 0)
    assert np.mean(first[1][head] != other[1][head]) > 0.05


HEADS = [pytest.param(None, id="nominal"), *range(6)]


def head(seed: int | None) -> HeadPhantom:
    return HeadPhantom.nominal() if seed is None else HeadPhantom.random(seed)


@pytest.mark.parametrize("seed", HEADS)
def test_hu_never_contradicts_the_label(seed: int | None) -> None:
    phantom = head(seed)
    for primitive in phantom.primitives:
        low, high = HU_OF_LABEL[primitive.label]
        assert low <= primitive.hu <= high, primitive.label
    hu, labels = phantom.voxelise(Grid.centred(4.0, 64))
    assert (hu[labels == Label.BACKGROUND] == AIR_HU).all()
    bone = np.isin(labels, (Label.BONE, Label.MANDIBLE))
    np.testing.assert_array_equal(hu > 250, bone)
    np.testing.assert_array_equal(hu < -400, np.isin(labels, (0, Label.INTERNAL_AIR)))


@pytest.mark.parametrize("seed", HEADS)
def test_size_and_volumes_are_those_of_an_adult_head(seed: int | None) -> None:
    phantom = head(seed)
    grid = Grid.centred(3.0, 108)  # larger than the field, to see what sticks out of it
    _, labels = phantom.voxelise(grid)
    points = grid.points()
    body = points[labels > 0]
    assert np.abs(body).max() < 128
    assert FLOOR <= body[:, 2].min() < FLOOR + 4  # a flat end of the neck
    skull = points[labels == Label.INTRACRANIAL]
    low, high = skull.min(axis=0), skull.max(axis=0)
    assert 110 < high[0] - low[0] < 150
    assert 145 < high[1] - low[1] < 185
    above_ears = body[body[:, 2] > 20]
    assert 125 < np.ptp(above_ears[:, 0]) < 170
    assert 165 < np.ptp(above_ears[:, 1]) < 210
    assert 205 < body[:, 2].max() - points[labels == Label.MANDIBLE][:, 2].min() < 245
    millilitres = np.bincount(labels.ravel(), minlength=len(Label)) * 27 / 1000
    assert 1050 < millilitres[Label.INTRACRANIAL] < 1950  # adult range about 1100 to 1800
    assert 350 < millilitres[BONE] < 1000
    assert 45 < millilitres[Label.MANDIBLE] < 110
    assert 40 < millilitres[Label.INTERNAL_AIR] < 150


@pytest.mark.parametrize("seed", HEADS)
def test_internal_air_is_inside_the_skin(seed: int | None) -> None:
    phantom = head(seed)
    grid = Grid.centred(2.5, 102)
    air = phantom.voxelise(grid)[1] == Label.INTERNAL_AIR
    filled = HeadPhantom(tuple(p for p in phantom.primitives if p.label is not Label.INTERNAL_AIR))
    outside = filled.voxelise(grid)[1][air] == Label.BACKGROUND
    assert outside.mean() < 1e-3


@pytest.mark.parametrize(
    ("place", "label"),
    [
        ((0, 24, -6), Label.INTRACRANIAL),  # brainstem
        ((0, 0, 60), Label.INTRACRANIAL),
        ((0, 70, -15), Label.INTRACRANIAL),  # cerebellum
        ((32, -71, -1), SOFT),  # left eye
        ((-32, -71, -1), SOFT),
        ((25, -53, -36), Label.INTERNAL_AIR),  # maxillary sinus
        ((7, -15, -9), Label.INTERNAL_AIR),  # sphenoid sinus
        ((10, -77, 20), Label.INTERNAL_AIR),  # frontal sinus
        ((0, -6, -60), Label.INTERNAL_AIR),  # pharynx
        ((0, -17, -122), Label.INTERNAL_AIR),  # trachea
        ((62, 13, -21), Label.INTERNAL_AIR),  # ear canal
        ((0, -86, -104), Label.MANDIBLE),  # chin
        ((51, -2, -25), Label.MANDIBLE),  # condyle
        ((-46, -13, -72), Label.MANDIBLE),  # angle
        ((3, -81, -76), Label.MANDIBLE),  # lower incisor
        ((3, -82, -64), BONE),  # upper incisor
        ((0, 16, -55), BONE),  # dens
        ((0, 12, -87), BONE),  # third cervical vertebra
        ((64, -30, -26), BONE),  # zygomatic arch
        ((0, 5, 101), BONE),  # vertex
        ((0, -105, -34), SOFT),  # tip of the nose
        ((0, -125, -34), Label.BACKGROUND),
        ((100, 0, 0), Label.BACKGROUND),
    ],
)
def test_anatomy_is_where_it_belongs(
    nominal: HeadPhantom, place: tuple[float, float, float], label: Label
) -> None:
    assert nominal.labels(place) == label


def test_nominal_head_is_symmetric(nominal: HeadPhantom) -> None:
    points = np.random.default_rng(6).uniform(-110, 110, (20000, 3))
    mirrored = points * (-1, 1, 1)
    assert np.mean(nominal.labels(points) != nominal.labels(mirrored)) < 1e-3


def test_some_heads_have_dental_metal_and_the_nominal_one_has_none(nominal: HeadPhantom) -> None:
    def metal(phantom: HeadPhantom) -> list[Label]:
        return [p.label for p in phantom.primitives if p.hu > 3500]

    assert not metal(nominal)
    counts = [len(metal(HeadPhantom.random(seed))) for seed in range(12)]
    assert 0 < sum(count > 0 for count in counts) < 12
