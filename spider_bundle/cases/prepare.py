"""From a CT on any grid to a head case: locate, crop, resample, clean, check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spider_bundle.cases.cleaning import OUTSIDE_HU, remove_table
from spider_bundle.cases.labelling import label_head
from spider_bundle.cases.localise import locate_head
from spider_bundle.cases.quality import CHECKS, METAL_HU, Verdict, judge, measure_head, worst
from spider_bundle.cases.resampling import resample
from spider_bundle.errors import Code, SpiderError
from spider_bundle.geometry import Grid

MEASURED_SHARE = 0.5
"""A voxel counts as measured if at least this share of it was."""
MIN_CORRELATION = 0.5
"""A head looks at least this much like the analytic one."""


@dataclass(frozen=True)
class PreparedHead:
    """A head on a cube about its isocentre, which is the origin.

    Attributes:
        hu: Cleaned CT, float32, shape ``(X, Y, Z)``; -1000 where nothing was measured.
        structure: Tissue labels, uint8, same shape.
        measured: Where the CT was measured, same shape.
        grid: Axis-aligned grid, LPS mm.
        isocentre: Where the origin lies in the space of the scan, LPS mm, shape ``(3,)``.
        checks: Value of each of :data:`~.quality.CHECKS`.
    """

    hu: npt.NDArray[np.float32]
    structure: npt.NDArray[np.uint8]
    measured: npt.NDArray[np.bool_]
    grid: Grid
    isocentre: npt.NDArray[np.float64]
    checks: dict[str, float | None]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Verdict of each check."""
        return {name: judge(name, value) for name, value in self.checks.items()}

    @property
    def verdict(self) -> Verdict:
        """The worst verdict."""
        return worst(self.verdicts.values())


def prepare_head(
    hu: npt.NDArray[Any],
    measured: npt.NDArray[np.bool_],
    grid: Grid,
    *,
    spacing: float = 4.0,
    size: float = 256.0,
    isocentre: npt.ArrayLike | None = None,
    gantry_tilt: float = 0.0,
) -> PreparedHead:
    """Prepare one scan.

    Args:
        hu: CT in HU, shape ``(X, Y, Z)``.
        measured: Where the CT was measured, same shape.
        grid: Its grid, LPS mm of the scan; may be oblique or sheared.
        spacing: Voxel size of the case, mm.
        size: Side of the cube, mm.
        isocentre: LPS mm of the scan, shape ``(3,)``; found from the anatomy if not given.
        gantry_tilt: For the report, degrees.

    Raises:
        SpiderError: P11, there is no head.
    """
    location = locate_head(hu, measured, grid)
    if isocentre is None:
        if location.correlation < MIN_CORRELATION:
            raise SpiderError(Code.NO_HEAD, f"correlation {location.correlation:.2f}")
        origin = location.isocentre
    else:
        origin = np.asarray(isocentre, dtype=np.float64)
    cube = Grid.centred(spacing, max(1, round(size / spacing)))
    values, share = resample(hu, measured, grid, moved(cube, origin))
    known = share >= MEASURED_SHARE
    values = np.where(known, values, np.float32(OUTSIDE_HU))
    cleaned, kept = remove_table(values, cube)
    if not kept.any():
        raise SpiderError(Code.NO_HEAD, "nothing is as dense as a body")
    structure = label_head(cleaned, cube.spacing)
    around = values[known & ~kept & (values < -500)]
    seen: dict[str, float | None] = {
        "slices": float(min(grid.shape)),
        "spacing_mm": max(grid.spacing),
        "gantry_tilt_degrees": gantry_tilt,
        "head_correlation": location.correlation if isocentre is None else None,
        "air_hu": float(np.median(around)) if around.size else None,
        "metal_ml": _metal_ml(hu, measured, grid),
        **measure_head(cleaned, structure, known, cube),
    }
    if isocentre is not None:
        del seen["head_correlation"]  # a stated place needs no likeness
    checks = {name: seen[name] for name in CHECKS if name in seen}
    return PreparedHead(cleaned, structure, known, cube, origin, checks)


def moved(grid: Grid, origin: npt.NDArray[np.float64]) -> Grid:
    """Return a grid about the isocentre in the space of the scan (LPS mm)."""
    affine = grid.affine.copy()
    affine[:3, 3] += origin
    return Grid(grid.shape, affine)


def _metal_ml(hu: npt.NDArray[Any], measured: npt.NDArray[np.bool_], grid: Grid) -> float:
    voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000.0
    return float(np.count_nonzero((hu > METAL_HU) & measured)) * voxel_ml
