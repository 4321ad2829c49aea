"""Radiograph files of cases whose CT is known: the whole way from DICOM to NIfTI can be scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from spider_bundle.cases.case import HeadCase
from spider_bundle.dicom.view import NOMINAL_PRIMARY, rotation_from_nominal
from spider_bundle.dicom.write import SyntheticIdentity, reorient, write_dx
from spider_bundle.evaluation.metrics import score_case
from spider_bundle.geometry import Grid, ViewPosition, isocentric_view
from spider_bundle.intensity import attenuation
from spider_bundle.projection import project_volume
from spider_bundle.simulation import case_rng

_KINDS: tuple[dict[str, Any], ...] = (
    {"for_processing": True, "relationship": "LIN", "sign": 1},
    {"for_processing": True, "relationship": "LIN", "sign": -1},
    {"for_processing": True, "relationship": "LOG", "sign": 1},
    {"for_processing": True, "relationship": "LOG", "sign": -1},
    {"for_processing": False, "relationship": "LOG", "sign": -1, "photometric": "MONOCHROME2"},
    {"for_processing": False, "relationship": "LOG", "sign": 1, "photometric": "MONOCHROME1"},
)
_ORIENTATIONS = {
    True: (("L", "F"), ("R", "F"), ("F", "L"), ("H", "R")),
    False: (("P", "F"), ("A", "F"), ("F", "P"), ("H", "A")),
}


def write_case_films(
    case: HeadCase, name: str, folder: str | Path, shape: tuple[int, int] = (512, 512)
) -> dict[str, str]:
    """Write a DX pair of a case with geometry and encoding drawn from its name.

    Distances are those of protocol V1; the views turn by up to 4 degrees, told by the positioner
    angles. The central rays meet the isocentre, as DICOM can say nothing else.

    Args:
        case: The head; its world origin is the isocentre.
        name: Seeds geometry and encoding, and tells the synthetic examinations apart.
        folder: Folder for ``frontal.dcm`` and ``lateral.dcm``, created if absent.
        shape: ``(rows, columns)`` of the detector.

    Returns:
        What each radiograph is, in words, by role.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    rng = case_rng(name)
    volume = attenuation(torch.from_numpy(case.hu))[None]
    affine = torch.from_numpy(case.grid.affine)[None]
    kinds = {}
    for role, choices in (
        ("frontal", (ViewPosition.AP, ViewPosition.PA)),
        ("lateral", (ViewPosition.LL, ViewPosition.RL)),
    ):
        position = choices[rng.randint(2)]
        encoding = _KINDS[rng.randint(len(_KINDS))]
        letters = _ORIENTATIONS[position.is_frontal][rng.randint(4)]
        sod = float(rng.uniform(750, 1600))
        sdd = sod + float(rng.uniform(120, 250))
        primary = NOMINAL_PRIMARY[position] + round(float(rng.uniform(-4, 4)), 2)
        angles = ((primary + 180) % 360 - 180, 0.0)
        pitch = round(300.0 * sdd / sod / shape[0], 3)
        view = isocentric_view(
            position,
            sod=sod,
            sdd=sdd,
            spacing=(pitch, pitch),
            shape=shape,
            rotation=rotation_from_nominal(position, angles),
        )
        matrix = torch.from_numpy(view.matrix)[None, None]
        integrals = project_volume(volume, affine, matrix, shape)[0, 0].numpy()
        image, view = reorient(integrals, view, letters)
        write_dx(
            target / f"{role}.dcm",
            image,
            view,
            position,
            SyntheticIdentity(name),
            positioner_angles=angles,
            **encoding,
        )
        purpose = "processing" if encoding["for_processing"] else "presentation"
        kinds[role] = (
            f"{position.value} {'/'.join(letters)}, for {purpose}, {encoding['relationship']} "
            f"{encoding['sign']:+d}, SOD {sod:.0f}, SDD {sdd:.0f} mm"
        )
    return kinds


def score_files(study: str | Path, case: HeadCase) -> dict[str, float | None]:
    """Score a written study against its case, from the files alone.

    Args:
        study: Folder with ``ct.nii.gz`` and ``label.nii.gz`` on the case's grid.
        case: The truth.

    Raises:
        ValueError: The files are not on the grid of the case.
    """
    ct = nibabel.load(Path(study, "ct.nii.gz"))
    labels = nibabel.load(Path(study, "label.nii.gz"))
    grid = Grid.from_ras(ct.affine, ct.shape)
    if grid.shape != case.grid.shape or not np.allclose(grid.affine, case.grid.affine, atol=1e-3):
        raise ValueError("the study is not on the grid of the case")
    return score_case(
        ct.get_fdata(dtype=np.float32),
        np.asanyarray(labels.dataobj),
        case.hu,
        case.structure,
        case.measured,
        case.grid.spacing,
    )


def case_grid_overrides(case: HeadCase) -> Mapping[str, Any]:
    """Config values that make inference reconstruct on the grid of a case.

    Raises:
        ValueError: The grid is not one that is centred on the isocentre.
    """
    centred = Grid.centred(case.grid.spacing, case.grid.shape)
    if not np.allclose(centred.affine, case.grid.affine, atol=1e-3):
        raise ValueError("the case is not centred on the isocentre")
    return {"spacing": list(case.grid.spacing), "shape": list(case.grid.shape)}
