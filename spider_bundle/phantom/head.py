"""The head phantom as a list of convex bodies, and random heads around it.

Sizes and positions follow ordinary adult anatomy to a few millimetres; it is a model to compute
with, not an atlas, and holds no patient data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spider_bundle.geometry import FloatArray, rotation_about
from spider_bundle.labels import Label
from spider_bundle.phantom.engine import Phantom, Primitive, aligned_frame, cylinder, ellipsoid

FLOOR: float = -126.0
"""Where :meth:`HeadPhantom.nominal` and ``random`` cut the neck, LPS z in mm."""

ISOCENTRE_IN_TEMPLATE: tuple[float, float, float] = (0.0, -14.4, -8.8)
"""Where the isocentre of the training heads lies in the nominal head, LPS mm.

Theirs is 25 mm anterior of the brainstem's centroid. Calibrated on the 57 training heads.
"""


@dataclass(frozen=True)
class HeadPhantom(Phantom):
    """A head as a painter's list of convex primitives in LPS mm, isocentre at the origin."""

    @classmethod
    def nominal(cls) -> HeadPhantom:
        """Return the head of average size, symmetric, without dental metal, in nominal pose."""
        return cls(_head(_Variation(None)))

    @classmethod
    def random(cls, seed: int) -> HeadPhantom:
        """Return a head with random sizes, thicknesses, asymmetry, HU, dental metal and pose.

        Args:
            seed: The same seed gives the same head.
        """
        return cls(_head(_Variation(np.random.default_rng(seed))))


