"""Rigid registration of a reconstruction to its reference, with frozen settings.

No radiograph tells where in the world a head is, so a geometry that is slightly wrong mostly moves
the result. Scores after registration say what is left when position is taken out: rotation and
translation, never scale. Damped Gauss-Newton on the squared difference of HU (B. D. Lucas and
T. Kanade, IJCAI 1981), on measured voxels, from coarse to fine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter
from scipy.spatial.transform import Rotation

from spider_bundle.cases.labelling import BONE_HU
from spider_bundle.evaluation.methods import Reconstruction
from spider_bundle.intensity import HU_WINDOW

_BLUR_MM = (12.0, 6.0, 0.0)
"""Standard deviation of the Gaussian blur of both volumes, stage by stage."""
_STEPS = 12
_SMALLEST_STEP_MM = 1e-3
_STRIDE = 2
"""Every so many voxels along each axis are compared while the volumes are blurred."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RigidFit:
    """A rigid motion from points of the reference to points of the reconstruction.

    Attributes:
        rotation: Shape ``(3, 3)``.
        translation: Shift of the middle of the measured region, mm, shape ``(3,)``.
        centre: That middle, LPS mm, shape ``(3,)``.
    """

    rotation: FloatArray
    translation: FloatArray
    centre: FloatArray

    @property
    def shift_mm(self) -> float:
        """Length of the translation."""
        return float(np.linalg.norm(self.translation))

    @property
    def turn_degrees(self) -> float:
        """Angle of the rotation."""
        return float(np.degrees(Rotation.from_matrix(self.rotation).magnitude()))

    def __call__(self, points: FloatArray) -> FloatArray:
        """Where points ``(..., 3)`` of the reference lie in the reconstruction, LPS mm."""
        moved: FloatArray = (points - self.centre) @ self.rotation.T + self.centre
        return moved + self.translation


def register(
    hu: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    measured: npt.NDArray[np.bool_],
    affine: FloatArray,
) -> RigidFit:
    """Fit a reconstruction to its reference by rotation and translation.

    Args:
        hu: Reconstructed HU, shape ``(X, Y, Z)``.
        reference: Reference HU on the same grid.
        measured: Where the reference was measured; nothing else is compared.
        affine: Voxel index to LPS mm, shape ``(4, 4)``.

    Raises:
        ValueError: Nothing was measured.
    """
    if not measured.any():
        raise ValueError("no voxel of the reference was measured")
    to_index = np.linalg.inv(affine).astype(np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    centre = np.argwhere(measured).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
    fit = RigidFit(np.eye(3), np.zeros(3), centre)
    pair = [np.clip(volume, *HU_WINDOW).astype(np.float32) for volume in (hu, reference)]
    for blur in _BLUR_MM:
        moving, fixed = (gaussian_filter(v, blur / spacing) if blur else v for v in pair)
        # gradient along LPS, HU per mm
        gradient = np.einsum("ia,i...->a...", to_index[:3, :3], np.stack(np.gradient(moving)))
        chosen = np.argwhere(measured)
        if blur:
            chosen = chosen[(chosen % _STRIDE == 0).all(axis=1)]
        wanted = fixed[tuple(chosen.T)]
        points: FloatArray = chosen @ affine[:3, :3].T + affine[:3, 3]
        fit = _descend(fit, moving, gradient, points, wanted, to_index)
    return fit


def register_bone(
    hu: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    measured: npt.NDArray[np.bool_],
    affine: FloatArray,
) -> RigidFit:
    """Fit the bone of a reconstruction, what is above 250 HU, to that of its reference.

    The length of its translation is the position error. See :func:`register` for the arguments.
    """
    return register(np.maximum(hu, BONE_HU), np.maximum(reference, BONE_HU), measured, affine)


def registered(
    reconstruction: Reconstruction,
    reference: npt.NDArray[np.floating],
    measured: npt.NDArray[np.bool_],
    affine: FloatArray,
) -> tuple[Reconstruction, RigidFit]:
    """Move a reconstruction onto its reference; see :func:`register` and :func:`moved_onto`.

    Args:
        reconstruction: The result, on the grid of the reference.
        reference: Reference HU, shape ``(X, Y, Z)``.
        measured: Where the reference was measured.
        affine: Voxel index to LPS mm, shape ``(4, 4)``.

    Returns:
        The moved result on the same grid, and the motion.
    """
    fit = register(reconstruction.hu, reference, measured, affine)
    return moved_onto(reconstruction, fit, reference.shape, affine), fit


def moved_onto(
    reconstruction: Reconstruction, fit: RigidFit, shape: tuple[int, ...], affine: FloatArray
) -> Reconstruction:
    """Move a reconstruction by a fit.

    HU are read by cubic interpolation, which blurs less than linear, and labels at the nearest
    voxel; beyond the grid the border is repeated.

    Args:
        reconstruction: The result.
        fit: The motion from the reference to the result.
        shape: Shape of both.
        affine: Voxel index of both to LPS mm, shape ``(4, 4)``.
    """
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    to_index = np.linalg.inv(affine)
    where = fit(index @ affine[:3, :3].T + affine[:3, 3]) @ to_index[:3, :3].T + to_index[:3, 3]
    where = np.moveaxis(where, -1, 0)
    hu = map_coordinates(np.clip(reconstruction.hu, *HU_WINDOW), where, order=3, mode="nearest")
    labels = map_coordinates(reconstruction.labels, where, order=0, mode="nearest")
    return Reconstruction(hu.astype(np.float32), labels)


def _descend(
    fit: RigidFit,
    moving: npt.NDArray[np.float32],
    gradient: npt.NDArray[np.floating],
    points: FloatArray,
    wanted: npt.NDArray[np.float32],
    to_index: FloatArray,
) -> RigidFit:
    """Improve a fit by steps that each must lower the squared difference."""
    spline = spline_filter(moving, order=3, mode="nearest")

    def residual(candidate: RigidFit) -> tuple[FloatArray, FloatArray]:
        where = (candidate(points) @ to_index[:3, :3].T + to_index[:3, 3]).T
        values = map_coordinates(spline, where, order=3, mode="nearest", prefilter=False)
        return values - wanted, where

    error, where = residual(fit)
    damping = 1e-3
    for _ in range(_STEPS):
        slope = np.stack(
            [map_coordinates(g, where, order=1, mode="nearest") for g in gradient], axis=1
        )
        arm = (points - fit.centre) @ fit.rotation.T
        jacobian = np.concatenate([np.cross(arm, slope), slope], axis=1)
        normal, pull = jacobian.T @ jacobian, jacobian.T @ error
        while damping < 1e3:
            step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), pull)
            turn = Rotation.from_rotvec(step[:3]).as_matrix()
            candidate = RigidFit(turn @ fit.rotation, fit.translation + step[3:], fit.centre)
            tried, place = residual(candidate)
            if tried @ tried < error @ error:
                fit, error, where, damping = candidate, tried, place, damping / 10
                break
            damping *= 10
        else:
            return fit
        reach = float(np.abs(arm).max())
        if np.linalg.norm(step[3:]) + reach * np.linalg.norm(step[:3]) < _SMALLEST_STEP_MM:
            return fit
    return fit
