"""The training-mean CT."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from spider_bundle.evaluation.baselines import mean_head, score_mean_head
from spider_bundle.labels import Label


def write_case(folder: Path, name: str, bone_hu: float) -> dict[str, str]:
    """A 120 mm ball of water with a ball of bone in it."""
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), axis=-1)
    radius = np.linalg.norm(index - 19.5, axis=-1) * 4
    hu = np.where(radius < 60, 40.0, -1000.0)
    hu[radius < 20] = bone_hu
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine), folder / f"{name}.nii.gz")
    return {"case": name, "ct": str(folder / f"{name}.nii.gz")}


def test_mean_is_the_mean_within_the_window(tmp_path: Path) -> None:
    entries = [write_case(tmp_path, "a", 800.0), write_case(tmp_path, "b", 3000.0)]
    hu, labels = mean_head(entries)
    assert hu[19, 19, 19] == (800 + 2000) / 2
    assert hu[0, 0, 0] == -1000
    assert labels[19, 19, 19] == Label.BONE
    assert labels[0, 0, 0] == Label.BACKGROUND


def test_scoring_the_mean_against_its_only_case_is_perfect(tmp_path: Path) -> None:
    entry = write_case(tmp_path, "a", 800.0)
    phantom = {"case": "p", "phantom": 1}
    means = score_mean_head([entry, phantom], [entry], tmp_path / "out")
    assert means["mae_hu"] == 0
    assert means["dice_bone"] == 1
    assert (tmp_path / "out" / "mean_ct.csv").read_text().startswith("case,psnr_db")


def test_a_known_error_gives_a_known_score(tmp_path: Path) -> None:
    training, validation = write_case(tmp_path, "a", 800.0), write_case(tmp_path, "b", 1100.0)
    reference = nibabel.load(validation["ct"]).get_fdata()
    share = (reference == 1100).mean()
    means = score_mean_head([training], [validation])
    assert means["mae_hu"] == pytest.approx(300 * share)
    assert means["psnr_db"] == pytest.approx(10 * np.log10(3000**2 / (300**2 * share)))


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no cases"):
        mean_head([])
