"""The report is valid, complete, free of NaN and of anything that names a place or a person."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

from spider_bundle.dicom.provenance import ProvenancedValue
from spider_bundle.geometry import Grid
from spider_bundle.outputs.consistency import reprojection_consistency
from spider_bundle.outputs.report import (
    FileEntry,
    Report,
    describe_files,
    report_schema,
    write_report,
)
from spider_bundle.reconstructor import Result

CANARY = "Doe^Jane^1970"

FILES = [FileEntry(name="dicom/0001.dcm", bytes=3, sha256="0" * 64)]


@pytest.fixture
def report(result: Result) -> dict[str, Any]:
    return result.report().with_files(FILES).to_json()


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_schema_is_a_schema_and_the_report_satisfies_it(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())
    jsonschema.Draft202012Validator(report_schema()).validate(report)


def changed(report: dict[str, Any], path: Sequence[str | int], value: object) -> dict[str, Any]:
    """The report with one value in another's place."""
    wrong: Any = copy.deepcopy(report)
    inner = wrong
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return wrong


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["intended_use"], "diagnosis"),
        (["schema_version"], "0.9"),
        (["weights_sha256"], "not a digest"),
        (["views", 0, "geometry", "sdd", "source"], "guess"),
        (["views", 0, "PatientName"], "Doe^Jane"),
        (["findings", 0, "severity"], "fatal"),
        (["files", 0, "name"], "/home/someone/ct.nii.gz"),
        (["grid", "affine_ras"], [[1, 0, 0, 0]]),
        (["reprojection", "frontal", "pearson"], 1.5),
        (["patient"], "Doe^Jane"),
    ],
)
def test_schema_and_model_refuse(
    report: dict[str, Any], path: list[str | int], value: object
) -> None:
    wrong = changed(report, path, value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(report_schema()).validate(wrong)
    with pytest.raises(ValidationError):
        Report.model_validate(wrong)


def test_every_key_is_required(report: dict[str, Any]) -> None:
    for key in report:
        wrong = {name: value for name, value in report.items() if name != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(report_schema()).validate(wrong)


def leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every value that holds no others, and to all that hold them."""
    if path:
        yield path
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    for key, child in children:
        yield from leaves(child, (*path, key))


def test_no_value_is_quoted_by_an_error(report: dict[str, Any]) -> None:
    told = []
    for path in leaves(report):
        for value in (CANARY, [CANARY], {"value": CANARY}, Path(CANARY), CANARY.encode()):
            try:
                Report.model_validate(changed(report, path, value))
            except ValidationError as error:
                told += [str(error), repr(error)]
    assert len(told) > 800
    assert not [text for text in told if CANARY in text]


def test_content(report: dict[str, Any], grid: Grid) -> None:
    frontal = report["views"][0]["geometry"]
    assert frontal["sdd"] == {
        "value": 1500.0,
        "source": "attribute",
        "attribute": "DistanceSourceToDetector",
        "unit": "mm",
    }
    assert frontal["sod"]["source"] == "default"
    assert frontal["pitch"]["value"] == pytest.approx([0.2, 0.2])
    assert report["views"][0]["projection"][1] == [4.0, 5.0, 6.0, 7.0]
    assert report["grid"]["spacing_mm"] == pytest.approx([1.0, 2.0, 3.0])
    assert report["grid"]["shape"] == [40, 30, 20]
    np.testing.assert_allclose(report["grid"]["affine_ras"], grid.ras_affine)
    assert report["intensity"]["window"] == [-1000.0, 2000.0]
    assert "saturates at 2000 HU" in report["intensity"]["note"]
    assert {entry["value"]: entry["name"] for entry in report["labels"]}[5] == "mandible"
    assert "never for diagnosis" in report["intended_use"].lower()
    assert report["timings_s"] == {"read": 0.25, "decode": None}
    assert report["reprojection"]["lateral"]["spearman"] == pytest.approx(1.0)
    assert any("isocentric" in note for note in report["assumptions"])
    assert all(report["software"][name] for name in ("torch", "monai", "pydicom", "numpy"))


def test_file_has_no_nan_and_a_deterministic_order(tmp_path: Path, result: Result) -> None:
    report = result.report()
    write_report(tmp_path / "a.json", report)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == report.to_json()
    again = replace(
        result,
        timings=dict(reversed(list(result.timings.items()))),
        consistency=dict(reversed(result.consistency.items())),
    )
    write_report(tmp_path / "b.json", again.report())
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == text
    assert "-0.0" not in text


def test_text_is_not_taken_for_a_number(result: Result) -> None:
    geometry = {"frame": ProvenancedValue("1000", "override")}
    view = replace(result.provenance.views[0], geometry=geometry)
    provenance = replace(result.provenance, views=(view, view))
    report = replace(result, provenance=provenance).report()
    assert report.views[0].geometry["frame"].value == "1000"


def test_describe_files(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1.dcm").write_bytes(b"abc")
    (tmp_path / "bone.stl").write_bytes(b"")
    assert [entry.model_dump() for entry in describe_files(tmp_path)] == [
        {"name": "bone.stl", "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()},
        {"name": "dicom/1.dcm", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()},
    ]


def test_warnings_are_named_once(result: Result) -> None:
    assert result.report().warnings == ["E13 pixel spacing mismatch"]


def test_volumes_of_the_labels(result: Result, report: dict[str, Any]) -> None:
    found = {entry["value"]: entry for entry in report["labels"]}
    for value, entry in found.items():
        inside = result.labels == value
        assert entry["voxels"] == inside.sum()
        assert entry["volume_ml"] == pytest.approx(inside.sum() * 6 / 1000)  # 1 x 2 x 3 mm
        assert entry["mean_hu"] == pytest.approx(result.hu[inside].mean(), abs=0.06)
    empty = replace(result, labels=np.zeros_like(result.labels)).report().labels
    assert [entry.mean_hu is None for entry in empty] == [False] + 5 * [True]


class TestConsistency:
    generator = np.random.default_rng(5)
    image = generator.uniform(0.01, 1.0, (64, 64))

    def test_a_monotone_tone_curve_leaves_the_rank_correlation_alone(self) -> None:
        numbers = reprojection_consistency(self.image, np.exp(6 * self.image))
        assert numbers["spearman"] == pytest.approx(1.0)
        assert numbers["pearson"] < 0.9

    def test_a_linear_one_leaves_all(self) -> None:
        numbers = reprojection_consistency(self.image, 3 * self.image + 1)
        for name in ("pearson", "spearman", "gradient_correlation"):
            assert numbers[name] == pytest.approx(1.0)
        assert numbers["exposed_fraction"] == 1.0

    def test_the_negative_and_the_unrelated(self) -> None:
        assert reprojection_consistency(self.image, -self.image)["spearman"] == pytest.approx(-1)
        other = np.random.default_rng(6).random((64, 64))
        assert abs(reprojection_consistency(self.image, other)["spearman"]) < 0.06

    def test_what_lies_outside_the_mask_does_not_count(self) -> None:
        mask = np.zeros((64, 64), dtype=bool)
        mask[:32] = True
        spoilt = self.image.copy()
        spoilt[40:] = 9.0
        numbers = reprojection_consistency(self.image, spoilt, mask)
        assert numbers["pearson"] == pytest.approx(1.0)
        assert numbers["exposed_fraction"] == 0.5
        masked = np.where(mask, self.image, 0.0)
        assert reprojection_consistency(masked, spoilt)["pearson"] == pytest.approx(1.0)

    def test_constant_images_have_no_correlation(self) -> None:
        numbers = reprojection_consistency(self.image, np.ones((64, 64)))
        assert np.isnan(numbers["pearson"])
        assert np.isnan(reprojection_consistency(0 * self.image, self.image)["spearman"])