class _Variation:
    """Random departures from the nominal head; none without a generator."""

    def __init__(self, generator: np.random.Generator | None) -> None:
        self.generator = generator

    def factor(self, deviation: float) -> float:
        """Draw a factor around 1, cut at two standard deviations."""
        return 1.0 + self.shift(deviation)

    def shift(self, deviation: float) -> float:
        """Draw a number around 0, cut at two standard deviations."""
        if self.generator is None:
            return 0.0
        return deviation * float(np.clip(self.generator.standard_normal(), -2.0, 2.0))

    def between(self, nominal: float, low: float, high: float) -> float:
        """Draw a uniform number, or take the nominal one."""
        return nominal if self.generator is None else float(self.generator.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Draw whether an event occurs that the nominal head does not have."""
        return self.generator is not None and bool(self.generator.random() < probability)


@dataclass(frozen=True)
class _Tissues:
    """HU of the materials of one head."""

    skin: float
    fat: float
    muscle: float
    cortex: float
    trabecula: float
    thin_bone: float
    petrous: float
    dentine: float
    enamel: float
    metal: float
    grey_matter: float
    white_matter: float
    csf: float
    vitreous: float
    lens: float
    disc: float
    cord: float
    air: float
    cells: float

    @classmethod
    def draw(cls, vary: _Variation) -> _Tissues:
        density = vary.factor(0.12)  # bone mineral differs between heads more than within one

        def bone(hu: float) -> float:
            return max(270.0, hu * density * vary.factor(0.04))

        return cls(
            skin=40.0 + vary.shift(15.0),
            fat=-95.0 + vary.shift(8.0),
            muscle=55.0 + vary.shift(6.0),
            cortex=bone(1250.0),
            trabecula=bone(480.0),
            thin_bone=bone(750.0),
            petrous=bone(1300.0),
            dentine=bone(1600.0),
            enamel=bone(2500.0),
            metal=vary.between(8000.0, 4000.0, 12000.0),
            grey_matter=38.0 + vary.shift(2.0),
            white_matter=29.0 + vary.shift(2.0),
            csf=8.0 + vary.shift(3.0),
            vitreous=12.0 + vary.shift(4.0),
            lens=80.0 + vary.shift(10.0),
            disc=90.0 + vary.shift(12.0),
            cord=32.0 + vary.shift(4.0),
            air=-990.0 + vary.shift(4.0),
            cells=-720.0 + vary.shift(60.0),
        )


@dataclass
class _Painter:
    """Collects primitives; places them through the map of the region being painted."""

    vary: _Variation
    tissue: _Tissues
    primitives: list[Primitive] = field(default_factory=list)
    _map: FloatArray = field(default_factory=lambda: np.eye(4))

    @contextmanager
    def region(self, linear: npt.ArrayLike, pivot: npt.ArrayLike) -> Iterator[None]:
        """Paint everything inside the block through a linear map ``(3, 3)`` about a pivot."""
        before = self._map
        matrix = np.eye(4)
        matrix[:3, :3] = linear
        matrix[:3, 3] = np.asarray(pivot) - matrix[:3, :3] @ np.asarray(pivot, dtype=np.float64)
        self._map = before @ matrix
        yield
        self._map = before

    def add(self, *primitives: Primitive) -> None:
        """Paint primitives in the given order."""
        self.primitives.extend(primitive.mapped(self._map) for primitive in primitives)

    def blob(
        self,
        centre: Sequence[float],
        semi: Sequence[float],
        hu: float,
        label: Label,
        rotation: FloatArray | None = None,
        wobble: float = 1.0,
    ) -> None:
        """Paint an ellipsoid that differs a little from its nominal place and size."""
        place = [c + self.vary.shift(0.4 * wobble) for c in centre]
        size = [s * self.vary.factor(0.03 * wobble) for s in semi]
        self.add(ellipsoid(place, size, hu, label, rotation))

    def chain(
        self,
        points: Sequence[Sequence[float]],
        semi: tuple[float, float],
        hu: float,
        label: Label,
        first_axis: Sequence[float] = (1.0, 0.0, 0.0),
        rounded_ends: bool = True,
    ) -> None:
        """Paint elliptic cylinders from point to point, with rounded joints."""
        places = [np.asarray(point, dtype=np.float64) for point in points]
        for start, end in pairwise(places):
            self.add(cylinder(start, end, semi, hu, label, first_axis))
        for index, place in enumerate(places):
            if 0 < index < len(places) - 1 or rounded_ends:
                before, after = places[max(index - 1, 0)], places[min(index + 1, len(places) - 1)]
                turn = aligned_frame(after - before, first_axis)
                self.add(ellipsoid(place, (*semi, min(semi)), hu, label, turn))


def _head(vary: _Variation) -> tuple[Primitive, ...]:
    """Paint a head, pose it and cut the neck at :data:`FLOOR`."""
    paint = _Painter(vary, _Tissues.draw(vary))
    size = vary.factor(0.025)
    shape = np.diag([size * vary.factor(0.02) for _ in range(3)])
    shape[0, 1] = vary.shift(0.015)  # plagiocephaly: a sheared, asymmetric skull
    shape[0, 2] = vary.shift(0.01)
    flexion = rotation_about(0, vary.shift(4.0)) @ rotation_about(2, vary.shift(2.0))
    opening = rotation_about(0, vary.between(0.0, 0.0, 5.0))
    jaw = opening @ np.diag([vary.factor(0.03), vary.factor(0.03), vary.factor(0.03)])
    face = np.diag([vary.factor(0.02), vary.factor(0.015), vary.factor(0.03)])
    with paint.region(shape, (0.0, 0.0, 0.0)):
        _paint_soft_tissue(paint, flexion, jaw)
        _paint_skull(paint)
        with paint.region(face, (0.0, 0.0, 5.0)):
            _paint_face(paint)
        _paint_temporal_bones(paint)
        with paint.region(flexion, (0.0, 24.0, -45.0)):
            _paint_neck(paint)
        with paint.region(jaw, _JAW_HINGE):
            _paint_mandible(paint)
    pose = np.eye(4)
    pose[:3, :3] = (
        rotation_about(0, vary.shift(3.0))
        @ rotation_about(1, vary.shift(2.5))
        @ rotation_about(2, vary.shift(4.0))
    )
    pose[:3, 3] = [vary.shift(1.5), vary.shift(1.5), vary.shift(1.5)]
    posed = (primitive.mapped(pose) for primitive in paint.primitives)
    return tuple(
        primitive.cut((0.0, 0.0, -1.0), -FLOOR)
        if primitive.corners[:, 2].min() < FLOOR
        else primitive
        for primitive in posed
        if primitive.corners[:, 2].max() > FLOOR
    )


_JAW_HINGE = (0.0, -2.0, -24.0)
_SIDES = (1.0, -1.0)


def _paint_soft_tissue(paint: _Painter, flexion: FloatArray, jaw: FloatArray) -> None:
    """Skin, subcutaneous fat and muscle of head and neck: the envelope of everything else."""
    vary, tissue = paint.vary, paint.tissue
    tilt = rotation_about(0, 15.0)
    nose = vary.factor(0.08)
    cheek = vary.factor(0.04)
    still = np.eye(3)
    # Centre, half axes, rotation, region map and pivot; layers are painted over all of them.
    neck_pivot = (0.0, 24.0, -45.0)
    bodies: list[tuple[tuple[float, ...], tuple[float, ...], FloatArray, FloatArray]] = [
        ((0, 5, 35), (75, 93, 74), still, still),
        ((0, -28, 40), (65, 62, 61), still, still),
        ((0, 40, 14), (68, 58.5, 51), still, still),
        ((0, 44, -8), (62, 53, 45), still, still),
        ((0, 14, -22), (73, 60, 50), still, still),
        ((0, -27, -24), (72, 64, 58), still, still),
        ((0, -42, -72), (56 * cheek, 54, 35), tilt, jaw),
        ((0, -78, -102), (26, 18, 15), still, jaw),
        ((0, -88, -68), (26, 13, 17), still, still),
    ]
    layers: list[tuple[float, float, float]] = [
        (0.0, tissue.skin, 0.0),
        (1.6, tissue.fat, 1.6),
        (4.5, tissue.muscle, 8.0 * vary.factor(0.2)),
    ]
    for depth, hu, neck_depth in layers:
        for centre, semi, turn, region in bodies:
            with paint.region(region, _JAW_HINGE):
                inner = [s - depth for s in semi]
                paint.add(ellipsoid(centre, inner, hu, Label.SOFT_TISSUE, turn))
        with paint.region(flexion, neck_pivot):
            semi = (58.0 - neck_depth, 60.0 - neck_depth)
            paint.add(cylinder((0, 27, -30), (0, 24, -190), semi, hu, Label.SOFT_TISSUE, (1, 0, 0)))
        if depth < 4.0:
            paint.add(
                ellipsoid(
                    (0, -93, -16),
                    (8 - depth, 10 - depth, 26),
                    hu,
                    Label.SOFT_TISSUE,
                    rotation_about(0, -20.0),
                ),
                ellipsoid(
                    (0, -99, -34),
                    (16 - depth, 15 * nose - depth, 11 - depth),
                    hu,
                    Label.SOFT_TISSUE,
                ),
                ellipsoid(
                    (0, -86, -43), (18 - depth, 14 - depth, 12 - depth), hu, Label.SOFT_TISSUE
                ),
            )
    for side in _SIDES:
        turn = rotation_about(2, 20.0 * side)
        paint.blob((side * 76, 22, -16), (4, 15, 30), tissue.skin, Label.SOFT_TISSUE, turn)
        paint.blob((side * 40, -56, -48), (14, 16, 18), tissue.fat, Label.SOFT_TISSUE)


def _paint_skull(paint: _Painter) -> None:
    """Vault, base and their content: the union of shells around the cerebrum and the fossae."""
    vary, tissue = paint.vary, paint.tissue
    thickness = 6.5 * vary.factor(0.15)
    drift = [vary.shift(0.6), 0.6 + vary.shift(0.8), -0.5 + vary.shift(0.5)]
    # Anterior floor: falls from the orbital roof to the clivus.
    normal = np.array([0.0, -0.34, -1.0]) / np.hypot(0.34, 1.0)
    floor = float(normal @ (0.0, -80.0, 13.0))
    # Outer centre, outer half axes, share of the full thickness, whether the floor cuts it.
    shells: list[tuple[tuple[float, ...], tuple[float, ...], float, bool]] = [
        ((0, 5, 35), (70, 88, 69), 1.0, True),
        ((0, -28, 40), (60, 57.5, 56), 1.0, True),
        ((0, 40, 14), (63, 53.5, 46), 0.9, False),
        ((0, 44, -8), (57, 48, 38), 0.8, False),
        ((38, -5, -1), (28, 42, 25), 0.55, False),
        ((-38, -5, -1), (28, 42, 25), 0.55, False),
    ]
    for depth, hu, label in (
        (0.0, tissue.cortex, Label.BONE),
        (0.3, tissue.trabecula, Label.BONE),
        (0.7, tissue.cortex, Label.BONE),
        (1.0, tissue.csf, Label.INTRACRANIAL),
        (1.35, tissue.grey_matter, Label.INTRACRANIAL),
        (2.1, tissue.white_matter, Label.INTRACRANIAL),
    ):
        level = floor + 3.0 * (1.0 - min(depth, 1.0)) - 6.0 * max(depth - 1.0, 0.0)
        for centre, semi, share, cut in shells:
            inset = depth * share * thickness
            middle = np.asarray(centre) + np.asarray(drift) * min(depth, 1.0) * share
            body = ellipsoid(middle, [s - inset for s in semi], hu, label)
            if cut:
                body = body.cut(normal, level)
            paint.add(body)
    ventricle = vary.between(1.0, 0.7, 1.5)
    for side in _SIDES:
        turn = rotation_about(2, -12.0 * side)
        paint.blob(
            (side * 10, -8, 38),
            (5 * ventricle, 26, 8 * ventricle),
            tissue.csf,
            Label.INTRACRANIAL,
            turn,
        )
        paint.blob(
            (side * 24, 26, 26), (5 * ventricle, 20, 7 * ventricle), tissue.csf, Label.INTRACRANIAL
        )
        paint.blob((side * 21, 0, 24), (13, 18, 12), tissue.grey_matter, Label.INTRACRANIAL)
        paint.blob((side * 24, 52, -14), (24, 26, 17), tissue.white_matter, Label.INTRACRANIAL)
    paint.blob((0, 4, 24), (2.5, 14, 9), tissue.csf, Label.INTRACRANIAL)
    paint.blob((0, 37, -6), (7, 6, 9), tissue.csf, Label.INTRACRANIAL)
    paint.blob((0, 24, -6), (14, 11, 16), tissue.white_matter, Label.INTRACRANIAL)
    # Body of the sphenoid, clivus and dorsum sellae, then the sphenoid sinus in it.
    paint.chain([(0, 2, 1), (0, 12, -22), (0, 15, -37)], (11, 5), tissue.trabecula, Label.BONE)
    paint.blob((0, -14, -9), (16, 15, 12), tissue.thin_bone, Label.BONE)
    paint.blob((0, -4, 5), (6, 6, 5), tissue.grey_matter, Label.INTRACRANIAL)  # sella
    paint.add(cylinder((-9, 3, 6), (9, 3, 6), (2, 4), tissue.cortex, Label.BONE, (0, 1, 0)))
    sinus = vary.between(1.0, 0.6, 1.1)
    for side in _SIDES:
        paint.chain(
            [(side * 6, -20, 6), (side * 46, -38, 8)], (2.5, 2.5), tissue.cortex, Label.BONE
        )
        paint.blob(
            (side * 7, -15, -9),
            (6 * sinus, 12 * sinus, 9 * sinus),
            tissue.air,
            Label.INTERNAL_AIR,
            wobble=2.0,
        )
        paint.add(  # pterygoid plates
            cylinder(
                (side * 12, -20, -18), (side * 15, -17, -50), (1.6, 9), tissue.thin_bone, Label.BONE
            ),
        )


def _paint_temporal_bones(paint: _Painter) -> None:
    """Petrous pyramids, mastoids with their cells, ear canals and styloid processes."""
    vary, tissue = paint.vary, paint.tissue
    pneumatisation = vary.between(1.0, 0.5, 1.3)
    for side in _SIDES:
        generator = vary.generator or np.random.default_rng(0)  # nominal: both sides alike
        apex, base = np.array([side * 14, -2, -14.0]), np.array([side * 60, 20, -18.0])
        turn = aligned_frame(base - apex, (0.0, 0.0, 1.0))
        paint.blob(list((apex + base) / 2), (9, 8, 27), tissue.petrous, Label.BONE, turn)
        paint.blob((side * 56, 26, -34), (10, 14, 20), tissue.thin_bone, Label.BONE)
        paint.chain(
            [(side * 50, 16, -40), (side * 47, 8, -62)], (1.6, 1.6), tissue.cortex, Label.BONE
        )
        for _ in range(16):
            offset = generator.uniform(-1.0, 1.0, 3) * (6.0, 10.0, 14.0)
            radius = pneumatisation * generator.uniform(1.3, 3.0)
            place = (offset + np.array([56, 26, -34])) * (side, 1, 1)
            paint.add(ellipsoid(place, radius, tissue.cells, Label.INTERNAL_AIR))
        paint.blob((side * 45, 11, -20), (3, 5, 6), tissue.air, Label.INTERNAL_AIR)
        paint.chain(
            [(side * 48, 11, -20), (side * 62, 13, -21), (side * 70, 14, -20)],
            (3.2, 3.8),
            tissue.air,
            Label.INTERNAL_AIR,
            rounded_ends=False,
        )
        paint.blob((side * 36, 8, -17), (5, 3, 3), tissue.csf, Label.INTRACRANIAL)  # inner canal


def _paint_face(paint: _Painter) -> None:
    """Orbits, zygomata, maxilla, nose, paranasal sinuses, palate and upper teeth."""
    vary, tissue = paint.vary, paint.tissue
    frontal = vary.between(1.0, 0.3, 1.4)
    maxillary = vary.between(1.0, 0.8, 1.1)
    paint.blob((0, -74, 17), (30, 10, 11), tissue.trabecula, Label.BONE)  # glabella
    for side in _SIDES:
        turn = rotation_about(2, 20.0 * side)
        # The bony cone of the orbit opens forwards; its cavity is painted below.
        orbit = ellipsoid((side * 31, -53, -1), (22, 27, 20), tissue.thin_bone, Label.BONE, turn)
        paint.add(orbit.cut((side * -0.35, -1.0, 0.0), 58.0))
        rim = rotation_about(2, -25.0 * side)
        paint.blob((side * 49, -58, 3), (4.5, 6, 19), tissue.cortex, Label.BONE, rim)
        paint.blob((side * 48, -58, -27), (10, 10, 11), tissue.thin_bone, Label.BONE, rim)
        paint.blob((side * 36, -70, -21), (15, 5, 5), tissue.cortex, Label.BONE, rim)
        paint.blob((side * 32, -70, 18), (22, 6, 4.5), tissue.cortex, Label.BONE, rim)
        paint.chain(
            [
                (side * 52, -54, -28),
                (side * 62, -38, -27),
                (side * 66, -18, -25),
                (side * 64, 2, -22),
            ],
            (2.5, 4.0),
            tissue.cortex,
            Label.BONE,
        )
        paint.blob((side * 24, -54, -38), (21, 24, 22), tissue.thin_bone, Label.BONE)
    # Nasal bones and frontal process, palate, alveolar process, nasal spine.
    for side in _SIDES:
        paint.add(
            cylinder(
                (side * 4, -80, 9), (side * 5, -94, -14), (4.5, 1.6), tissue.thin_bone, Label.BONE
            ),
            cylinder(
                (side * 11, -76, 6), (side * 15, -80, -38), (3.0, 4.5), tissue.thin_bone, Label.BONE
            ),
        )
    arch = _dental_arch(np.linspace(-82.0, 82.0, 13), 29.0, 46.0, -36.0, -54.0, 0.0)
    paint.chain(arch, (6.0, 8.0), tissue.cortex, Label.BONE, (0, 0, 1))
    paint.chain(arch, (4.5, 6.0), tissue.trabecula, Label.BONE, (0, 0, 1))
    paint.blob((0, -50, -49), (25, 34, 3), tissue.cortex, Label.BONE)
    paint.blob((0, -84, -45), (3, 6, 2.5), tissue.cortex, Label.BONE)
    # Ethmoid labyrinth between the orbits, nasal cavity below it.
    paint.blob((0, -48, 0), (14, 28, 14), tissue.thin_bone, Label.BONE)
    paint.blob((0, -55, -28), (15, 36, 20), tissue.muscle, Label.SOFT_TISSUE)  # mucosa
    for side in _SIDES:
        paint.blob((side * 6.5, -52, -24), (3.2, 30, 17), tissue.air, Label.INTERNAL_AIR)
        paint.blob((side * 8.5, -58, -40), (5.0, 30, 5), tissue.air, Label.INTERNAL_AIR)
        paint.blob((side * 8, -52, -35), (4, 22, 4), tissue.muscle, Label.SOFT_TISSUE)  # concha
        paint.blob((side * 7, -50, -22), (2.5, 18, 5), tissue.muscle, Label.SOFT_TISSUE)
        paint.chain(
            [(side * 7, -80, -39), (side * 7, -96, -39)],
            (4, 3.5),
            tissue.air,
            Label.INTERNAL_AIR,
            rounded_ends=False,
        )
        for y in (-68.0, -52.0, -36.0):
            paint.blob((side * 7, y, 1), (5.4, 7.6, 11), tissue.air, Label.INTERNAL_AIR)
        # A maxillary sinus may be opaque (fluid, mucosa); a frontal one may be absent.
        opaque = vary.chance(0.08)
        size = maxillary * vary.factor(0.06)
        paint.blob(
            (side * 25, -53, -36),
            (16 * size, 19 * size, 16 * size),
            tissue.csf + 15.0 if opaque else tissue.air,
            Label.SOFT_TISSUE if opaque else Label.INTERNAL_AIR,
        )
        if not vary.chance(0.15):
            size = frontal * vary.factor(0.15)
            paint.blob(
                (side * 10, -77, 20),
                (8.5 * min(size, 1.1), 4 * min(size, 1.0), 9 * size),
                tissue.air,
                Label.INTERNAL_AIR,
            )
    paint.add(cylinder((0, -44, 8), (0, -46, -47), (0.7, 22), tissue.thin_bone, Label.BONE))
    for side in _SIDES:
        turn = rotation_about(2, 20.0 * side)
        paint.add(
            ellipsoid((side * 32, -55, -1), (19.5, 28, 17.5), tissue.fat, Label.SOFT_TISSUE, turn)
        )
        paint.chain(
            [(side * 31, -60, -1), (side * 16, -28, 1)], (2.5, 2.5), tissue.cord, Label.SOFT_TISSUE
        )
        for dx, dz in ((9, 0), (-9, 0), (0, 9), (0, -9)):  # straight muscles
            paint.chain(
                [(side * 32 + dx, -63, -1 + dz), (side * 19, -32, 0)],
                (2, 2),
                tissue.muscle,
                Label.SOFT_TISSUE,
            )
        paint.blob((side * 32, -71, -1), (12.2, 12.2, 12.2), tissue.muscle, Label.SOFT_TISSUE)
        paint.blob((side * 32, -71, -1), (11, 11, 11), tissue.vitreous, Label.SOFT_TISSUE)
        paint.blob((side * 32, -79, -1), (4.5, 2, 4.5), tissue.lens, Label.SOFT_TISSUE)
    _paint_teeth(paint, (29.0, 46.0, -36.0), -54.0, -70.0, 5.0, Label.BONE)


def _dental_arch(
    degrees: npt.ArrayLike, half_width: float, depth: float, back: float, z: float, rise: float
) -> list[list[float]]:
    """Points of a half-ellipse arch open backwards.

    Args:
        degrees: Angle from the midline, positive to the left.
        half_width: Half width of the arch, mm.
        depth: Distance from its open end to the midline point, mm.
        back: LPS y of the open end.
        z: LPS z at the midline.
        rise: How much higher the open end is, mm.
    """
    angle = np.radians(np.asarray(degrees, dtype=np.float64))
    heights = z + rise * (1.0 - np.cos(angle))
    points = [half_width * np.sin(angle), back - depth * np.cos(angle), heights]
    return [[float(v) for v in point] for point in np.stack(points, axis=-1)]


_TOOTH_ANGLES = (5.5, 16.5, 27.5, 38.0, 47.5, 58.5, 72.0)
_TOOTH_WIDTHS = (4.0, 3.3, 3.8, 3.5, 3.5, 5.0, 5.0)  # half, along the arch
_TOOTH_DEPTHS = (3.0, 3.0, 3.8, 4.3, 4.3, 5.0, 5.0)  # half, across the arch


def _paint_teeth(
    paint: _Painter,
    arch: tuple[float, float, float],
    root_z: float,
    edge_z: float,
    rise: float,
    label: Label,
) -> None:
    """Paint a row of teeth on an arch (half width, depth, back), some missing or with metal."""
    vary, tissue = paint.vary, paint.tissue
    span = edge_z - root_z
    missing = vary.between(0.0, 0.0, 0.2)
    metal = vary.between(0.0, 0.0, 0.25) if vary.chance(0.5) else 0.0
    for side in _SIDES:
        for number, angle in enumerate(_TOOTH_ANGLES):
            if vary.chance(missing):
                continue
            here = [side * angle, side * angle + 1.0]
            edge, beside = np.array(_dental_arch(here, *arch, edge_z, rise))
            root = edge + np.array([0.0, 2.0, -span])
            neck = edge + np.array([0.0, 0.5, -span * 0.45])
            turn = aligned_frame(root - edge, beside - edge)
            width, depth = _TOOTH_WIDTHS[number] * 0.95, _TOOTH_DEPTHS[number]
            crown = edge + 0.27 * (root - edge)
            half = 0.27 * abs(span)
            paint.add(
                ellipsoid(
                    (neck + root) / 2,
                    (width * 0.7, depth * 0.7, abs(span) * 0.45),
                    tissue.dentine,
                    label,
                    turn,
                ),
                ellipsoid(crown, (width, depth, half), tissue.enamel, label, turn),
                ellipsoid(
                    crown, (width - 1.2, depth - 1.2, half - 1.0), tissue.dentine, label, turn
                ),
            )
            if vary.chance(metal):
                filling = (width * 0.7, depth * 0.7, half * 0.7)
                paint.add(ellipsoid(crown, filling, tissue.metal, label, turn))


def _paint_mandible(paint: _Painter) -> None:
    """Paint the mandible with its rami, condyles and lower teeth."""
    vary, tissue = paint.vary, paint.tissue
    label = Label.MANDIBLE
    body = [(46, -12, -76), (41, -34, -81), (33, -56, -87), (21, -74, -92), (8, -83, -94)]
    loop = [*body, *[(-x, y, z) for x, y, z in reversed(body)]]
    ramus: list[list[tuple[float, float, float]]] = []
    for side in _SIDES:
        ramus.append([(side * 46, -14, -76), (side * 49, -10, -46)])
    paint.chain(loop, (13.5, 6.0), tissue.cortex, label, (0, 0, 1))
    for start, end in ramus:
        paint.chain([start, end], (5.0, 16.0), tissue.cortex, label)
    paint.blob((0, -86, -102), (14, 6, 7), tissue.cortex, label)  # chin
    paint.chain(loop, (11.0, 3.6), tissue.trabecula, label, (0, 0, 1))
    for side, (start, end) in zip(_SIDES, ramus, strict=True):
        paint.chain([start, end], (2.5, 13.5), tissue.trabecula, label)
        size = vary.factor(0.05)
        paint.chain([(side * 49, -6, -48), (side * 51, -2, -28)], (4, 6), tissue.cortex, label)
        paint.blob((side * 51, -2, -25), (9.5 * size, 4.5, 5), tissue.cortex, label)
        paint.chain([(side * 49, -20, -48), (side * 48, -25, -32)], (2.5, 5), tissue.cortex, label)
    _paint_teeth(paint, (27.0, 45.0, -36.0), -90.0, -71.5, 5.0, label)


def _paint_neck(paint: _Painter) -> None:
    """Cervical spine, spinal canal, pharynx, larynx, trachea and hyoid bone."""
    vary, tissue = paint.vary, paint.tissue
    bone, soft, air = Label.BONE, Label.SOFT_TISSUE, Label.INTERNAL_AIR
    lordosis = 3.0 + vary.shift(2.0)
    levels = [-70.0 - 17.0 * n for n in range(6)]
    fronts = [15.0 - lordosis * np.sin(np.pi * (n + 0.5) / 6.0) for n in range(6)]

    # Atlas: ring of two arches and two lateral masses below the occipital condyles.
    for side in _SIDES:
        paint.blob((side * 14, 22, -39), (6, 11, 6), tissue.trabecula, bone)
        paint.blob((side * 20, 24, -51), (9, 10, 7), tissue.thin_bone, bone)
        paint.blob((side * 32, 26, -52), (8, 5, 4), tissue.thin_bone, bone)
        paint.chain([(side * 18, 16, -51), (0, 8, -51)], (3, 5), tissue.cortex, bone)
        paint.chain(
            [(side * 20, 34, -51), (side * 12, 46, -51), (0, 50, -51)], (3, 4), tissue.cortex, bone
        )
    paint.chain([(0, 16, -46), (0, 16, -66)], (5, 5), tissue.cortex, bone)  # dens
    for n, (z, y) in enumerate(zip(levels, fronts, strict=True)):
        width = 11.0 + 0.7 * n
        paint.add(
            cylinder((0, y, z - 8.5), (0, y, z + 8.5), (width - 1, 8), tissue.disc, soft),
            cylinder((0, y, z - 6.5), (0, y, z + 6.5), (width, 8.5), tissue.cortex, bone),
            cylinder((0, y, z - 5.5), (0, y, z + 5.5), (width - 1.2, 7.3), tissue.trabecula, bone),
        )
        for side in _SIDES:
            paint.blob((side * 21, y + 12, z), (6, 7.5, 8.2), tissue.thin_bone, bone)
            paint.blob((side * 23, y + 3, z - 1), (6, 5, 3.5), tissue.thin_bone, bone)
            paint.chain(
                [(side * 19, y + 18, z - 1), (side * 2, y + 31, z - 4)],
                (2.5, 6),
                tissue.cortex,
                bone,
                (0, 1, 0),
            )
        spine = 9.0 if n in (1, 2, 3) else 14.0
        paint.blob(
            (0, y + 28 + spine, z - 8),
            (4, spine, 4.5),
            tissue.thin_bone,
            bone,
            rotation_about(0, -20.0),
        )
    canal = [(0.0, 29.0, -36.0), (0.0, 31.0, -54.0)]
    canal += [(0.0, y + 17.0, z) for y, z in zip(fronts, levels, strict=True)]
    paint.chain(canal, (11, 7.5), tissue.disc - 75.0, soft)
    paint.chain(canal, (6, 4.5), tissue.cord, soft)

    width = vary.factor(0.15)
    pharynx = [(0.0, -12.0, -30.0), (0.0, -5.0, -45.0), (0.0, -7.0, -66.0), (0.0, -10.0, -92.0)]
    paint.chain(pharynx[:2], (11 * width, 7), tissue.air, air)
    paint.chain(pharynx[1:], (9 * width, 6 * width), tissue.air, air)
    paint.chain([(0, -14, -92), (0, -17, -108)], (6, 5), tissue.air, air)
    paint.blob((0, -16, -90), (9, 1.5, 10), tissue.muscle, soft, rotation_about(0, 20.0))
    paint.chain([(0, -18, -106), (0, -14, -190)], (8, 8.5), tissue.air, air)
    paint.blob((0, -17, -113), (9, 10, 2.5), tissue.muscle, soft)  # vocal folds
    arch = _dental_arch((-85, -50, -20, 20, 50, 85), 20.0, 26.0, -12.0, -97.0, 0.0)
    paint.chain(arch, (4, 2), tissue.thin_bone, bone, (0, 0, 1))
