"""Simulated radiographs of head cases: random acquisitions and radiograph realism.

Geometry is drawn first: for each radiograph the assumed view, which is the network's input, and the
actual view, which takes the radiograph (they differ only where geometry errors are asked for). Line
integrals are projected through the actual views; realism works on line integrals, where the physics
is; tone and normalisation come last.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Randomizable, RandomizableTransform, Transform
from torch.nn import functional as F

from spider_bundle.dicom.image import normalise_radiograph
from spider_bundle.geometry import (
    LPS_TO_RAS,
    View,
    ViewPosition,
    isocentric_view,
    resize_matrix,
    rotation_about,
)
from spider_bundle.intensity import attenuation
from spider_bundle.projection import project_volume

Data = dict[Hashable, Any]


@dataclass(frozen=True)
class AcquisitionRanges:
    """Ranges from which the geometry of each view is drawn, uniformly and for each view alone.

    The defaults are protocol V1 of the evaluation.

    Attributes:
        sod: Distance from the source to the isocentre, mm.
        detector_distance: SDD - SOD, mm.
        rotation: Largest rotation about the vertical axis, degrees.
        tilt: Largest rotation towards head or feet, degrees.
        offset: Largest distance by which the central ray misses the isocentre, along both
            detector axes, mm.
        unmodelled_rotation: Largest rotation of the actual view against the assumed one about each
            axis, degrees.
        unmodelled_offset: Largest shift between them along each axis, mm.
        unmodelled_sod: Largest relative error of the assumed SOD.
    """

    sod: tuple[float, float] = (750.0, 1600.0)
    detector_distance: tuple[float, float] = (120.0, 250.0)
    rotation: float = 4.0
    tilt: float = 0.0
    offset: float = 8.0
    unmodelled_rotation: float = 0.0
    unmodelled_offset: float = 0.0
    unmodelled_sod: float = 0.0

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
        views = []
        for choices in ((ViewPosition.AP, ViewPosition.PA), (ViewPosition.LL, ViewPosition.RL)):
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
                rotation=turn,
                offset=tuple(rng.uniform(-self.offset, self.offset, size=2)),
            ).canonical(pixel_size, size, position)
            views.append((assumed, self._actual(assumed, rng)))
        return views

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


class SimulateRadiographsd(Randomizable, Transform):
    """Draw an acquisition and project the head.

    Sets ``line_integrals`` ``(2, H, W)`` (frontal, lateral; dimensionless) and ``projection``
    ``(2, 3, 4)`` (of the assumed views, LPS mm to pixels).

    Args:
        ranges: Geometry to draw from.
        size: Rows and columns of the image.
        pixel_size: Pixel size at the isocentre, mm.
        seed_by_case: Draw the geometry from the case's id alone, so that each case always has the
            same acquisition; for evaluation.
        stride: Project only every so many pixels and interpolate; 2 loses next to nothing on
            4 mm heads and is four times faster.
        error: Error of the assumed geometry, beside what the ranges leave unmodelled.
    """

    def __init__(
        self,
        ranges: AcquisitionRanges | Mapping[str, Any] | None = None,
        size: int = 256,
        pixel_size: float = 1.2,
        seed_by_case: bool = False,
        stride: int = 1,
        error: GeometryError | Mapping[str, float] | None = None,
    ) -> None:
        if not isinstance(ranges, AcquisitionRanges):
            ranges = AcquisitionRanges(**(ranges or {}))
        self.ranges = ranges
        self.error = error if isinstance(error, GeometryError) else GeometryError(**(error or {}))
        self.size = size
        self.pixel_size = pixel_size
        self.seed_by_case = seed_by_case
        self.stride = stride

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Project ``warped_ct`` or ``ct`` in its pose."""
        out = dict(data)
        rng = case_rng(str(out["case"])) if self.seed_by_case else self.R
        views = self.ranges.draw(rng, self.size, self.pixel_size)
        assumed = torch.from_numpy(np.stack([view.matrix for view, _ in views]))
        taken = [self.error.actual(view, lateral=i == 1) for i, (_, view) in enumerate(views)]
        actual = torch.from_numpy(np.stack([view.matrix for view in taken]))
        hu = out.get("warped_ct", out["ct"]).float()
        full, coarse = (self.size, self.size), (self.size // self.stride, self.size // self.stride)
        integrals = project_volume(
            attenuation(hu)[None],
            (out["pose"] @ out["affine"])[None],
            (torch.from_numpy(resize_matrix(full, coarse)) @ actual)[None],
            coarse,
        )
        if self.stride > 1:
            integrals = F.interpolate(integrals, full, mode="bilinear", align_corners=False)
        out["line_integrals"] = integrals[0]
        out["projection"] = assumed
        return out


def case_rng(case: str) -> np.random.RandomState:
    """Random numbers that depend on a case's id alone, on every machine."""
    return np.random.RandomState(zlib.crc32(case.encode()))


class CaseSeededCompose(Compose):
    """Transforms whose random choices depend on the case's id alone.

    For evaluation with random realism and poses: a case looks the same in every run.
    """

    def __call__(self, data: Mapping[Hashable, Any], *args: Any, **kwargs: Any) -> Data:
        """Seed all transforms by ``case``, then apply them."""
        self.set_random_state(seed=zlib.crc32(str(data["case"]).encode()))
        out: Data = super().__call__(data, *args, **kwargs)
        return out


class ToneCurved(Transform):
    """Apply one tone curve to ``line_integrals``, as a presentation processing would.

    Args:
        gamma: Exponent of a power curve.
        slope: Slope of a sigmoid around ``middle``, in place of the power curve.
        middle: Where on the normalised scale the sigmoid is steepest.
    """

    def __init__(self, gamma: float = 1.0, slope: float | None = None, middle: float = 0.5) -> None:
        self.gamma = gamma
        self.slope = slope
        self.middle = middle

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Change both radiographs."""
        out = dict(data)
        unit = torch.stack([_unit_range(image) for image in out["line_integrals"]])
        out["line_integrals"] = (
            unit**self.gamma
            if self.slope is None
            else torch.sigmoid(self.slope * (unit - self.middle))
        )
        return out


class RandRadiographRealismd(RandomizableTransform):
    """Make ``line_integrals`` look like radiographs; the order follows the physics.

    Scatter adds to the transmitted intensity, counts are Poisson, the beam hardens, the detector
    blurs or the reader sharpens, a tone curve is applied, collimators and stickers hide parts.
    Sets ``field`` (True where the radiograph is usable) beside the changed ``line_integrals``.

    Args:
        prob: Probability that a pair is changed at all.
        effect: Probability of each of the effects in a radiograph of a changed pair.
        scatter: Largest scatter-to-primary ratio behind the head.
        counts: Range of the incident photon counts per pixel (log-uniform).
        hardening: Largest relative loss of the densest ray to beam hardening.
        gamma: Range of the exponent of the tone curve.
        sigmoid: Range of the slope of the tone curve's sigmoid.
        blur: Largest Gaussian sigma, pixels; sharpening is drawn from the same range.
        collimation: Largest part of the image that each of the four blades may cover.
        stickers: Largest number of opaque marks.
    """

    def __init__(
        self,
        prob: float = 0.5,
        effect: float = 0.4,
        scatter: float = 1.0,
        counts: tuple[float, float] = (3e2, 3e4),
        hardening: float = 0.12,
        gamma: tuple[float, float] = (0.6, 1.6),
        sigmoid: tuple[float, float] = (2.0, 8.0),
        blur: float = 1.5,
        collimation: float = 0.15,
        stickers: int = 3,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        self.effect = effect
        self.scatter = scatter
        self.counts = counts
        self.hardening = hardening
        self.gamma = gamma
        self.sigmoid = sigmoid
        self.blur = blur
        self.collimation = collimation
        self.stickers = stickers

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Change each of the two radiographs on its own."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        changed = [self._one(image) for image in out["line_integrals"]]
        out["line_integrals"] = torch.stack([image for image, _ in changed])
        out["field"] = torch.stack([field for _, field in changed])
        return out

    def _happens(self) -> bool:
        return bool(self.R.random() < self.effect)

    def _one(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One radiograph ``(H, W)`` of line integrals."""
        transmitted = torch.exp(-image)
        if self._happens():
            # scatter is a broad veil, strongest behind the thick parts
            veil = _blurred(transmitted.clamp_min(1e-3), image.shape[0] / 10)
            transmitted = transmitted + self.R.uniform(0, self.scatter) * veil * 0.2
        if self._happens():
            count = float(np.exp(self.R.uniform(*np.log(self.counts))))
            sigma = (transmitted / count).sqrt()
            noise = torch.from_numpy(self.R.standard_normal(image.shape)).to(image)
            transmitted = transmitted + sigma * noise  # Gaussian limit of the Poisson counts
        image = -torch.log(transmitted.clamp_min(1e-4))
        if self._happens():
            top = image.max().clamp_min(1e-6)
            image = image * (1 - self.R.uniform(0, self.hardening) * image / top)
        if self._happens():
            sigma = self.R.uniform(0.3, max(self.blur, 0.3))
            smooth = _blurred(image, sigma)
            image = (
                smooth
                if self.R.random() < 0.5
                else image + self.R.uniform(0, 1.5) * (image - smooth)
            )
        if self._happens():
            image = self._tone(image)
        field = torch.ones_like(image, dtype=torch.bool)
        if self._happens():
            self._collimate(field)
        if self._happens() and self.stickers:
            self._stick(image, field)
        return image, field

    def _tone(self, image: torch.Tensor) -> torch.Tensor:
        """Return a monotone tone curve, as a manufacturer's presentation processing applies."""
        unit = _unit_range(image)
        if self.R.random() < 0.5:
            return unit ** float(self.R.uniform(*self.gamma))
        slope, middle = self.R.uniform(*self.sigmoid), self.R.uniform(0.35, 0.6)
        return torch.sigmoid(slope * (unit - middle))

    def _collimate(self, field: torch.Tensor) -> None:
        """Cover the borders by up to four blades."""
        h, w = field.shape
        top, bottom, left, right = (
            int(share * n)
            for share, n in zip(
                self.R.uniform(-0.5 * self.collimation, self.collimation, 4).clip(0),
                (h, h, w, w),
                strict=True,
            )
        )
        field[:top] = field[h - bottom :] = False
        field[:, :left] = field[:, w - right :] = False

    def _stick(self, image: torch.Tensor, field: torch.Tensor) -> None:
        """Opaque marks on the image; half of them are known and masked."""
        h, w = image.shape
        for _ in range(self.R.randint(1, self.stickers + 1)):
            rows, columns = self.R.randint(h // 40, h // 8, size=2)
            top, left = self.R.randint(0, h - rows), self.R.randint(0, w - columns)
            box = (slice(top, top + rows), slice(left, left + columns))
            if self.R.random() < 0.5:
                field[box] = False
            else:
                image[box] = image.max() if self.R.random() < 0.7 else image.min()


class NormaliseRadiographsd(Transform):
    """Turn ``line_integrals`` into the network's ``image``, as the DICOM path does.

    ``image`` is a MetaTensor with the geometry and the case's grid in its meta, so that the volume
    inferer reconstructs on the grid of the reference.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Set ``image`` ``(2, H, W)``."""
        out = dict(data)
        integrals = out["line_integrals"]
        field = out.get("field", torch.ones_like(integrals, dtype=torch.bool))
        affine = LPS_TO_RAS @ out["affine"].numpy()
        out["image"] = MetaTensor(
            normalise_radiograph(integrals, field),
            meta={
                "projection": out["projection"],
                "spatial_shape": torch.tensor(out["ct"].shape),
                "original_affine": torch.from_numpy(affine),
            },
        )
        return out


def _unit_range(image: torch.Tensor) -> torch.Tensor:
    """Return a radiograph on 0..1 between its extreme percentiles, with some room above."""
    low, high = torch.quantile(image.flatten(), torch.tensor([0.005, 0.995]).to(image))
    return ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1.2)


def _blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of ``(H, W)``, at low resolution where the blur is wide."""
    factor = max(1, int(sigma // 4))
    small = F.avg_pool2d(image[None, None], factor) if factor > 1 else image[None, None]
    width = sigma / factor
    reach = max(1, int(3 * width + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).to(image) / width) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(small, (reach,) * 4, mode="replicate")
    smooth = F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])
    if factor > 1:
        smooth = F.interpolate(smooth, image.shape, mode="bilinear", align_corners=False)
    return smooth[0, 0]
