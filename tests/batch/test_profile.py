"""What a site states reaches the check of the headers and the worker alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from spider_bundle.batch.options import BatchOptions, profile_of, worker_settings
from spider_bundle.batch.outcome import plan_batch
from spider_bundle.batch.profile import Profile, Rule
from spider_bundle.batch.runner import run_batch
from spider_bundle.batch.worker import InferencePipeline
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.errors import SpiderError
from tests.batch.pipelines import StandIn

Spool = Callable[..., Path]


@pytest.fixture
def unscaled(spool: Spool) -> Path:
    """A study that does not say how far the source is from the isocentre (E14)."""
    source = spool(1)
    for path in source.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        del dataset.EstimatedRadiographicMagnificationFactor
        dataset.save_as(path)
    return source


def layer(path: Path, overrides: Any) -> Path:
    path.write_text(json.dumps({"overrides": overrides}))
    return path


def base(tmp_path: Path, **options: Any) -> Any:
    return profile_of(BatchOptions(tmp_path, tmp_path / "out", **options)).base


def test_layers_of_the_config_are_put_together_as_the_bundle_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        layer(tmp_path / "a.json", {"sod": 1000, "sdd": 1200}),
        layer(tmp_path / "b.json", {"sod": "$float(os.environ['SOD'])", "pitch": "$0.1 * 2"}),
    ]
    monkeypatch.setenv("SOD", "990")
    assert base(tmp_path) == {}
    assert base(tmp_path, config_files=files[:1]) == {"sod": 1000, "sdd": 1200}
    assert base(tmp_path, config_files=files) == {"sod": 990.0, "pitch": 0.2}
    named = {"overrides::sod": 950, "overrides::lateral": {"view": "RL"}}
    assert base(tmp_path, config_files=files[:1], config=named) == {
        **{"sod": 950, "sdd": 1200},
        "lateral": {"view": "RL"},
    }
    assert base(tmp_path, config_files=files, config={"overrides": {"sod": 1}}) == {"sod": 1}


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"lateral": {"frame": 1.5}}, "override lateral.frame must be a whole number"),
        ({"dense_is_high": "false"}, "override dense_is_high must be true or false"),
        ([1], "must be a mapping"),
        ({"sod": "$1 / 0"}, "(cannot be read|must be a positive number)"),
    ],
)
@pytest.mark.parametrize("run", [plan_batch, run_batch])
def test_wrong_overrides_of_a_config_end_the_batch_before_any_study(
    run: Callable[[BatchOptions], Any], overrides: Any, word: str, tmp_path: Path
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    ways: list[dict[str, Any]] = [
        {"config": {"overrides": overrides}},
        {"config_files": [layer(tmp_path / "site.json", overrides)]},
    ]
    for way in ways:
        with pytest.raises(SpiderError, match=f"S01 overrides of the config.*{word}"):
            run(BatchOptions(source, output, pipeline=StandIn, **way))
    assert not output.exists()


def test_unreadable_config_ends_the_batch_before_any_study(tmp_path: Path) -> None:
    broken = tmp_path / "site.json"
    broken.write_text('{"overrides": Doe^Jane')
    with pytest.raises(SpiderError, match="S01") as error:
        base(tmp_path, config_files=[broken])
    assert "Doe" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        base(tmp_path, config_files=[tmp_path / "absent.json"])


def test_worker_reads_with_the_statements_of_the_check_and_no_others(
    unscaled: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.json"
    rule = {"match": {}, "overrides": {"lateral": {"sod": 900}}}
    profile.write_text(json.dumps({"version": 1, "rules": [rule]}))
    options = BatchOptions(
        unscaled,
        tmp_path / "out",
        device="cpu",
        profile=profile,
        config_files=[layer(tmp_path / "site.json", {"sod": 1000})],
    )
    without = plan_batch(replace(options, config_files=(), profile=None, pipeline=StandIn))
    assert [refusal.codes for refusal in without.refusals] == [["E14"]]
    (job,) = plan_batch(options).jobs
    worker = InferencePipeline(worker_settings(options))
    views = worker.read(job)["image"].meta["provenance"].views
    assert [view.geometry["sod"].value for view in views] == [1000.0, 900.0]


def test_rule_wins_over_every_base_and_leaves_what_it_does_not_state() -> None:
    stated = {"frontal": {"sdd": 1650.0}, "lateral": {"sdd": 1700.0, "mask_boxes": [[0, 0, 9, 9]]}}
    stated_by_rule = {"sdd": 1500.0, "lateral": {"orientation": ["P", "F"]}}
    rule = Rule(match={"Modality": "DX"}, overrides=stated_by_rule)
    profile = Profile([rule], stated)
    number, overrides = profile.rule_for({"Modality": "DX"}, {"Modality": "DX"})
    pair = PairOverrides.from_mapping(overrides)
    assert number == 1
    assert (pair.frontal.sdd, pair.lateral.sdd) == (1500.0, 1500.0)
    assert pair.lateral.mask_boxes == ((0, 0, 9, 9),)
    assert pair.lateral.orientation == ("P", "F")
    assert profile.rule_for({"Modality": "CR"}, {"Modality": "DX"}) == (None, stated)
