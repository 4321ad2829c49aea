"""Phantoms of convex bodies: exact HU and labels at points, exact line integrals through views.

A phantom is a painter's list of convex primitives (ellipsoids and elliptic cylinders, cut by
half-spaces) in patient LPS mm with the isocentre as the origin: where primitives overlap, the last
one painted wins. A ray meets a convex body in one interval, so the sorted interval ends split it
into segments of known material and the line integral is exact. This makes a phantom an oracle for
projectors and for the geometry of a whole reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from spider_bundle.geometry import FloatArray, Grid, View
from spider_bundle.intensity import attenuation
from spider_bundle.labels import Label
from spider_bundle.slot_view import SlotView

AIR_HU: float = -1000.0
"""HU outside every primitive."""

_WORD = 52  # bits that a float64 holds exactly, so that frexp finds the highest one
_RAYS_PER_BLOCK = 1 << 15
_VOXELS_PER_SLAB = 1 << 22


@dataclass(frozen=True)
class Primitive:
    """A convex body of one material: an ellipsoid or elliptic cylinder cut by half-spaces.

    A point ``p`` has the local coordinates ``u = axes^-1 (p - centre)``. It is inside if the first
    ``round_axes`` of them have a norm of at most 1 and ``planes[:, :3] @ u <= planes[:, 3]``.
    Nothing of the body is outside ``|u| <= 1`` per coordinate. Since the planes are local, any
    affine map only changes ``centre`` and ``axes``.

    Attributes:
        centre: LPS mm, shape ``(3,)``.
        axes: Columns are the half axes, LPS mm, shape ``(3, 3)``; they need not be orthogonal.
        round_axes: 3 for an ellipsoid, 2 for a cylinder along the third axis.
        planes: Half-spaces in local coordinates, shape ``(M, 4)``.
        hu: HU of the material.
        label: Label of the material.
    """

    centre: FloatArray
    axes: FloatArray
    round_axes: int
    planes: FloatArray
    hu: float
    label: Label

    @property
    def inverse(self) -> FloatArray:
        """LPS vectors to local ones, shape ``(3, 3)``."""
        return np.asarray(np.linalg.inv(self.axes), dtype=np.float64)

    @property
    def corners(self) -> FloatArray:
        """LPS corners of the parallelepiped around the body, shape ``(8, 3)``."""
        signs = np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3, indexing="ij"), axis=-1).reshape(8, 3)
        corners: FloatArray = self.centre + signs @ self.axes.T
        return corners

    def mapped(self, matrix: FloatArray) -> Primitive:
        """Return the body under an affine map of shape ``(4, 4)``."""
        linear = matrix[:3, :3]
        return replace(self, centre=linear @ self.centre + matrix[:3, 3], axes=linear @ self.axes)

    def cut(self, normal: npt.ArrayLike, distance: float) -> Primitive:
        """Return the part of the body where ``normal @ p <= distance`` (LPS mm)."""
        direction = np.asarray(normal, dtype=np.float64)
        plane = np.array([*(direction @ self.axes), distance - direction @ self.centre])
        return replace(self, planes=np.concatenate([self.planes, plane[None]]))

    def local_inside(self, local: Sequence[FloatArray]) -> npt.NDArray[np.bool_]:
        """Tell which points, given by three broadcastable local coordinates, are inside."""
        distance = sum((u * u for u in local[1 : self.round_axes]), local[0] * local[0])
        inside: npt.NDArray[np.bool_] = distance <= 1.0
        for plane in self.planes:
            # Skipping absent axes keeps the caps of cylinders cheap on voxel grids.
            terms = [c * u for c, u in zip(plane[:3], local, strict=True) if c != 0.0]
            inside = inside & (sum(terms[1:], terms[0]) <= plane[3])
        return inside

    def intervals(
        self, source: FloatArray, rays: Sequence[FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        """Find where rays ``source + t * ray`` enter and leave the body, ``t`` clipped to [0, 1].

        Args:
            source: Local coordinates of the source, shape ``(3,)``.
            rays: The three local coordinates of the rays, each of shape ``(R,)``.

        Returns:
            Entry and exit, each of shape ``(R,)``; the exit is not after the entry on a miss.
        """
        a = sum((d * d for d in rays[1 : self.round_axes]), rays[0] * rays[0])
        b = sum(
            (o * d for o, d in zip(source[1 : self.round_axes], rays[1:], strict=False)),
            source[0] * rays[0],
        )
        c = float(source[: self.round_axes] @ source[: self.round_axes]) - 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(b * b - a * c)
            entry = np.fmax((-b - root) / a, 0.0)
            leave = np.fmin((-b + root) / a, 1.0)
            miss = ~(root > 0.0)
            along = a == 0.0  # parallel to the axis of a cylinder
            if along.any():
                entry[along], leave[along] = 0.0, 1.0
                miss[along] = c > 0.0
            leave[miss] = -1.0
            for plane in self.planes:
                start = float(plane[:3] @ source) - plane[3]
                rate = plane[0] * rays[0] + plane[1] * rays[1] + plane[2] * rays[2]
                crossing = -start / rate
                np.minimum(leave, crossing, out=leave, where=rate > 0.0)
                np.maximum(entry, crossing, out=entry, where=rate < 0.0)
                if start > 0.0:
                    leave[rate == 0.0] = -1.0
        return entry, leave


def ellipsoid(
    centre: npt.ArrayLike,
    semi: npt.ArrayLike,
    hu: float,
    label: Label,
    rotation: npt.ArrayLike | None = None,
) -> Primitive:
    """Return an ellipsoid.

    Args:
        centre: LPS mm, shape ``(3,)``.
        semi: Half axes in mm, one value or three.
        hu: HU of the material.
        label: Label of the material.
        rotation: Directions of the axes as columns, shape ``(3, 3)``; LPS if not given.
    """
    turn = np.eye(3) if rotation is None else np.asarray(rotation, dtype=np.float64)
    axes = turn * np.broadcast_to(np.asarray(semi, dtype=np.float64), 3)
    middle = np.asarray(centre, dtype=np.float64)
    return Primitive(middle, axes, 3, np.zeros((0, 4)), float(hu), label)


def cylinder(
    start: npt.ArrayLike,
    end: npt.ArrayLike,
    semi: tuple[float, float],
    hu: float,
    label: Label,
    first_axis: npt.ArrayLike = (1.0, 0.0, 0.0),
) -> Primitive:
    """Return an elliptic cylinder with flat ends.

    Args:
        start: Middle of one end, LPS mm, shape ``(3,)``.
        end: Middle of the other end, LPS mm, shape ``(3,)``.
        semi: Half axes of the cross-section, mm.
        hu: HU of the material.
        label: Label of the material.
        first_axis: Direction to which the first half axis is closest, shape ``(3,)``.
    """
    first, last = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    half = np.array([*semi, np.linalg.norm(last - first) / 2])
    axes = aligned_frame(last - first, first_axis) * half
    caps = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, -1.0, 1.0]])
    return Primitive((first + last) / 2, axes, 2, caps, float(hu), label)


def aligned_frame(direction: FloatArray, first_axis: npt.ArrayLike) -> FloatArray:
    """Return the rotation with a direction as third column, its first closest to another."""
    third = direction / np.linalg.norm(direction)
    first = np.asarray(first_axis, dtype=np.float64)
    first = first - (first @ third) * third
    first = first / np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], axis=1)


@dataclass(frozen=True)
class Phantom:
    """A painter's list of convex primitives in LPS mm, isocentre at the origin.

    Attributes:
        primitives: Bodies in painting order: later ones override earlier ones.
    """

    primitives: tuple[Primitive, ...]

    def transformed(self, matrix: npt.ArrayLike) -> Self:
        """Return the phantom moved rigidly.

        Args:
            matrix: LPS mm to LPS mm, shape ``(4, 4)``.

        Raises:
            ValueError: The matrix is not a rigid motion.
        """
        motion = np.asarray(matrix, dtype=np.float64)
        rotation = motion[:3, :3]
        if not (
            motion.shape == (4, 4)
            and np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
            and np.linalg.det(rotation) > 0
            and np.allclose(motion[3], (0, 0, 0, 1))
        ):
            raise ValueError("not a rigid motion")
        return replace(self, primitives=tuple(p.mapped(motion) for p in self.primitives))

    def with_markers(
        self, positions: npt.ArrayLike, radius_mm: float = 1.5, hu: float = 10000.0
    ) -> Self:
        """Return the phantom with dense balls at known places, labelled bone and painted last.

        Args:
            positions: LPS mm, shape ``(N, 3)``.
            radius_mm: Radius of the balls.
            hu: HU of the balls.
        """
        balls = (ellipsoid(p, radius_mm, hu, Label.BONE) for p in np.atleast_2d(positions))
        return replace(self, primitives=(*self.primitives, *balls))

    @property
    def _hu_table(self) -> FloatArray:
        """HU by painting index plus one; index 0 is the outside air."""
        return np.array([AIR_HU, *(primitive.hu for primitive in self.primitives)])

    @property
    def _label_table(self) -> npt.NDArray[np.uint8]:
        """Label by painting index plus one; index 0 is the background."""
        labels = (primitive.label for primitive in self.primitives)
        return np.array([Label.BACKGROUND, *labels], dtype=np.uint8)

    def _painted(self, points: npt.ArrayLike) -> npt.NDArray[np.uint16]:
        """Return painting index plus one of the primitive that wins at each point, 0 outside."""
        world = np.asarray(points, dtype=np.float64)
        flat = world.reshape(-1, 3)
        winner = np.zeros(len(flat), dtype=np.uint16)
        for index, primitive in enumerate(self.primitives, start=1):
            half = np.abs(primitive.axes).sum(axis=1) * (1.0 + 1e-9)
            near = np.ones(len(flat), dtype=bool)
            for axis in range(3):
                near &= np.abs(flat[:, axis] - primitive.centre[axis]) <= half[axis]
            candidates = np.flatnonzero(near)
            local = (flat[candidates] - primitive.centre) @ primitive.inverse.T
            winner[candidates[primitive.local_inside((*local.T,))]] = index
        return winner.reshape(world.shape[:-1])

    def hu(self, points: npt.ArrayLike) -> FloatArray:
        """Return HU at points.

        Args:
            points: LPS mm, shape ``(..., 3)``.

        Returns:
            HU, shape ``(...)``; :data:`AIR_HU` outside all bodies.
        """
        values: FloatArray = self._hu_table[self._painted(points)]
        return values

    def labels(self, points: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Return labels at points.

        Args:
            points: LPS mm, shape ``(..., 3)``.

        Returns:
            Label values, shape ``(...)``.
        """
        values: npt.NDArray[np.uint8] = self._label_table[self._painted(points)]
        return values

    def voxelise(
        self, grid: Grid, supersample: int = 1
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
        """Return HU and labels on a voxel grid.

        Args:
            grid: Any grid, also one turned against the patient axes.
            supersample: Number of sub-points per voxel and axis. HU is their mean, as in a CT with
                partial volume; the label is the most frequent one, the centre's among equals.

        Returns:
            HU (int16, clipped to its range) and labels (uint8), both of shape ``(X, Y, Z)``.

        Raises:
            ValueError: ``supersample`` is less than 1.
        """
        if supersample < 1:
            raise ValueError(f"supersample must be at least 1, got {supersample}")
        hu = np.empty(grid.shape, dtype=np.int16)
        labels = np.empty(grid.shape, dtype=np.uint8)
        _, columns, slices = grid.shape
        step = max(1, _VOXELS_PER_SLAB // (columns * slices * supersample**3))
        for first in range(0, grid.shape[0], step):
            slab = slice(first, min(first + step, grid.shape[0]))
            painted = self._painted_slab(grid, slab, supersample)
            blocks = (painted.shape[0] // supersample, supersample, columns, supersample, slices)
            painted = painted.reshape(*blocks, supersample)
            mean = self._hu_table[painted].mean(axis=(1, 3, 5))
            hu[slab] = np.clip(np.rint(mean), -32768, 32767)
            votes = self._label_table[painted]
            centre = self._label_table[self._painted_slab(grid, slab, 1)]
            counts = [
                2 * np.count_nonzero(votes == label, axis=(1, 3, 5)) + (centre == label)
                for label in sorted(Label)
            ]
            labels[slab] = np.argmax(np.stack(counts), axis=0)
        return hu, labels

    def _painted_slab(self, grid: Grid, slab: slice, supersample: int) -> npt.NDArray[np.uint16]:
        """Return painting index plus one on the sub-points of some first-axis indices."""
        shape = np.array([slab.stop - slab.start, *grid.shape[1:]]) * supersample
        # Sub-point j of voxel i is at index i + (j + 1/2) / s - 1/2.
        linear = grid.affine[:3, :3] / supersample
        offset = np.array([slab.start, 0.0, 0.0]) + 0.5 / supersample - 0.5
        origin = grid.affine[:3, :3] @ offset + grid.affine[:3, 3]
        to_index = np.linalg.inv(linear)
        winner = np.zeros(tuple(shape), dtype=np.uint16)
        for index, primitive in enumerate(self.primitives, start=1):
            corners = (primitive.corners - origin) @ to_index.T
            low = np.maximum(np.ceil(corners.min(axis=0) - 1e-6), 0).astype(int)
            high = np.minimum(np.floor(corners.max(axis=0) + 1e-6) + 1, shape).astype(int)
            if (high <= low).any():
                continue
            i, j, k = np.ogrid[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            inverse = primitive.inverse
            rate = inverse @ linear
            start = inverse @ (origin - primitive.centre)
            local = [r[0] * i + r[1] * j + (r[2] * k + s) for r, s in zip(rate, start, strict=True)]
            box = winner[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            box[primitive.local_inside(local)] = index
        return winner

    def line_integrals(self, view: View) -> FloatArray:
        """Return exact line integrals of the linear attenuation from the source to every pixel.

        Args:
            view: Source and detector; only what lies between them counts.

        Returns:
            Dimensionless integrals of :func:`spider_bundle.intensity.attenuation`, with nothing
            outside all bodies, shape ``(rows, columns)``.
        """
        rows, columns = view.shape
        if isinstance(view, SlotView):
            return np.concatenate([self.line_integrals(view.fan(row)) for row in range(rows)])
        matrix = view.matrix
        bounds = [_pixel_bounds(primitive, matrix) for primitive in self.primitives]
        image = np.empty(view.shape)
        step = max(1, _RAYS_PER_BLOCK // columns)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            image[first:last] = self._block_integrals(view, bounds, first, last)
        return image

    def _block_integrals(
        self, view: View, bounds: Sequence[npt.NDArray[np.int64]], first: int, last: int
    ) -> FloatArray:
        """Return line integrals of the image rows ``first:last``."""
        columns = view.shape[1]
        across = view.spacing[1] * view.column_vector
        down = view.spacing[0] * view.row_vector
        towards = view.origin - view.source
        mu: list[float] = []
        hits: list[npt.NDArray[np.int64]] = []
        entries: list[FloatArray] = []
        exits: list[FloatArray] = []
        for primitive, (left, top, right, bottom) in zip(self.primitives, bounds, strict=True):
            i = np.arange(max(top, first), min(bottom, last - 1) + 1)
            j = np.arange(max(left, 0), min(right, columns - 1) + 1)
            if not (len(i) and len(j)):
                continue
            inverse = primitive.inverse
            rays = [
                (r @ across * j + (r @ down * i + r @ towards)[:, None]).ravel() for r in inverse
            ]
            entry, leave = primitive.intervals(inverse @ (view.source - primitive.centre), rays)
            hit = np.flatnonzero(leave > entry)
            if len(hit):
                row, column = np.divmod(hit, len(j))
                hits.append(((i[0] - first + row) * columns + j[0] + column).astype(np.int64))
                entries.append(entry[hit])
                exits.append(leave[hit])
                mu.append(float(attenuation(np.array(primitive.hu))))
        count = (last - first) * columns
        if not hits:
            return np.zeros((last - first, columns))
        integral = _painted_integrals(hits, entries, exits, np.array(mu), count)
        i, j = np.ogrid[first:last, :columns]
        lengths = np.linalg.norm(towards + j[..., None] * across + i[..., None] * down, axis=-1)
        block: FloatArray = integral.reshape(last - first, columns) * lengths
        return block


def _pixel_bounds(primitive: Primitive, matrix: FloatArray) -> npt.NDArray[np.int64]:
    """Return left, top, right, bottom: the pixels that a primitive may shadow, inclusive."""
    homogeneous = primitive.corners @ matrix[:, :3].T + matrix[:, 3]
    limit = 1 << 40
    if (homogeneous[:, 2] <= 1e-9).any():  # reaches behind the source
        return np.array([-limit, -limit, limit, limit], dtype=np.int64)
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    ends = np.concatenate([np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0))])
    bounds: npt.NDArray[np.int64] = ends.clip(-limit, limit).astype(np.int64)
    return bounds


def _painted_integrals(
    hits: Sequence[npt.NDArray[np.int64]],
    entries: Sequence[FloatArray],
    exits: Sequence[FloatArray],
    mu: FloatArray,
    count: int,
) -> FloatArray:
    """Integrate the last-painted material along rays from the interval of each primitive.

    The interval ends of all rays are sorted together. Each end toggles the bit of its primitive;
    the running exclusive or is the set of primitives around the following segment, and its
    highest bit is the one painted last.

    Args:
        hits: Ray indices met by each primitive, in painting order, each of shape ``(R_k,)``.
        entries: Where they enter, ray parameter in [0, 1], each of shape ``(R_k,)``.
        exits: Where they leave, each of shape ``(R_k,)``.
        mu: Attenuation of each primitive, shape ``(K,)``.
        count: Number of rays.

    Returns:
        Integral over the ray parameter, shape ``(count,)``.
    """
    owner = np.repeat(np.arange(len(hits)), [len(hit) for hit in hits])
    owner = np.concatenate([owner, owner])
    ray = np.concatenate([*hits, *hits])
    at = np.concatenate([*entries, *exits])
    order = np.argsort(2.0 * ray + at)  # a gap between rays keeps their ends apart
    owner, ray, at = owner[order], ray[order], at[order]
    value = np.zeros(len(at))
    word = owner // _WORD
    bit = np.left_shift(np.int64(1), owner % _WORD)
    for number in range(int(word.max()) + 1):
        inside = np.bitwise_xor.accumulate(np.where(word == number, bit, 0))
        segments = np.flatnonzero(inside)
        highest = np.frexp(inside[segments].astype(np.float64))[1] - 1
        value[segments] = mu[number * _WORD + highest]
    lengths = np.diff(at, append=at[-1])
    return np.asarray(np.bincount(ray, weights=value * lengths, minlength=count), dtype=np.float64)
