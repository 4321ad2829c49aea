"""Views, matrices and grids: round trips, DICOM conventions and images carried along."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from spider_bundle.geometry import (
    LPS_TO_RAS,
    Grid,
    View,
    ViewPosition,
    angle_between,
    beam_agreement,
    isocentric_view,
    orientation_vector,
    positioner_rotation,
    rotation_about,
)
from spider_bundle.projection_matrix import project_points, rays, resize_matrix

FloatArray = npt.NDArray[np.float64]
AP, PA, LL, RL = ViewPosition
LEFT, POSTERIOR, HEAD = np.eye(3)

angles = st.floats(-20, 20)
inside = st.floats(-120, 120)
points_in_head = st.tuples(inside, inside, inside).map(np.array)
relaxed = settings(deadline=None, max_examples=60)


@st.composite
def views(draw: Callable) -> View:
    """Any view, with its image stored in any of the orientations that agree with the beam."""
    position = draw(st.sampled_from(ViewPosition))
    letters = [pair for pair in product("LRPAHF", repeat=2) if beam_agreement(pair, position) != 0]
    sod = draw(st.floats(500, 1800))
    pitch = st.floats(0.1, 2.0)
    turn = np.eye(3)
    for axis in range(3):
        turn = rotation_about(axis, draw(angles)) @ turn
    shape = (draw(st.integers(2, 60)), draw(st.integers(2, 60)))
    point = st.tuples(st.floats(-50, 450), st.floats(-50, 450))
    return isocentric_view(
        position,
        sod=sod,
        sdd=sod + draw(st.floats(50, 500)),
        spacing=(draw(pitch), draw(pitch)),
        shape=shape,
        orientation=draw(st.sampled_from(letters)),
        rotation=turn,
        offset=(draw(st.floats(-30, 30)), draw(st.floats(-30, 30))),
        principal_point=draw(st.none() | point),
    )


def pixel_grid(view: View) -> FloatArray:
    """(column, row) of every pixel, shape ``(rows, columns, 2)``."""
    rows, columns = view.shape
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).astype(float)


def position_image(view: View) -> FloatArray:
    """An image whose pixels know where they are: LPS mm, shape ``(rows, columns, 3)``."""
    return view.pixel_position(pixel_grid(view))


# Directions


@pytest.mark.parametrize(
    ("position", "towards"), [(AP, POSTERIOR), (PA, -POSTERIOR), (LL, LEFT), (RL, -LEFT)]
)
def test_beam_runs_towards_the_side_that_the_view_names(
    position: ViewPosition, towards: FloatArray
) -> None:
    view = isocentric_view(position, sod=1000, sdd=1200, spacing=(1, 1), shape=(9, 9))
    np.testing.assert_array_equal(position.beam, towards)
    np.testing.assert_allclose(view.beam, towards, atol=1e-12)
    np.testing.assert_allclose(view.source, -1000 * towards, atol=1e-9)
    np.testing.assert_allclose(view.centre, 200 * towards, atol=1e-9)
    assert position.is_frontal == (towards[0] == 0)


@pytest.mark.parametrize(
    ("orientation", "position", "agreement"),
    [
        # seen from the source: columns x rows points along the beam
        (("L", "F"), AP, 1),
        (("R", "F"), PA, 1),
        (("A", "F"), LL, 1),
        (("P", "F"), RL, 1),
        (("F", "P"), LL, 1),  # the lateral on its side
        # seen from the detector: mirrored
        (("R", "F"), AP, -1),
        (("L", "F"), PA, -1),
        (("P", "F"), LL, -1),
        (("A", "F"), RL, -1),
        (("H", "L"), AP, 1),
        (("L", "H"), AP, -1),
        # only the dominant letter counts
        (("LP", "FA"), AP, 1),
        # impossible: a lateral that shows left and right, a frontal that does not, a line
        (("L", "F"), LL, 0),
        (("L", "F"), RL, 0),
        (("P", "F"), AP, 0),
        (("A", "P"), PA, 0),
        (("L", "R"), AP, 0),
        (("L", "L"), AP, 0),
        (("L", "P"), AP, 0),  # axial
    ],
)
def test_patient_orientation_agrees_with_the_beam(
    orientation: tuple[str, str], position: ViewPosition, agreement: int
) -> None:
    assert beam_agreement(orientation, position) == agreement


@given(st.sampled_from(ViewPosition), st.sampled_from("LRPAHF"), st.sampled_from("LRPAHF"))
@relaxed
def test_mirroring_an_image_swaps_source_and_detector_side(
    position: ViewPosition, column: str, row: str
) -> None:
    opposite = dict(zip("LRPAHF", "RLAPFH", strict=True))
    agreement = beam_agreement((column, row), position)
    assert beam_agreement((opposite[column], row), position) == -agreement
    assert beam_agreement((column, opposite[row]), position) == -agreement
    assert beam_agreement((row, column), position) == -agreement


@pytest.mark.parametrize("value", ["", "X", "l", "L\\F", "LX"])
def test_other_letters_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="PatientOrientation"):
        orientation_vector(value)


def test_letters_are_the_axes_of_the_patient() -> None:
    for letter, opposite, axis in (("L", "R", LEFT), ("P", "A", POSTERIOR), ("H", "F", HEAD)):
        np.testing.assert_array_equal(orientation_vector(letter), axis)
        np.testing.assert_array_equal(orientation_vector(opposite), -axis)


@pytest.mark.parametrize(("axis", "first", "second"), [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_rotation_is_right_handed(axis: int, first: int, second: int) -> None:
    turn = rotation_about(axis, 90)
    np.testing.assert_allclose(turn @ np.eye(3)[first], np.eye(3)[second], atol=1e-15)
    np.testing.assert_allclose(turn @ np.eye(3)[axis], np.eye(3)[axis], atol=1e-15)
    np.testing.assert_allclose(
        rotation_about(axis, 30) @ rotation_about(axis, 60), turn, atol=1e-15
    )


@pytest.mark.parametrize(
    ("primary", "secondary", "beam"),
    [
        (0, 0, -POSTERIOR),  # the patient faces the detector
        (90, 0, LEFT),  # detector at the patient's left
        (-90, 0, -LEFT),
        (180, 0, POSTERIOR),
        (0, 90, HEAD),  # detector at the head
        (0, -90, -HEAD),
        (45, 0, (LEFT - POSTERIOR) / math.sqrt(2)),
        (90, 30, math.cos(math.pi / 6) * LEFT + 0.5 * HEAD),  # angles of the same beam add up
    ],
)
def test_positioner_angles_turn_the_detector(
    primary: float, secondary: float, beam: FloatArray
) -> None:
    turn = positioner_rotation(primary, secondary)
    np.testing.assert_allclose(turn @ PA.beam, beam, atol=1e-12)
    view = isocentric_view(PA, sod=750, sdd=1200, spacing=(0.3, 0.3), shape=(64, 64), rotation=turn)
    np.testing.assert_allclose(view.beam, beam, atol=1e-12)
    np.testing.assert_allclose(view.centre, 450 * np.asarray(beam), atol=1e-9)


@given(angles, angles)
@relaxed
def test_positioner_beam_has_the_angles_of_the_standard(primary: float, secondary: float) -> None:
    x, y, z = positioner_rotation(primary, secondary) @ PA.beam
    assert math.degrees(math.atan2(x, -y)) == pytest.approx(primary, abs=1e-9)
    assert math.degrees(math.asin(z)) == pytest.approx(secondary, abs=1e-9)


def test_angle_between_views() -> None:
    def view(position: ViewPosition, turn: FloatArray) -> View:
        return isocentric_view(
            position, sod=900, sdd=1000, spacing=(1, 1), shape=(4, 4), rotation=turn
        )

    straight = np.eye(3)
    assert angle_between(view(PA, straight), view(LL, straight)) == pytest.approx(90)
    assert angle_between(view(AP, straight), view(PA, straight)) == pytest.approx(180)
    assert angle_between(view(AP, straight), view(AP, straight)) == pytest.approx(0, abs=1e-6)
    turned = angle_between(view(PA, rotation_about(2, 10)), view(LL, straight))
    assert turned == pytest.approx(80)  # the detector came towards the left
    assert angle_between(view(PA, straight), view(PA, rotation_about(0, 7))) == pytest.approx(7)


# Projection


@given(views(), points_in_head)
@relaxed
def test_projected_and_back_projected_point_returns(view: View, point: FloatArray) -> None:
    on_detector = view.pixel_position(view.project(point))
    depth = (point - view.source) @ view.beam
    returned = view.source + (on_detector - view.source) * depth / view.sdd
    np.testing.assert_allclose(returned, point, atol=1e-6)
    # and the pixel lies on the detector plane
    assert (on_detector - view.centre) @ view.beam == pytest.approx(0, abs=1e-6)


@given(views(), st.floats(-200, 500), st.floats(-200, 500), st.floats(0.2, 1.0))
@relaxed
def test_all_points_of_a_ray_project_to_its_pixel(
    view: View, column: float, row: float, part: float
) -> None:
    pixel = np.array([column, row])
    point = view.source + part * (view.pixel_position(pixel) - view.source)
    np.testing.assert_allclose(view.project(point), pixel, atol=1e-6)


@given(views(), points_in_head)
@relaxed
def test_third_coordinate_is_depth_over_sdd(view: View, point: FloatArray) -> None:
    third = (view.matrix @ [*point, 1.0])[2]
    assert third == pytest.approx((point - view.source) @ view.beam / view.sdd, abs=1e-9)
    assert (view.matrix @ [*view.centre, 1.0])[2] == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(view.matrix @ [*view.source, 1.0], 0.0, atol=1e-6)


@given(views())
@relaxed
def test_pixel_centres_are_integers(view: View) -> None:
    rows, columns = view.shape
    middle = view.pixel_position([(columns - 1) / 2, (rows - 1) / 2])
    np.testing.assert_allclose(middle, view.centre, atol=1e-6)
    np.testing.assert_allclose(view.pixel_position([0, 0]), view.origin, atol=1e-9)
    images = view.project(position_image(view))
    np.testing.assert_allclose(images, pixel_grid(view), atol=1e-6)
    right = view.pixel_position([1, 0]) - view.pixel_position([0, 0])
    down = view.pixel_position([0, 1]) - view.pixel_position([0, 0])
    np.testing.assert_allclose(right, view.spacing[1] * view.column_vector, atol=1e-9)
    np.testing.assert_allclose(down, view.spacing[0] * view.row_vector, atol=1e-9)


@given(
    sod=st.floats(500, 1500),
    behind=st.floats(50, 400),
    offset=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    principal=st.tuples(st.floats(-20, 80), st.floats(-20, 80)),
    turn=angles,
)
@relaxed
def test_isocentric_view_has_the_asked_distances_and_principal_point(
    sod: float,
    behind: float,
    offset: tuple[float, float],
    principal: tuple[float, float],
    turn: float,
) -> None:
    spacing = (0.7, 0.4)
    view = isocentric_view(
        AP,
        sod=sod,
        sdd=sod + behind,
        spacing=spacing,
        shape=(50, 70),
        rotation=rotation_about(2, turn),
        offset=offset,
        principal_point=principal,
    )
    assert view.sod == pytest.approx(sod)
    assert view.sdd == pytest.approx(sod + behind)
    foot = view.source + view.sdd * view.beam  # where the central ray meets the detector
    np.testing.assert_allclose(view.project(foot), principal, atol=1e-6)
    nearest = view.source + view.sod * view.beam
    expected = offset[0] * view.column_vector + offset[1] * view.row_vector
    np.testing.assert_allclose(nearest, expected, atol=1e-6)
    # the isocentre is off the central ray by the magnified offset
    shift = -np.array(offset) * view.magnification / (spacing[1], spacing[0])
    np.testing.assert_allclose(view.project(np.zeros(3)), principal + shift, atol=1e-6)


@given(st.floats(-300, 300), st.floats(-300, 300), points_in_head)
@relaxed
def test_principal_point_shifts_the_whole_image(
    column: float, row: float, point: FloatArray
) -> None:
    def view(principal: tuple[float, float] | None) -> View:
        return isocentric_view(
            RL, sod=800, sdd=1100, spacing=(0.5, 0.3), shape=(40, 60), principal_point=principal
        )

    shifted = view((29.5 + column, 19.5 + row)).project(point)
    np.testing.assert_allclose(shifted - view(None).project(point), (column, row), atol=1e-6)


def test_magnification_is_that_of_similar_triangles() -> None:
    view = isocentric_view(AP, sod=1524, sdd=1642.3, spacing=(0.2, 0.2), shape=(9, 9))
    assert view.magnification == pytest.approx(1642.3 / 1524)
    at_isocentre = view.project([[-50, 0, 0], [50, 0, 0]])
    assert at_isocentre[1, 0] - at_isocentre[0, 0] == pytest.approx(100 * 1642.3 / 1524 / 0.2)
    nearer_to_source = view.project([[-50, -100, 0], [50, -100, 0]])
    assert nearer_to_source[1, 0] - nearer_to_source[0, 0] == pytest.approx(
        100 * 1642.3 / (1524 - 100) / 0.2
    )


@pytest.mark.parametrize(("sod", "sdd"), [(0, 100), (-5, 100), (100, 100), (200, 100)])
def test_distances_out_of_order_are_refused(sod: float, sdd: float) -> None:
    with pytest.raises(ValueError, match="SOD"):
        isocentric_view(AP, sod=sod, sdd=sdd, spacing=(1, 1), shape=(4, 4))


def test_contradicting_orientation_is_refused() -> None:
    with pytest.raises(ValueError, match="contradicts view LL"):
        isocentric_view(LL, sod=900, sdd=1000, spacing=(1, 1), shape=(4, 4), orientation=("L", "F"))


# What happens to an image happens to its view


@given(views(), st.data())
@relaxed
def test_view_follows_crop_flip_and_transpose_of_the_image(view: View, data: st.DataObject) -> None:
    image = position_image(view)
    rows, columns = view.shape
    top = data.draw(st.integers(0, rows - 1))
    left = data.draw(st.integers(0, columns - 1))
    size = (data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left)))
    cropped = image[top : top + size[0], left : left + size[1]]
    carried = [
        (view.cropped(top, left, size), cropped),
        (view.flipped(columns=True), image[:, ::-1]),
        (view.flipped(rows=True), image[::-1]),
        (view.flipped(columns=True, rows=True), image[::-1, ::-1]),
        (view.transposed(), image.transpose(1, 0, 2)),
        (view.transposed().flipped(rows=True), image.transpose(1, 0, 2)[::-1]),
    ]
    for changed, expected in carried:
        assert changed.shape == expected.shape[:2]
        np.testing.assert_allclose(position_image(changed), expected, atol=1e-6)
        np.testing.assert_array_equal(changed.source, view.source)
        # the matrix finds each world point in the changed image
        np.testing.assert_allclose(
            changed.project(0.5 * (expected + view.source)), pixel_grid(changed), atol=1e-5
        )
        np.testing.assert_allclose(changed.beam, view.beam, atol=1e-12)
        assert changed.sdd == pytest.approx(view.sdd)


@given(views(), st.integers(1, 5), st.integers(1, 5))
@relaxed
def test_resize_matrix_is_the_view_resampled_edge_to_edge(
    view: View, down: int, right: int
) -> None:
    old = (view.shape[0] * down, view.shape[1] * right)
    fine = view.resampled(
        (view.spacing[0] / down, view.spacing[1] / right),
        old,
        ((view.shape[1] - 1) / 2, (view.shape[0] - 1) / 2),
    )
    np.testing.assert_allclose(
        resize_matrix(old, view.shape) @ fine.matrix, view.matrix, rtol=1e-6, atol=1e-6
    )
    # binning pixels averages their positions
    binned = position_image(fine).reshape(view.shape[0], down, view.shape[1], right, 3)
    np.testing.assert_allclose(binned.mean(axis=(1, 3)), position_image(view), atol=1e-6)
    back = resize_matrix(view.shape, old) @ resize_matrix(old, view.shape)
    np.testing.assert_allclose(back, np.eye(4), atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [((12, 20), (36, 30)), ((32, 32), (16, 16))])
def test_resize_matrix_is_what_interpolation_does(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    """On linear images the interpolated value tells the old coordinate of every new pixel."""
    column, row = np.meshgrid(np.arange(old[1]), np.arange(old[0]))
    image = torch.from_numpy(np.stack([column, row])[None].astype(float))
    resized = F.interpolate(image, new, mode="bilinear", align_corners=False)[0].numpy()
    interior = (slice(None), slice(2, -2), slice(2, -2))  # the border is repeated, not extended
    homogeneous = (
        np.stack([*resized, np.ones(new), np.ones(new)], axis=-1) @ resize_matrix(old, new).T
    )
    expected = np.stack(np.meshgrid(np.arange(new[1]), np.arange(new[0])))
    np.testing.assert_allclose(homogeneous.transpose(2, 0, 1)[:2][interior], expected[interior])


# The network's view


@given(views(), st.floats(0.5, 3.0), st.integers(8, 300), st.data())
@relaxed
def test_canonical_view_is_upright_centred_and_to_scale(
    view: View, pixel_size: float, size: int, data: st.DataObject
) -> None:
    position = max(ViewPosition, key=lambda p: float(p.beam @ view.beam))
    seen = view.canonical(pixel_size, size, position)
    middle = np.full(2, (size - 1) / 2)
    assert seen.shape == (size, size)
    np.testing.assert_allclose(seen.project(np.zeros(3)), middle, atol=1e-6)
    # the head is up; the left (frontal) or the back (lateral) of the head is on the right
    assert seen.project(10 * HEAD)[1] < middle[1]
    sideways = LEFT if position.is_frontal else POSTERIOR
    assert seen.project(10 * sideways)[0] > middle[0]
    # heights run along the columns
    assert abs(seen.column_vector @ HEAD) < 1e-6
    # one pixel is pixel_size in the plane of the isocentre
    across, down = data.draw(st.floats(-80, 80)), data.draw(st.floats(-80, 80))
    moved = seen.project(across * seen.column_vector + down * seen.row_vector)
    np.testing.assert_allclose(moved - middle, np.array([across, down]) / pixel_size, atol=1e-6)
    # it is the same radiograph: source and detector have not moved
    np.testing.assert_array_equal(seen.source, view.source)
    assert seen.sdd == pytest.approx(view.sdd)
    pixel = view.pixel_position([3, 5])
    np.testing.assert_allclose(seen.pixel_position(seen.project(pixel)), pixel, atol=1e-5)


@given(st.sampled_from(ViewPosition), st.data())
@relaxed
def test_canonical_view_does_not_depend_on_how_the_image_is_stored(
    position: ViewPosition, data: st.DataObject
) -> None:
    letters = [p for p in product("LRPAHF", repeat=2) if beam_agreement(p, position) != 0]
    assert len(letters) == 8
    turn = rotation_about(2, data.draw(angles)) @ rotation_about(1, data.draw(angles))
    seen = [
        isocentric_view(
            position,
            sod=900,
            sdd=1150,
            spacing=(0.4, 0.2),
            shape=(90, 70),
            orientation=pair,
            rotation=turn,
        ).canonical(1.2, 64, position)
        for pair in letters
    ]
    for other in seen[1:]:
        np.testing.assert_allclose(other.matrix, seen[0].matrix, atol=1e-9)


@pytest.mark.parametrize("roll", [-10.0, 3.0, 7.0])
@pytest.mark.parametrize("position", ViewPosition)
def test_canonical_view_does_not_depend_on_the_detectors_roll(
    position: ViewPosition, roll: float
) -> None:
    axis = 1 if position.is_frontal else 0
    tilt = rotation_about(1 - axis, 4.0)
    views = [
        isocentric_view(
            position,
            sod=900,
            sdd=1150,
            spacing=(0.4, 0.2),
            shape=(90, 70),
            rotation=tilt @ rotation_about(axis, degrees),
        ).canonical(1.2, 64, position)
        for degrees in (0.0, roll)
    ]
    np.testing.assert_allclose(views[1].matrix, views[0].matrix, atol=1e-9)


def test_level_view_stays_as_it_is() -> None:
    view = isocentric_view(
        ViewPosition.PA,
        sod=900,
        sdd=1150,
        spacing=(0.4, 0.4),
        shape=(90, 70),
        rotation=rotation_about(2, 7.0) @ rotation_about(0, 3.0),
    )
    assert view.levelled() is view


# Torch


@given(views(), st.integers(0, 2**32 - 1))
@relaxed
def test_torch_projection_agrees_with_the_view(view: View, seed: int) -> None:
    world = np.random.default_rng(seed).uniform(-120, 120, size=(50, 3))
    matrix = torch.from_numpy(view.matrix)[None, None]
    points = torch.from_numpy(world)[None]
    expected = view.project(world)
    double = project_points(matrix, points)[0, 0].numpy()
    np.testing.assert_allclose(double, expected, atol=1e-7)
    single = project_points(matrix, points.float())
    assert single.dtype == torch.float32
    # float32 holds seven digits of coordinates that may be thousands of pixels
    np.testing.assert_allclose(single[0, 0].numpy(), expected, atol=2e-3, rtol=1e-5)


def test_autocast_does_not_round_pixel_coordinates() -> None:
    view = isocentric_view(AP, sod=1000, sdd=1200, spacing=(1.44, 1.44), shape=(256, 256))
    world = np.random.default_rng(1).uniform(-120, 120, size=(500, 3))
    matrix = torch.from_numpy(view.matrix)[None, None]
    points = torch.from_numpy(world).float()[None]
    plain = project_points(matrix, points)
    with torch.autocast("cpu", torch.bfloat16):
        # the guard would be idle if autocast did not round products of matrices here
        assert (points[0] @ points[0].T).dtype == torch.bfloat16
        cast = project_points(matrix, points)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)
    np.testing.assert_allclose(cast[0, 0].numpy(), view.project(world), atol=1e-4)


def test_batched_projection_pairs_each_case_with_its_own_matrices() -> None:
    generator = np.random.default_rng(2)
    matrices = np.array(
        [
            [
                isocentric_view(
                    position,
                    sod=generator.uniform(700, 1500),
                    sdd=1700,
                    spacing=(1, 1),
                    shape=(64, 64),
                ).matrix
                for position in (AP, RL)
            ]
            for _ in range(3)
        ]
    )
    points = generator.uniform(-100, 100, size=(3, 7, 3))
    together = project_points(torch.from_numpy(matrices), torch.from_numpy(points))
    assert together.shape == (3, 2, 7, 2)
    for case, view in np.ndindex(3, 2):
        world = np.c_[points[case], np.ones(7)] @ matrices[case, view].T
        np.testing.assert_allclose(together[case, view], world[:, :2] / world[:, 2:], atol=1e-9)


def test_points_at_or_behind_the_source_are_far_outside() -> None:
    view = isocentric_view(AP, sod=500, sdd=800, spacing=(1, 1), shape=(64, 64))
    world = torch.tensor([[[0.0, -500.0, 0.0], [10.0, -600.0, 5.0], [0.0, -490.0, 0.0]]])
    world.requires_grad_()
    pixels = project_points(torch.from_numpy(view.matrix)[None, None], world)
    assert (pixels[0, 0, :2] < -1e5).all()
    np.testing.assert_allclose(pixels[0, 0, 2].detach(), (31.5, 31.5), atol=1e-3)
    pixels.sum().backward()
    assert world.grad is not None
    assert torch.isfinite(world.grad).all()
    assert (world.grad[0, :2] == 0).all()


@given(views(), st.integers(0, 2**32 - 1))
@relaxed
def test_rays_are_the_inverse_of_projection(view: View, seed: int) -> None:
    pixels = np.random.default_rng(seed).uniform(-100, 500, size=(20, 2))
    source, direction = rays(torch.from_numpy(view.matrix), torch.from_numpy(pixels))
    np.testing.assert_allclose(source.numpy() - view.source, 0, atol=1e-5)
    np.testing.assert_allclose((source + direction).numpy(), view.pixel_position(pixels), atol=1e-5)
    for part in (0.3, 1.0, 1.7):
        on_ray = (source + part * direction).numpy()
        np.testing.assert_allclose(view.project(on_ray), pixels, atol=1e-5)


def test_rays_of_many_views_are_those_of_each() -> None:
    matrices = torch.stack(
        [
            torch.from_numpy(
                isocentric_view(p, sod=900, sdd=1000, spacing=(1, 2), shape=(8, 6)).matrix
            )
            for p in ViewPosition
        ]
    ).reshape(2, 2, 4, 4)
    pixels = torch.tensor([[0.0, 0.0], [5.0, 3.0], [2.5, 7.0]])
    source, direction = rays(matrices, pixels)
    for i, j in np.ndindex(2, 2):
        one_source, one_direction = rays(matrices[i, j], pixels)
        torch.testing.assert_close(source[i, j], one_source)
        torch.testing.assert_close(direction[i, j], one_direction)


# Grids

steps = st.tuples(*[st.floats(0.3, 5.0)] * 3)
counts = st.tuples(*[st.integers(1, 9)] * 3)


@given(steps, counts)
@relaxed
def test_centred_grid_is_ras_with_the_isocentre_in_the_middle(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    grid = Grid.centred(spacing, shape)
    assert grid.shape == shape
    assert grid.spacing == pytest.approx(spacing)
    middle = (np.array(shape) - 1) / 2
    np.testing.assert_allclose(grid.affine @ [*middle, 1], [0, 0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(grid.ras_affine[:3, :3], np.diag(spacing))
    # the first index runs to the right in RAS, which is towards negative LPS x
    np.testing.assert_allclose(grid.affine[:3, :3], np.diag([-1, -1, 1] * np.array(spacing)))


@given(steps, counts)
@relaxed
def test_axes_and_points_agree(
    spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    grid = Grid.centred(spacing, shape)
    points = grid.points()
    assert points.shape == (*shape, 3)
    meshed = np.stack(np.meshgrid(*grid.axes(), indexing="ij"), axis=-1)
    np.testing.assert_allclose(points, meshed, atol=1e-9)
    index = np.array(shape) - 1
    np.testing.assert_allclose(points[tuple(index)], (grid.affine @ [*index, 1])[:3], atol=1e-9)
    np.testing.assert_allclose(points.reshape(-1, 3).mean(axis=0), 0, atol=1e-9)


@given(angles, angles, angles, steps, st.tuples(inside, inside, inside))
@relaxed
def test_nifti_affine_makes_the_round_trip(
    a: float, b: float, c: float, spacing: tuple[float, float, float], at: tuple[float, ...]
) -> None:
    ras = np.eye(4)
    turn = rotation_about(0, a) @ rotation_about(1, b) @ rotation_about(2, c)
    ras[:3, :3] = turn @ np.diag(spacing)
    ras[:3, 3] = at
    grid = Grid.from_ras(ras, (3, 4, 5))
    np.testing.assert_allclose(grid.ras_affine, ras, atol=1e-12)
    assert grid.spacing == pytest.approx(spacing)
    x, y, z = (ras @ [2, 1, 3, 1])[:3]
    np.testing.assert_allclose(grid.points()[2, 1, 3], (-x, -y, z), atol=1e-9)
    np.testing.assert_array_equal(LPS_TO_RAS @ LPS_TO_RAS, np.eye(4))


def test_turned_grid_has_no_axes() -> None:
    ras = np.eye(4)
    ras[:3, :3] = rotation_about(2, 1.0)
    with pytest.raises(ValueError, match="not aligned"):
        Grid.from_ras(ras, (3, 3, 3)).axes()


def test_one_number_stands_for_all_axes() -> None:
    one, three = Grid.centred(2.0, 8), Grid.centred((2.0, 2.0, 2.0), (8, 8, 8))
    assert one.shape == three.shape
    np.testing.assert_array_equal(one.affine, three.affine)


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        (2.0, (128,) * 3),
        (1.0, (256,) * 3),
        (3.0, (85,) * 3),
        ((1.0, 2.0, 4.0), (256, 128, 64)),
        (0.4, (512,) * 3),
        (1000.0, (1,) * 3),
    ],
)
def test_the_field_of_view_does_not_follow_the_spacing(
    spacing: float | tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    grid = Grid.centred(spacing)
    assert grid.shape == shape
    assert np.allclose(grid.extent, np.multiply(shape, spacing))


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [
        *((0.0, 8), (-1.0, 8), (1.0, 0), (1.0, (4, 4, -4))),
        *((np.nan, 8), (np.inf, 8), (0.0, None), (np.nan, None)),
    ],
)
def test_empty_grids_are_refused(spacing: float, shape: int | tuple[int, int, int] | None) -> None:
    with pytest.raises(ValueError, match="positive"):
        Grid.centred(spacing, shape)
