"""Views: the only room that knows trigonometry.

Everything is in patient LPS millimetres with the isocentre of the examination as the origin. A
radiograph is described by a :class:`View`, a pinhole, or by a
:class:`~spider_bundle.slot_view.SlotView`; its 4x4 matrix
(:mod:`spider_bundle.projection_matrix`) maps LPS points to (column, row) pixel coordinates with
pixel centres at integers. That matrix is all that the projector and the network need, so the two
can never disagree about the geometry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from spider_bundle.grid import FIELD_OF_VIEW as FIELD_OF_VIEW
from spider_bundle.grid import LPS_TO_RAS as LPS_TO_RAS
from spider_bundle.grid import FloatArray as FloatArray
from spider_bundle.grid import Grid as Grid

_LETTERS = {
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "H": (0.0, 0.0, 1.0),
    "F": (0.0, 0.0, -1.0),
}


class ViewPosition(StrEnum):
    """Direction of the beam through the patient, named as DICOM ViewPosition (0018,5101).

    ``LL`` is the left lateral: left side at the detector, beam towards the patient's left.
    """

    AP = "AP"
    PA = "PA"
    LL = "LL"
    RL = "RL"

    @property
    def beam(self) -> FloatArray:
        """Unit vector of the nominal beam, source to detector, in LPS. Shape ``(3,)``."""
        return orientation_vector({"AP": "P", "PA": "A", "LL": "L", "RL": "R"}[self.value])

    @property
    def is_frontal(self) -> bool:
        """Whether this is a frontal view (AP or PA) and not a lateral one."""
        return self in (ViewPosition.AP, ViewPosition.PA)

    @property
    def canonical_orientation(self) -> tuple[str, str]:
        """PatientOrientation (columns, rows) in which the network sees this view."""
        return ("L", "F") if self.is_frontal else ("P", "F")


def orientation_vector(letters: str) -> FloatArray:
    """Return the unit LPS vector of a PatientOrientation value (DICOM C.7.6.1.1.1).

    Args:
        letters: One letter of ``LRPAHF``, or several for an oblique direction; only the first,
            which is the dominant one, is used.

    Returns:
        Vector of shape ``(3,)``.

    Raises:
        ValueError: The value is empty or not made of these letters.
    """
    if not letters or any(letter not in _LETTERS for letter in letters):
        raise ValueError(f"not a PatientOrientation value: {letters!r}")
    return np.array(_LETTERS[letters[0]])


def beam_agreement(orientation: Sequence[str], view: ViewPosition) -> int:
    """Compare PatientOrientation with the beam of a view.

    Args:
        orientation: Directions of increasing column and of increasing row, as in
            PatientOrientation (0020,0020).
        view: The view the image is said to show.

    Returns:
        +1 if the image is as seen from the source, -1 if it is as seen from the detector
        (mirrored; both are usual), 0 if the two contradict each other.
    """
    normal = np.cross(orientation_vector(orientation[0]), orientation_vector(orientation[1]))
    return round(float(normal @ view.beam))


def rotation_about(axis: int, degrees: float) -> FloatArray:
    """Return the right-handed rotation about a coordinate axis.

    Args:
        axis: 0, 1 or 2 for x, y or z.
        degrees: Angle in degrees.

    Returns:
        Rotation matrix of shape ``(3, 3)``.
    """
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    rotation = np.eye(3)
    rotation[i, i] = rotation[j, j] = c
    rotation[i, j], rotation[j, i] = -s, s
    return rotation


def positioner_rotation(primary: float, secondary: float = 0.0) -> FloatArray:
    """Return the rotation of the beam of an XA positioner away from its zero position.

    At zero the patient faces the detector (beam PA). Positive primary angles turn the detector
    towards the patient's left, positive secondary angles towards the head (DICOM C.8.7.5.1.2).

    Args:
        primary: PositionerPrimaryAngle in degrees.
        secondary: PositionerSecondaryAngle in degrees.

    Returns:
        Rotation matrix of shape ``(3, 3)``.
    """
    return rotation_about(2, primary) @ rotation_about(0, -secondary)


@dataclass(frozen=True)
class View:
    """A pinhole view: a point source and a flat detector.

    Attributes:
        source: Focal spot, LPS mm, shape ``(3,)``.
        centre: Middle of the pixel array, i.e. of pixel ``((columns-1)/2, (rows-1)/2)``, LPS mm.
        column_vector: Unit vector of increasing column index, LPS.
        row_vector: Unit vector of increasing row index, LPS.
        spacing: Pixel pitch at the detector in mm, ``(between rows, between columns)`` as in
            ImagerPixelSpacing (0018,1164).
        shape: ``(rows, columns)``.
    """

    source: FloatArray
    centre: FloatArray
    column_vector: FloatArray
    row_vector: FloatArray
    spacing: tuple[float, float]
    shape: tuple[int, int]

    @property
    def origin(self) -> FloatArray:
        """Centre of pixel (0, 0), LPS mm. Shape ``(3,)``."""
        rows, columns = self.shape
        return (
            self.centre
            - 0.5 * (columns - 1) * self.spacing[1] * self.column_vector
            - 0.5 * (rows - 1) * self.spacing[0] * self.row_vector
        )

    @property
    def beam(self) -> FloatArray:
        """Unit normal of the detector that points away from the source. Shape ``(3,)``."""
        normal = np.cross(self.column_vector, self.row_vector)
        normal = normal / np.linalg.norm(normal)
        return normal if normal @ (self.centre - self.source) > 0 else -normal

    @property
    def sdd(self) -> float:
        """Distance from the source to the detector plane, mm."""
        return float((self.centre - self.source) @ self.beam)

    @property
    def sod(self) -> float:
        """Distance from the source to the plane of the isocentre (the origin), mm."""
        return float(-self.source @ self.beam)

    @property
    def magnification(self) -> float:
        """Magnification of a small object at the isocentre, SDD / SOD."""
        return self.sdd / self.sod

    @property
    def matrix(self) -> FloatArray:
        """Projection matrix of shape ``(4, 4)``, see :mod:`spider_bundle.projection_matrix`."""
        pixel_to_ray = np.stack(
            [
                self.spacing[1] * self.column_vector,
                self.spacing[0] * self.row_vector,
                self.origin - self.source,
            ],
            axis=1,
        )
        inverse = np.linalg.inv(pixel_to_ray)[[0, 1, 2, 2]]
        return np.concatenate([inverse, -inverse @ self.source[:, None]], axis=1)

    def project(self, points: npt.ArrayLike) -> FloatArray:
        """Project LPS points.

        Args:
            points: LPS mm, shape ``(..., 3)``.

        Returns:
            ``(column, row)`` pixel coordinates, shape ``(..., 2)``.
        """
        world = np.asarray(points, dtype=np.float64)
        homogeneous = world @ self.matrix[:, :3].T + self.matrix[:, 3]
        pixels: FloatArray = homogeneous[..., :2] / homogeneous[..., 2:]
        return pixels

    def pitch_for(self, pixel_size: float) -> tuple[float, float]:
        """Pitch at the detector of pixels of a size at the isocentre, mm, as in ``spacing``."""
        pitch = pixel_size * self.magnification
        return pitch, pitch

    def pixel_position(self, pixels: npt.ArrayLike) -> FloatArray:
        """Return positions on the detector of (column, row) pixel coordinates.

        Args:
            pixels: Pixel coordinates, shape ``(..., 2)``.

        Returns:
            LPS mm, shape ``(..., 3)``.
        """
        grid = np.asarray(pixels, dtype=np.float64)
        position: FloatArray = (
            self.origin
            + grid[..., :1] * self.spacing[1] * self.column_vector
            + grid[..., 1:] * self.spacing[0] * self.row_vector
        )
        return position

    def resampled(
        self, spacing: tuple[float, float], shape: tuple[int, int], centre_pixel: npt.ArrayLike
    ) -> View:
        """Return the view of the same radiograph on another pixel grid of the same detector plane.

        Args:
            spacing: New pitch at the detector in mm, ``(between rows, between columns)``.
            shape: New ``(rows, columns)``.
            centre_pixel: (column, row) in the present image of the new array's middle.
        """
        return replace(self, centre=self.pixel_position(centre_pixel), spacing=spacing, shape=shape)

    def cropped(self, top: int, left: int, shape: tuple[int, int]) -> View:
        """Return the view of ``image[top:top + rows, left:left + columns]``."""
        middle = (left + (shape[1] - 1) / 2, top + (shape[0] - 1) / 2)
        return self.resampled(self.spacing, shape, middle)

    def flipped(self, columns: bool = False, rows: bool = False) -> View:
        """Return the view of an image mirrored along its columns axis, its rows axis or both."""
        return replace(
            self,
            column_vector=-self.column_vector if columns else self.column_vector,
            row_vector=-self.row_vector if rows else self.row_vector,
        )

    def transposed(self) -> View:
        """Return the view of the transposed image."""
        return replace(
            self,
            column_vector=self.row_vector,
            row_vector=self.column_vector,
            spacing=(self.spacing[1], self.spacing[0]),
            shape=(self.shape[1], self.shape[0]),
        )

    def canonical(self, pixel_size: float, size: int, view: ViewPosition) -> View:
        """Return the square view in which the network sees this radiograph.

        It is centred on the projected isocentre, oriented by
        :attr:`ViewPosition.canonical_orientation` (row 0 most superior), with square pixels. A
        detector that is rolled about the beam is turned back in its plane.

        Args:
            pixel_size: Pixel size at the isocentre, mm.
            size: Number of rows and of columns.
            view: Nominal view, which decides the orientation.
        """
        columns, rows = (orientation_vector(v) for v in view.canonical_orientation)
        turned = self
        if abs(turned.column_vector @ columns) < abs(turned.row_vector @ columns):
            turned = turned.transposed()
        turned = turned.flipped(
            columns=bool(turned.column_vector @ columns < 0),
            rows=bool(turned.row_vector @ rows < 0),
        )
        pitch = turned.pitch_for(pixel_size)
        seen = turned.resampled(pitch, (size, size), turned.project(np.zeros(3)))
        return seen.levelled()

    def levelled(self) -> View:
        """Turn the pixel array in its plane, about its middle, until its columns run along z.

        That is, along the projection of z on the detector, head or feet first as before. The view
        itself where they do so already, and where the beam runs along z.
        """
        beam = self.beam
        upright = np.array([0.0, 0.0, math.copysign(1.0, self.row_vector[2])])
        row = upright - (upright @ beam) * beam
        length = float(np.linalg.norm(row))
        if length < 1e-3 or self.row_vector @ row > (1 - 1e-12) * length:
            return self
        column = np.cross(row, beam) / length
        sign = math.copysign(1.0, column @ self.column_vector)
        return replace(self, column_vector=sign * column, row_vector=row / length)


def isocentric_view(
    view: ViewPosition,
    *,
    sod: float,
    sdd: float,
    spacing: tuple[float, float],
    shape: tuple[int, int],
    orientation: Sequence[str] | None = None,
    rotation: npt.ArrayLike | None = None,
    offset: tuple[float, float] = (0.0, 0.0),
    principal_point: tuple[float, float] | None = None,
) -> View:
    """Return the view whose central ray passes through, or a known offset beside, the isocentre.

    Args:
        view: Nominal direction of the beam.
        sod: Distance from the source to the isocentre, mm.
        sdd: Distance from the source to the detector, mm.
        spacing: Pixel pitch at the detector, mm, ``(between rows, between columns)``.
        shape: ``(rows, columns)``.
        orientation: PatientOrientation of the image (directions of increasing column and of
            increasing row); the canonical one if not given.
        rotation: Rotation of source and detector together about the isocentre away from the
            nominal view, shape ``(3, 3)``.
        offset: Distance by which the central ray misses the isocentre along the detector's
            ``(column, row)`` vectors, mm; source and detector move together.
        principal_point: (column, row) pixel that the central ray meets; the middle of the array
            if not given.

    Raises:
        ValueError: Distances not ordered ``0 < sod < sdd``, or an orientation that contradicts
            the view.
    """
    if not 0 < sod < sdd:
        raise ValueError(f"need 0 < SOD < SDD, got SOD {sod} and SDD {sdd}")
    letters = view.canonical_orientation if orientation is None else orientation
    if beam_agreement(letters, view) == 0:
        raise ValueError(f"orientation {tuple(letters)} contradicts view {view.value}")
    turn = np.eye(3) if rotation is None else np.asarray(rotation, dtype=np.float64)
    beam = turn @ view.beam
    column_vector = turn @ orientation_vector(letters[0])
    row_vector = turn @ orientation_vector(letters[1])
    shift = offset[0] * column_vector + offset[1] * row_vector
    centre = (sdd - sod) * beam + shift
    if principal_point is not None:
        middle = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
        centre = (
            centre
            + (middle[0] - principal_point[0]) * spacing[1] * column_vector
            + (middle[1] - principal_point[1]) * spacing[0] * row_vector
        )
    return View(-sod * beam + shift, centre, column_vector, row_vector, spacing, shape)


def angle_between(first: View, second: View) -> float:
    """Return the angle between the beams of two views in degrees, 0 to 180."""
    return math.degrees(math.acos(float(np.clip(first.beam @ second.beam, -1.0, 1.0))))
