"""Lists of cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spider_bundle.cases.case import load_case
from spider_bundle.cases.datalist import head_datalist, phantom_datalist
from spider_bundle.errors import SpiderError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    split = {
        "training": [
            {"id": "pt_1", "contours": ["Mandible", "Brainstem"]},
            {"id": "pt_2", "contours": ["Brainstem"]},
        ],
        "validation": [{"id": "pt_3", "contours": []}],
    }
    (tmp_path / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return tmp_path


def test_entries_name_the_files_of_each_case(folder: Path) -> None:
    first, second = head_datalist(folder, "training")
    assert first == {
        "case": "pt_1",
        "ct": str(folder / "pt_1_ct.nii.gz"),
        "valid": str(folder / "pt_1_valid.nii.gz"),
        "contours": str(folder / "pt_1_oar.nii.gz"),
    }
    # other contours say nothing about the mandible
    assert second["case"] == "pt_2"
    assert "contours" not in second


def test_sections_do_not_mix(folder: Path) -> None:
    assert [e["case"] for e in head_datalist(str(folder), "validation")] == ["pt_3"]
    with pytest.raises(KeyError):
        head_datalist(folder, "test")


@pytest.mark.parametrize("content", [None, "{", "\udcff"])
def test_folders_without_a_list_are_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "split.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SpiderError, match="M04"):
        head_datalist(tmp_path, "training")


def test_real_lists_are_disjoint_and_their_files_exist(shared_data: Path) -> None:
    folder = shared_data / "heads" / "openkbp_4mm"
    sections = {name: head_datalist(folder, name) for name in ("training", "validation")}
    ids = {name: {e["case"] for e in entries} for name, entries in sections.items()}
    assert len(ids["training"]) == len(sections["training"]) == 57
    assert len(ids["validation"]) == len(sections["validation"]) == 11
    assert not ids["training"] & ids["validation"]
    for entry in sections["training"] + sections["validation"]:
        assert all(Path(v).is_file() for k, v in entry.items() if k != "case")


def test_phantoms_are_numbered_from_the_first_seed() -> None:
    entries = phantom_datalist(3, first_seed=5)
    assert [e["phantom"] for e in entries] == [5, 6, 7]
    assert len({e["case"] for e in entries}) == 3
    assert phantom_datalist(0) == []
    assert load_case(entries[0]).grid.shape == (64, 64, 64)


def test_prepared_entries_have_absolute_paths_and_keep_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"case": "ct", "subject": "s", "ct": "cases/a/ct.nii.gz", "contour_margin": 2.0}
    listing = {"training": [entry], "validation": []}
    (tmp_path / "datalist.json").write_text(json.dumps(listing), encoding="utf-8")
    wanted = [entry | {"ct": str(tmp_path / "cases/a/ct.nii.gz")}]
    (tmp_path / "split.json").write_text("of another preparation", encoding="utf-8")
    assert head_datalist(tmp_path, "training") == wanted
    monkeypatch.chdir(tmp_path)
    assert head_datalist(".", "training") == wanted
    assert head_datalist(tmp_path, "validation") == []
    with pytest.raises(KeyError):
        head_datalist(tmp_path, "test")
