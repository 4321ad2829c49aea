"""Quality checks of a prepared head: numbers with a verdict each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from spider_bundle.geometry import Grid
from spider_bundle.labels import BONES, Label

METAL_HU = 2950.0
"""At least this is metal; the densest value of 12 bit CT is 3071."""


class Verdict(StrEnum):
    """What a check says, from good to bad."""

    OK = "ok"
    WARN = "warn"
    REJECT = "reject"


@dataclass(frozen=True)
class Range:
    """Good values and possible values of a check.

    Attributes:
        meaning: What the number is.
        good: Inclusive range without a warning.
        possible: Inclusive range outside of which the case is rejected.
    """

    meaning: str
    good: tuple[float, float]
    possible: tuple[float, float] = (-math.inf, math.inf)


_ANY = math.inf

CHECKS: Mapping[str, Range] = MappingProxyType(
    {
        "slices": Range("number of slices", (40, _ANY), (16, _ANY)),
        "spacing_mm": Range("largest voxel size of the scan, mm", (0, 3.5), (0, 6.5)),
        "gantry_tilt_degrees": Range("gantry tilt that was corrected, degrees", (0, 25), (0, 35)),
        "head_correlation": Range("correlation with the head phantom", (0.6, 1), (0.5, 1)),
        "isocentre_measured": Range("1 if the isocentre was measured", (1, 1)),
        "measured_fraction": Range("measured share of the cube", (0.4, 1), (0.1, 1)),
        "head_height_mm": Range("height of the measured head, mm", (150, _ANY), (80, _ANY)),
        "body_ml": Range("volume of the measured head, ml", (2000, 9000), (1000, 16000)),
        "bone_ml": Range("volume of bone, ml", (300, 2500), (100, 4000)),
        "intracranial_ml": Range("volume of the intracranial space, ml", (900, 2000), (100, 3000)),
        "vault_completeness": Range(
            "share of the intracranial space with measured bone above it", (0.9, 1)
        ),
        "vertex_margin_mm": Range("measured air above the head, mm", (1, _ANY)),
        "lateral_cut": Range("share of the head's sides cut by the edge", (0, 0.03), (0, 0.4)),
        "brain_hu": Range("median HU of the intracranial space", (10, 55), (-100, 150)),
        "air_hu": Range("median HU of the air around the head", (-1030, -950), (-1100, -800)),
        "metal_ml": Range("volume of metal, ml", (0, 1.0)),
    }
)
"""All checks, in the order of the report."""


def judge(name: str, value: float | None) -> Verdict:
    """Verdict on the value of one of the :data:`CHECKS`; a value that is not known is a warning."""
    limits = CHECKS[name]
    if value is None or not math.isfinite(value):
        return Verdict.WARN
    if not limits.possible[0] <= value <= limits.possible[1]:
        return Verdict.REJECT
    return Verdict.OK if limits.good[0] <= value <= limits.good[1] else Verdict.WARN


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of some verdicts; ok if there are none."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.OK)


def measure_head(
    hu: npt.NDArray[np.floating],
    structure: npt.NDArray[np.uint8],
    measured: npt.NDArray[np.bool_],
    grid: Grid,
) -> dict[str, float | None]:
    """Those of the :data:`CHECKS` that are seen in the prepared head.

    Args:
        hu: Cleaned CT, shape ``(X, Y, Z)``.
        structure: Its labels.
        measured: Where it was measured.
        grid: Their axis-aligned grid; the origin is the isocentre.
    """
    step = np.array(grid.spacing)
    voxel_ml = float(np.prod(step)) / 1000.0
    head = (structure != Label.BACKGROUND) & measured
    brain = (structure == Label.INTRACRANIAL) & measured
    levels = np.flatnonzero(head.any(axis=(0, 1)))
    deep = brain & ndimage.binary_erosion(brain, iterations=max(1, round(3.0 / float(step.min()))))
    isocentre = np.rint(np.linalg.solve(grid.affine, [0.0, 0.0, 0.0, 1.0])[:3]).astype(int)
    bone = np.isin(structure, BONES) & measured
    return {
        "isocentre_measured": float(measured[tuple(isocentre)]),
        "measured_fraction": float(measured.mean()),
        "head_height_mm": float((np.ptp(levels) + 1) * step[2]) if levels.size else 0.0,
        "body_ml": float(head.sum()) * voxel_ml,
        "bone_ml": float(bone.sum()) * voxel_ml,
        "intracranial_ml": float(brain.sum()) * voxel_ml,
        "vault_completeness": _covered(brain, bone),
        "vertex_margin_mm": _margin_above(head, measured) * float(step[2]) if levels.size else None,
        "lateral_cut": _lateral_cut(head, measured),
        "brain_hu": float(np.median(hu[deep])) if deep.any() else None,
    }


def _covered(brain: npt.NDArray[np.bool_], bone: npt.NDArray[np.bool_]) -> float | None:
    """Of the columns (along z) that hold brain, the share with bone above the highest brain."""
    columns = brain.any(axis=2)
    highest = brain.shape[2] - 1 - brain[:, :, ::-1].argmax(axis=2)
    above = np.arange(brain.shape[2]) > highest[..., None]
    return float((bone & above).any(axis=2)[columns].mean()) if columns.any() else None


def _margin_above(head: npt.NDArray[np.bool_], measured: npt.NDArray[np.bool_]) -> int:
    """Measured levels above the highest point of the head, at that point."""
    level = int(np.flatnonzero(head.any(axis=(0, 1)))[-1])
    above = measured[:, :, level + 1 :][head[:, :, level]]
    return int(above.all(axis=0).sum()) if above.size else 0


def _lateral_cut(head: npt.NDArray[np.bool_], measured: npt.NDArray[np.bool_]) -> float | None:
    """Of the faces at the sides of the head, the share that leads to what was not measured."""
    cut = faces = 0
    for axis in (0, 1):
        for shift in (1, -1):
            beyond = np.roll(head, shift, axis)
            known = np.roll(measured, shift, axis)
            edge = [slice(None)] * 3
            edge[axis] = slice(0, 1) if shift == 1 else slice(-1, None)
            beyond[tuple(edge)] = known[tuple(edge)] = False
            side = head & ~beyond
            faces += int(side.sum())
            cut += int((side & ~known).sum())
    return cut / faces if faces else None
