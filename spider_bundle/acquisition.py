"""Random acquisitions: the assumed and the actual geometry of two radiographs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spider_bundle.geometry import View, ViewPosition, isocentric_view, rotation_about
from spider_bundle.slot_view import slot_view

_POSITIONS = ((ViewPosition.AP, ViewPosition.PA), (ViewPosition.LL, ViewPosition.RL))


@dataclass(frozen=True)
class AcquisitionRanges:
    """Ranges from which the geometry of each view is drawn, uniformly and for each view alone.

    The defaults are protocol V1 of the evaluation.

    Attributes:
        sod: Distance from the source to the isocentre, mm.
        detector_distance: SDD - SOD, mm.
        rotation: Largest rotation about the vertical axis, degrees.
        tilt: Largest rotation towards head or feet, degrees.
        common: Largest turn of both views together about each axis, degrees.
        offset: Largest distance by which the central ray misses the isocentre, along both
            detector axes, mm.
        unmodelled_rotation: Largest rotation of the actual view against the assumed one about each
            axis, degrees.
        unmodelled_offset: Largest shift between them along each axis, mm.
        unmodelled_sod: Largest relative error of the assumed SOD.
        slot: Share of pairs that are slot scans (CT localisers), upright, with one tube and one
            gantry axis for both views.
        slot_sod: Their distance from the source to the gantry axis, mm.
        slot_sdd: Their distance from the source to the detector, mm.
        slot_axis: Largest distance of the gantry axis from the isocentre along x and y, mm.
    """

    sod: tuple[float, float] = (750.0, 1600.0)
    detector_distance: tuple[float, float] = (120.0, 250.0)
    rotation: float = 4.0
    tilt: float = 0.0
    offset: float = 8.0
    unmodelled_rotation: float = 0.0
    unmodelled_offset: float = 0.0
    unmodelled_sod: float = 0.0
    common: float = 0.0
    slot: float = 0.0
    slot_sod: tuple[float, float] = (530.0, 650.0)
    slot_sdd: tuple[float, float] = (940.0, 1100.0)
    slot_axis: float = 40.0

    def draw(
        self, rng: np.random.RandomState, size: int, pixel_size: float
    ) -> list[tuple[View, View]]:
        """Draw a frontal and a lateral view.

        Args:
            rng: Source of randomness.
            size: Rows and columns of the network's image.
            pixel_size: Its pixel size at the isocentre, mm.

        Returns:
            For the frontal and the lateral: the assumed and the actual view, both of the network's
            canonical image.
        """
        if self.slot and rng.random_sample() < self.slot:
            scans = self._draw_scans(rng, size, pixel_size)
            return [(scan, self._actual(scan, rng)) for scan in scans]
        views = []
        together = np.eye(3)
        if self.common:
            for axis in range(3):
                together = rotation_about(axis, rng.uniform(-1, 1) * self.common) @ together
        for choices in _POSITIONS:
            position = choices[rng.randint(2)]
            sod = rng.uniform(*self.sod)
            sdd = sod + rng.uniform(*self.detector_distance)
            turn = rotation_about(2, rng.uniform(-self.rotation, self.rotation))
            # towards head or feet: about the horizontal axis across the beam
            across = 0 if position.is_frontal else 1
            turn = turn @ rotation_about(across, rng.uniform(-self.tilt, self.tilt))
            pitch = pixel_size * sdd / sod
            assumed = isocentric_view(
                position,
                sod=sod,
                sdd=sdd,
                spacing=(pitch, pitch),
                shape=(size, size),
                rotation=together @ turn,
                offset=tuple(rng.uniform(-self.offset, self.offset, size=2)),
            ).canonical(pixel_size, size, position)
            views.append((assumed, self._actual(assumed, rng)))
        return views

    def _draw_scans(self, rng: np.random.RandomState, size: int, pixel_size: float) -> list[View]:
        """Draw a frontal and a lateral slot scan of one gantry."""
        sod, sdd = rng.uniform(*self.slot_sod), rng.uniform(*self.slot_sdd)
        axis = rng.uniform(-self.slot_axis, self.slot_axis, size=2)
        positions = [choices[rng.randint(2)] for choices in _POSITIONS]
        return [
            slot_view(
                position,
                sod=sod,
                sdd=sdd,
                spacing=(pixel_size, pixel_size),
                shape=(size, size),
                axis=(float(axis[0]), float(axis[1])),
            ).canonical(pixel_size, size, position)
            for position in positions
        ]

    def _actual(self, assumed: View, rng: np.random.RandomState) -> View:
        """Draw the view that takes the radiograph."""
        if not (self.unmodelled_rotation or self.unmodelled_offset or self.unmodelled_sod):
            return assumed
        turn = np.eye(3)
        for axis in range(3):
            turn = rotation_about(axis, rng.uniform(-1, 1) * self.unmodelled_rotation) @ turn
        shift = rng.uniform(-1, 1, size=3) * self.unmodelled_offset
        nearer = assumed.beam * assumed.sod * rng.uniform(-1, 1) * self.unmodelled_sod
        return replace(
            assumed,
            source=turn @ (assumed.source + nearer) + shift,
            centre=turn @ assumed.centre + shift,
            column_vector=turn @ assumed.column_vector,
            row_vector=turn @ assumed.row_vector,
        )


@dataclass(frozen=True)
class GeometryError:
    """A known error of the assumed geometry, for sensitivity tests.

    Attributes:
        sod: Relative error of the assumed SOD; the SDD is right.
        sdd: Relative error of the assumed SDD; the SOD is right.
        angle: Rotation of the actual lateral view about the vertical axis, degrees.
    """

    sod: float = 0.0
    sdd: float = 0.0
    angle: float = 0.0

    def actual(self, assumed: View, lateral: bool) -> View:
        """Return the view that takes the radiograph where ``assumed`` is assumed."""
        beam = assumed.beam
        shift = beam * (assumed.sod - assumed.sod / (1 + self.sod))
        deeper = beam * (assumed.sdd / (1 + self.sdd) - assumed.sdd)
        # the source is nearer by the error of the SOD, and the detector follows at its distance
        view = replace(
            assumed, source=assumed.source + shift, centre=assumed.centre + shift + deeper
        )
        if not lateral or not self.angle:
            return view
        turn = rotation_about(2, self.angle)
        return replace(
            view,
            source=turn @ view.source,
            centre=turn @ view.centre,
            column_vector=turn @ view.column_vector,
            row_vector=turn @ view.row_vector,
        )
