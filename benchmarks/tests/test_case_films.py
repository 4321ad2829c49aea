"""The whole way from the radiographs of a known head, as DICOM files, to scored NIfTI files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.case_films import case_grid_overrides, score_files, write_case_films
from spider_bundle.bundle import inference_workflow
from spider_bundle.cases.case import HeadCase, load_case, phantom_case
from spider_bundle.cases.datalist import head_datalist
from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.dicom.studies import find_studies
from spider_bundle.evaluation.baselines.mean_head import MeanHead
from spider_bundle.evaluation.comparison import score_method
from spider_bundle.geometry import Grid
from spider_bundle.outputs.nifti import write_ct, write_labels
from tests.films import read_pair


def test_films_read_back_as_the_pair_that_was_drawn(tmp_path: Path) -> None:
    case = phantom_case(3)
    seen = set()
    for name in ("a", "b", "c", "d"):
        kinds = write_case_films(case, name, tmp_path / name, shape=(200, 200))
        (study,) = find_studies(tmp_path / name).studies
        assert study.frontal is not None
        assert study.lateral is not None
        pair = read_pair(study.frontal.path, study.lateral.path)
        for role, radiograph in zip(("frontal", "lateral"), pair.radiographs, strict=True):
            assert kinds[role].startswith(radiograph.position.value)
            assert f"SOD {radiograph.view.sod:.0f}, SDD {radiograph.view.sdd:.0f}" in kinds[role]
            # the origin is the middle of the array, and dense is high: the head is not air
            assert np.allclose(radiograph.view.project([0.0, 0.0, 0.0]), [99.5, 99.5], atol=0.01)
            middle = radiograph.pixels[80:120, 80:120].mean()
            assert middle > np.percentile(radiograph.pixels, 60)
            seen.add(kinds[role].split(",")[0])
    assert len(seen) > 4


def test_perfect_files_score_perfectly(tmp_path: Path) -> None:
    case = phantom_case(3, spacing=8.0, shape=32)
    write_ct(tmp_path / "ct.nii.gz", case.hu, case.grid)
    write_labels(tmp_path / "label.nii.gz", case.structure, case.grid)
    scores = score_files(tmp_path, case)
    assert scores["mae_hu"] == 0
    assert scores["dice_soft_tissue"] == 1
    other = HeadCase(case.hu, case.structure, case.ambiguous, case.measured, Grid.centred(4.0, 32))
    with pytest.raises(ValueError, match="grid"):
        score_files(tmp_path, other)


@pytest.mark.slow
def test_real_heads_from_files_beat_the_mean_head(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "heads" / "openkbp_4mm"
    mean_head = MeanHead(head_datalist(folder, "training"))
    for entry in head_datalist(folder, "validation")[:2]:
        case = load_case(entry)
        work = tmp_path / entry["case"]
        write_case_films(case, entry["case"], work / "dicom")
        overrides = {
            "dataset_dir": str(work / "dicom"),
            "output_dir": str(work / "out"),
            **case_grid_overrides(case),
        }
        inference_workflow(overrides).run()
        (report,) = (work / "out").glob("*/report.json")
        scores = score_files(report.parent, case)
        (mean,) = score_method(mean_head, [LoadHeadCased()(entry)], surfaces=False)
        assert scores["psnr_db"] is not None
        assert mean["psnr_db"] is not None
        assert scores["psnr_db"] > mean["psnr_db"] + 1
        assert scores["dice_bone"] is not None
        assert scores["dice_bone"] > 0.6
