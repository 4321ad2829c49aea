"""Simulated radiographs of head cases: random acquisitions and radiograph realism.

Geometry is drawn first: for each radiograph the assumed view, which is the network's input, and the
actual view, which takes the radiograph (they differ only where geometry errors are asked for). Line
integrals are projected through the actual views; realism works on line integrals, where the physics
is; tone and normalisation come last.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Randomizable, RandomizableTransform, Transform
from torch.nn import functional as F

from spider_bundle.acquisition import AcquisitionRanges as AcquisitionRanges
from spider_bundle.acquisition import GeometryError as GeometryError
from spider_bundle.dicom.image import normalise_radiograph
from spider_bundle.geometry import (
    LPS_TO_RAS,
    rotation_about,
)
from spider_bundle.intensity import attenuation
from spider_bundle.projection import project_volume
from spider_bundle.projection_matrix import resize_matrix

Data = dict[Hashable, Any]


class SimulateRadiographsd(Randomizable, Transform):
    """Draw an acquisition and project the head.

    Sets ``line_integrals`` ``(2, H, W)`` (frontal, lateral; dimensionless) and ``projection``
    ``(2, 4, 4)`` (of the assumed views, LPS mm to pixels).

    Args:
        ranges: Geometry to draw from.
        size: Rows and columns of the image.
        pixel_size: Pixel size at the isocentre, mm.
        seed_by_case: Draw the geometry from the case's id alone, so that each case always has the
            same acquisition; for evaluation.
        stride: Project only every so many pixels and interpolate; 2 loses next to nothing on
            4 mm heads and is four times faster.
        error: Error of the assumed geometry, beside what the ranges leave unmodelled.
        world: How often, and by how many degrees about and mm along each axis at most, the world
            is moved against the finished radiographs and the head.
    """

    def __init__(
        self,
        ranges: AcquisitionRanges | Mapping[str, Any] | None = None,
        size: int = 256,
        pixel_size: float = 1.2,
        seed_by_case: bool = False,
        stride: int = 1,
        error: GeometryError | Mapping[str, float] | None = None,
        world: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        if not isinstance(ranges, AcquisitionRanges):
            ranges = AcquisitionRanges(**(ranges or {}))
        self.ranges = ranges
        self.error = error if isinstance(error, GeometryError) else GeometryError(**(error or {}))
        self.size = size
        self.pixel_size = pixel_size
        self.seed_by_case = seed_by_case
        self.stride = stride
        self.world = world

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
        probability, degrees, shift = self.world
        if probability and rng.random_sample() < probability:
            move = np.eye(4)
            for axis in range(3):
                move[:3, :3] = rotation_about(axis, rng.uniform(-degrees, degrees)) @ move[:3, :3]
            move[:3, 3] = rng.uniform(-shift, shift, size=3)
            out["pose"] = torch.from_numpy(move) @ out["pose"]
            assumed = assumed @ torch.from_numpy(np.linalg.inv(move))
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
