"""The slot scan: the camera of CT localisers and slot scanners, as another view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spider_bundle.geometry import FloatArray, View, ViewPosition, isocentric_view


@dataclass(frozen=True)
class SlotView(View):
    """A slot scan: a fan of rays from a point, moved along the patient (a linear push-broom).

    CT localisers and slot scanners such as EOS: perspective across the slot, parallel and true to
    scale along it. The detector is as in :class:`View`, so columns are measured at the detector;
    rows are measured along the scan, anywhere.

    Attributes:
        source: Focal spot while the middle row is taken.
        spacing: ``(travel per row, pitch of the columns at the detector)``, mm.
    """

    @property
    def matrix(self) -> FloatArray:
        """Projection matrix of shape ``(4, 4)``, see :mod:`spider_bundle.projection_matrix`."""
        pinhole = super().matrix
        # in the fan's plane the scan direction has no part: every row sees the same columns
        across = np.eye(3) - np.outer(self.row_vector, self.row_vector)
        turned = pinhole.copy()
        turned[:, :3] = pinhole[:, :3] @ across
        turned[:, 3] = pinhole[:, 3] + pinhole[:, :3] @ self.row_vector * (
            self.row_vector @ self.centre
        )
        along = self.row_vector / self.spacing[0]
        turned[1] = [*along, -along @ self.origin]
        turned[3] = [0.0, 0.0, 0.0, 1.0]
        return turned

    def pitch_for(self, pixel_size: float) -> tuple[float, float]:
        """Travel per row and pitch of the columns of square pixels at the isocentre, mm."""
        return pixel_size, pixel_size * self.magnification

    def resampled(
        self, spacing: tuple[float, float], shape: tuple[int, int], centre_pixel: npt.ArrayLike
    ) -> SlotView:
        """Return the radiograph on other rows and columns; the source stays with the middle row."""
        centre = self.pixel_position(centre_pixel)
        along = self.row_vector @ (centre - self.centre) * self.row_vector
        return replace(
            self, source=self.source + along, centre=centre, spacing=spacing, shape=shape
        )

    def fan(self, row: int) -> View:
        """Return one row of a scan as a pinhole view of its own, shape ``(1, columns)``."""
        travel = (row - (self.shape[0] - 1) / 2) * self.spacing[0] * self.row_vector
        return View(
            self.source + travel,
            self.centre + travel,
            self.column_vector,
            self.row_vector,
            self.spacing,
            (1, self.shape[1]),
        )

    def transposed(self) -> SlotView:
        """Refused: the rows of a slot scan are its travel.

        Raises:
            ValueError: Always.
        """
        raise ValueError("the rows of a slot scan lie across its travel")

    def levelled(self) -> SlotView:
        """Return the view itself: an oblique scan cannot be turned in its plane."""
        return self


def slot_view(
    view: ViewPosition,
    *,
    sod: float,
    sdd: float,
    spacing: tuple[float, float],
    shape: tuple[int, int],
    axis: tuple[float, float] = (0.0, 0.0),
    middle: float = 0.0,
) -> SlotView:
    """Slot scan along z in the canonical orientation of a view.

    Args:
        view: Direction of the beam, which says on which side the tube is.
        sod: Distance from the source to the axis of the gantry, mm.
        sdd: Distance from the source to the detector, mm.
        spacing: ``(travel per row, pitch of the columns at the axis)``, mm, as the PixelSpacing of
            a CT localiser.
        shape: ``(rows, columns)``.
        axis: Where the axis of the gantry is, LPS x and y in mm.
        middle: LPS z of the middle row, mm.

    Raises:
        ValueError: Distances not ordered ``0 < sod < sdd``.
    """
    pinhole = isocentric_view(view, sod=sod, sdd=sdd, spacing=spacing, shape=shape)
    shift = np.array([*axis, middle])
    return SlotView(
        pinhole.source + shift,
        pinhole.centre + shift,
        pinhole.column_vector,
        pinhole.row_vector,
        (spacing[0], spacing[1] * sdd / sod),
        shape,
    )
