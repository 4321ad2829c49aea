"""Results beside the CT of the same head, as a hospital has them: `spider compare` and `validate`.

The CT is prepared as the training heads are. Scores are stated as the result lies in the scanner's
frame, and after rigid registration, as the frame of two radiographs is only as good as the table.
The naive control is the mean CT of the other studies about their isocentres.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from spider_bundle.arrays import FloatArray, Mask
from spider_bundle.cases.labelling import BODY_HU, BONE_HU
from spider_bundle.cases.prepare import PreparedHead, prepare_head
from spider_bundle.cases.resampling import block_means
from spider_bundle.cases.scan import Scan
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.localiser_choice import covers_head
from spider_bundle.dicom.studies import Study
from spider_bundle.errors import Code, SpiderError
from spider_bundle.evaluation.methods import Reconstruction
from spider_bundle.evaluation.metrics import score_case
from spider_bundle.evaluation.registration import RigidFit, moved_onto, register, register_bone
from spider_bundle.geometry import Grid
from spider_bundle.labels import Label
from spider_bundle.outputs.report import REPORT_FILE
from spider_bundle.outputs.study import CT_FILE, LABEL_FILE

AS_IT_LIES, REGISTERED, MEAN_CT = "as it lies", "after registration", "mean CT of the others"
"""Titles of what is scored."""
_FIT_MM = 4.0


@dataclass(frozen=True)
class StoredResult:
    """A finished study, read from its folder.

    Attributes:
        reconstruction: HU and labels.
        grid: Their grid in the frame of the outputs, LPS mm.
        isocentre: Where the isocentre lies in the scanner's frame, LPS mm; None if there is none.
    """

    reconstruction: Reconstruction
    grid: Grid
    isocentre: FloatArray | None


@dataclass(frozen=True)
class Comparison:
    """One result beside its CT.

    Attributes:
        scores: Scores by title: :data:`AS_IT_LIES` (only in a common frame), :data:`REGISTERED`.
        fit: The rigid motion that registers the result.
        bone_fit: That of bone alone, whose translation is the position error; None where result
            and CT lie in no common frame.
        head: The prepared CT.
        registered: The registered result.
    """

    scores: Mapping[str, Mapping[str, float | None]]
    fit: RigidFit
    bone_fit: RigidFit | None
    head: PreparedHead
    registered: Reconstruction


def read_result(folder: str | Path) -> StoredResult:
    """Read the CT and the labels of a study's folder.

    Raises:
        SpiderError: N07, it holds no finished result with NIfTI files.
    """
    try:
        report = json.loads(Path(folder, REPORT_FILE).read_text(encoding="utf-8"))
        ct, label = (nibabel.load(Path(folder, name)) for name in (CT_FILE, LABEL_FILE))
        hu = ct.get_fdata(dtype=np.float32)
        labels = np.asarray(label.dataobj).astype(np.uint8)
        isocentre = report["grid"].get("isocentre_lps_mm")
    except Exception as error:  # nibabel raises many kinds
        message = f"a result cannot be read ({type(error).__name__})"
        raise SpiderError(Code.INVALID_RESULT, message) from None
    if hu.shape != labels.shape:
        raise SpiderError(Code.INVALID_RESULT, "its CT and its labels differ in shape")
    return StoredResult(
        Reconstruction(hu, labels),
        Grid.from_ras(ct.affine, hu.shape),
        None if isocentre is None else np.array(isocentre, dtype=np.float64),
    )


def compare_result(result: StoredResult, scan: Scan) -> Comparison:
    """Compare a result with the CT of the same head.

    Args:
        result: On a cube about its isocentre.
        scan: The CT.

    Raises:
        SpiderError: P11, the CT holds no head.
        ValueError: The result does not lie on a cube of equal voxels.
    """
    grid = result.grid
    spacing = grid.spacing
    if len(set(grid.shape)) != 1 or not np.allclose(spacing, spacing[0], rtol=1e-4):
        raise ValueError("only results on a cube of equal voxels can be compared")
    head = prepare_head(
        scan.hu,
        scan.measured,
        scan.grid,
        spacing=spacing[0],
        size=spacing[0] * grid.shape[0],
        isocentre=result.isocentre,
        gantry_tilt=scan.gantry_tilt,
    )
    # without a common frame both are placed about their own isocentres
    affine = head.grid.affine
    fit = _fit(register, result.reconstruction.hu, head)
    registered = moved_onto(result.reconstruction, fit, head.grid.shape, affine)
    scores = {REGISTERED: score(registered, head)}
    if result.isocentre is not None:
        scores = {AS_IT_LIES: score(result.reconstruction, head), **scores}
    is_common = result.isocentre is not None
    bone_fit = _fit(register_bone, result.reconstruction.hu, head) if is_common else None
    return Comparison(scores, fit, bone_fit, head, registered)


def _fit(how: Callable[..., RigidFit], hu: npt.NDArray[np.float32], head: PreparedHead) -> RigidFit:
    """Register on means over blocks, which is as exact and takes an eighth of the time."""
    truth, grid = block_means(head.hu, head.grid, _FIT_MM)
    moving, _ = block_means(hu, head.grid, _FIT_MM)
    measured, _ = block_means(head.measured, head.grid, _FIT_MM)
    return how(moving, truth, measured > 0.5, grid.affine)


def score(reconstruction: Reconstruction, head: PreparedHead) -> dict[str, float | None]:
    """Scores of a reconstruction against a prepared CT on the same grid, without surfaces."""
    return score_case(
        reconstruction.hu,
        reconstruction.labels,
        head.hu,
        head.structure,
        head.measured,
        head.grid.spacing,
        surfaces=False,
    )


def score_mean_ct(
    hu: npt.NDArray[np.float32],
    structure: npt.NDArray[np.uint8],
    measured: Mask,
    mean: npt.NDArray[np.float32],
    spacing: Sequence[float],
) -> dict[str, float | None]:
    """Scores of the mean of other heads, all about their isocentres.

    Args:
        hu: The CT to score against, shape ``(X, Y, Z)``.
        structure: Its labels.
        measured: Where it was measured.
        mean: Mean of the other CTs, same shape.
        spacing: Voxel size, mm.
    """
    soft = np.where(mean > BODY_HU, Label.SOFT_TISSUE, Label.BACKGROUND)
    labels = np.where(mean > BONE_HU, Label.BONE, soft)
    return score_case(mean, labels, hu, structure, measured, spacing, surfaces=False)


def axial_series(study: Study) -> list[tuple[Path, ...]]:
    """Return the files of the axial series that show the head of a study's localisers.

    They share the localisers' frame of reference; the one with the most slices comes first.
    """
    if study.pair is None:
        return []
    groups: dict[str, list[Film]] = {}
    for film in study.slices:
        if film.ct is not None and film.ct.plane == "axial" and covers_head(study.pair, film):
            groups.setdefault(film.ct.series, []).append(film)
    ordered = sorted(groups.values(), key=len, reverse=True)
    return [tuple(sorted(film.path for film in films)) for films in ordered]


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """Return what is kept of a comparison, as plain values."""
    bone = comparison.bone_fit
    return {
        "code": None,
        "scores": {title: dict(values) for title, values in comparison.scores.items()},
        "shift_mm": round(comparison.fit.shift_mm, 3),
        "turn_degrees": round(comparison.fit.turn_degrees, 3),
        "position_error_mm": None if bone is None else round(bone.shift_mm, 3),
    }
