"""A reconstruction that is the head explains its radiographs; another does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from spider_bundle.cases.case import phantom_case
from spider_bundle.evaluation.methods import Reconstruction
from spider_bundle.evaluation.reprojection import reprojection_rmse
from spider_bundle.geometry import rotation_about
from spider_bundle.simulation import NormaliseRadiographsd, SimulateRadiographsd


def item(turned: float = 0.0) -> dict[str, Any]:
    head = phantom_case(5, spacing=6.0, shape=42)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(rotation_about(2, turned))
    data = {
        "case": "five",
        "ct": torch.from_numpy(head.hu),
        "affine": torch.from_numpy(head.grid.affine),
        "pose": pose,
    }
    simulate = SimulateRadiographsd(size=128, pixel_size=2.4, seed_by_case=True)
    return {str(k): v for k, v in NormaliseRadiographsd()(simulate(data)).items()}


def of(hu: torch.Tensor) -> Reconstruction:
    return Reconstruction(hu.numpy(), np.zeros(hu.shape, np.uint8))


def test_the_head_itself_explains_its_radiographs_in_any_pose() -> None:
    for turned in (0.0, 8.0):
        case = item(turned)
        assert reprojection_rmse(of(case["ct"]), case) < 0.5
    assert reprojection_rmse(of(item()["ct"]), item(8.0)) < 0.5  # same head, pose of the item


def test_a_shifted_or_hollow_head_does_not() -> None:
    case = item()
    shifted = torch.roll(case["ct"], 2, dims=2)
    hollow = torch.where(case["ct"] > 250, case["ct"], torch.full_like(case["ct"], -1000.0))
    right = reprojection_rmse(of(case["ct"]), case)
    assert reprojection_rmse(of(shifted), case) > 5 * right + 1
    assert reprojection_rmse(of(hollow), case) > 5 * right + 1


def test_gain_does_not_matter() -> None:
    case = item()
    lighter = (case["ct"] + 1000) * 0.5 - 1000
    assert reprojection_rmse(of(lighter), case) < 0.5
