"""The rigid fit finds motions that are known exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from spider_bundle.evaluation.methods import Reconstruction
from spider_bundle.evaluation.metrics import psnr
from spider_bundle.evaluation.registration import RigidFit, register, register_bone, registered
from spider_bundle.geometry import Grid

FloatArray = npt.NDArray[np.float64]

GRID = Grid.centred(4.0, (48, 44, 40))
EVERYWHERE = np.ones(GRID.shape, dtype=bool)


def soft_body(points: FloatArray) -> npt.NDArray[np.float32]:
    """HU of an ellipsoid with an uneven inside, a smooth function of LPS mm."""
    radius = np.linalg.norm(points / [60.0, 75.0, 70.0], axis=-1)
    body = 1.0 / (1.0 + np.exp((radius - 1.0) * 15.0))
    lump = np.exp(-((np.linalg.norm(points - [20.0, -40.0, 15.0], axis=-1) / 14.0) ** 2))
    rod = np.exp(-((np.linalg.norm((points - [-15.0, 30.0, 0.0])[..., :2], axis=-1) / 10.0) ** 2))
    hu: npt.NDArray[np.float32] = (-1000 + body * (1050 + 900 * lump + 500 * rod)).astype("f4")
    return hu


def moved_body(turn: FloatArray, shift: FloatArray) -> npt.NDArray[np.float32]:
    """The body after ``x -> turn x + shift``, evaluated exactly on the grid."""
    return soft_body((GRID.points() - shift) @ turn)


@pytest.mark.parametrize(
    ("rotation", "shift"),
    [
        ((0.0, 0.0, 0.0), (2.6, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (-1.4, 3.1, -0.7)),
        ((1.5, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((-2.0, 1.0, 3.0), (4.0, -6.0, 2.0)),
        ((6.0, -5.0, 4.0), (8.0, 5.0, -3.0)),
    ],
)
def test_known_motion_is_found(
    rotation: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    turn = Rotation.from_rotvec(np.radians(rotation)).as_matrix()
    fit = register(
        moved_body(turn, np.array(shift)), soft_body(GRID.points()), EVERYWHERE, GRID.affine
    )
    corners = np.array([[x, y, z] for x in (-60, 60) for y in (-70, 70) for z in (-60.0, 60)])
    wrong = np.linalg.norm(fit(corners) - (corners @ turn.T + shift), axis=1)
    assert wrong.max() < 0.2  # mm, a twentieth of a voxel
    assert fit.turn_degrees == pytest.approx(np.linalg.norm(rotation), abs=0.05)


def test_bone_is_fitted_by_itself() -> None:
    """Soft tissue that moves the other way does not count."""
    still = soft_body(GRID.points())
    moved = moved_body(np.eye(3), np.array([3.0, -2.0, 1.0]))
    away = moved_body(np.eye(3), np.array([-5.0, 0.0, 0.0]))
    mixed = np.where(moved > 250, moved, np.minimum(away, 250))
    fit = register_bone(mixed, still, EVERYWHERE, GRID.affine)
    np.testing.assert_allclose(fit.translation, [3.0, -2.0, 1.0], atol=0.3)


def test_moved_back_body_is_the_body() -> None:
    turn = Rotation.from_rotvec(np.radians([1.0, -2.0, 1.5])).as_matrix()
    reference = soft_body(GRID.points())
    result = moved_body(turn, np.array([3.0, -2.0, 1.0]))
    labels = (result > 250).astype(np.uint8)
    back, fit = registered(Reconstruction(result, labels), reference, EVERYWHERE, GRID.affine)
    before, after = psnr(result, reference, EVERYWHERE), psnr(back.hu, reference, EVERYWHERE)
    assert before is not None
    assert after is not None
    assert before < 36 < 45 < after
    bone = reference > 250
    assert (back.labels[bone] == 1).mean() > (labels[bone] == 1).mean() + 0.05
    assert back.labels.dtype == np.uint8
    assert 3.0 < fit.shift_mm < 5.0


def test_what_is_where_it_belongs_stays_there() -> None:
    reference = soft_body(GRID.points())
    fit = register(reference, reference, EVERYWHERE, GRID.affine)
    assert fit.shift_mm < 1e-6
    assert fit.turn_degrees < 1e-6


def test_scale_is_not_taken_out() -> None:
    """A head of another size keeps its size error, wherever it is moved."""
    reference = soft_body(GRID.points())
    larger = soft_body(GRID.points() / 1.05)
    back, fit = registered(
        Reconstruction(larger, np.zeros(GRID.shape, np.uint8)), reference, EVERYWHERE, GRID.affine
    )
    volume = float((back.hu > -300).sum()) / float((reference > -300).sum())
    assert volume == pytest.approx(1.05**3, rel=0.02)
    assert np.linalg.det(fit.rotation) == pytest.approx(1.0)


def test_only_measured_voxels_count() -> None:
    reference = soft_body(GRID.points())
    result = moved_body(np.eye(3), np.array([0.0, 3.0, 0.0]))
    measured = GRID.points()[..., 2] < 30
    spoiled = np.where(measured, reference, 1500.0).astype(np.float32)
    fit = register(result, spoiled, measured, GRID.affine)
    assert fit.translation == pytest.approx([0.0, 3.0, 0.0], abs=0.1)
    with pytest.raises(ValueError, match="measured"):
        register(result, reference, np.zeros(GRID.shape, dtype=bool), GRID.affine)


def test_fit_turns_about_its_centre() -> None:
    quarter = Rotation.from_rotvec([0, 0, np.pi / 2]).as_matrix()
    fit = RigidFit(quarter, np.array([0.0, 0.0, 5.0]), np.array([10.0, 0.0, 0.0]))
    assert fit(np.array([10.0, 0.0, 0.0])) == pytest.approx([10.0, 0.0, 5.0])
    assert fit(np.array([11.0, 0.0, 0.0])) == pytest.approx([10.0, 1.0, 5.0])
