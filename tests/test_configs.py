"""The configs do what the bundle's users type."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    load,
    run,
    verify_metadata,
    verify_net_in_out,
)

from spider_bundle.bundle import inference_workflow
from spider_bundle.demo import write_demo_pair
from spider_bundle.networks import SPIDER
from spider_bundle.networks.definition import definition_of
from spider_bundle.weights import read_description
from tests.tiny import PHANTOMS, TINY_NETWORK


@pytest.fixture(autouse=True)
def in_bundle(monkeypatch: pytest.MonkeyPatch, bundle_root: Path) -> None:
    monkeypatch.chdir(bundle_root)


def read(root: Path, name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((root / "configs" / name).read_text(encoding="utf-8"))
    return parsed


def test_both_metadata_files_are_one(bundle_root: Path) -> None:
    here = (bundle_root / "metadata.json").read_bytes()
    assert here == (bundle_root / "configs" / "metadata.json").read_bytes()


def test_metadata_satisfies_the_schema(bundle_root: Path) -> None:
    verify_metadata(
        meta_file="configs/metadata.json", filepath="tests/data/metadata_schema_20240725.json"
    )


def test_metadata_agrees_with_code(bundle_root: Path) -> None:
    from spider_bundle import __version__
    from spider_bundle.labels import LABEL_NAMES

    meta = read(bundle_root, "metadata.json")
    assert meta["version"] == __version__
    assert __version__ in meta["changelog"]
    pins = dict(
        line.lower().split("==")
        for line in (bundle_root / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    required = {k.lower(): v for k, v in meta["required_packages_version"].items()}
    required["torch"] = meta["pytorch_version"]
    required |= {"monai": meta["monai_version"], "numpy": meta["numpy_version"]}
    assert required == {name: pins[name] for name in required}
    # MONAI Label takes its label names from here
    channels = meta["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert channels == {str(value): name for value, name in LABEL_NAMES.items()}


def test_training_inference_and_weights_share_one_network(bundle_root: Path) -> None:
    defined = []
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(str(bundle_root / "configs" / f"{name}.json"))
        parser["bundle_root"] = str(bundle_root)
        defined.append(definition_of(parser.get_parsed_content("network_def")))
    described = read_description(bundle_root / "models" / "model.pt")
    assert described is not None
    assert defined == [described.network_def] * 2


@pytest.mark.parametrize(
    ("config", "kind", "overrides"),
    [
        ("inference.json", "inference", {"dataset_dir": "tests/data"}),
        ("train.json", "train", {"train::data": PHANTOMS, "validate::data": PHANTOMS}),
    ],
)
def test_no_property_is_missing(config: str, kind: str, overrides: dict[str, Any]) -> None:
    workflow = ConfigWorkflow(
        config_file=f"configs/{config}", workflow_type=kind, logging_file=False, **overrides
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.slow
def test_network_has_the_declared_input_and_output() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file="configs/metadata.json",
        config_file="configs/inference.json",
        device="cpu",
    )


@pytest.mark.slow
def test_exported_network_gives_the_same_numbers(tmp_path: Path) -> None:
    small = {**TINY_NETWORK, "device": "cpu"}
    torch.manual_seed(0)
    options = {key.split("::")[1]: value for key, value in TINY_NETWORK.items()}
    network = SPIDER(**options).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file="configs/metadata.json",
        config_file="configs/inference.json",
        **small,
    )
    image = torch.rand(1, 2, 256, 256)
    exported = torch.jit.load(tmp_path / "model.ts")
    with torch.no_grad():
        assert torch.allclose(exported(image), network(image), atol=1e-4)


@pytest.mark.slow
def test_bundle_loads_by_name(bundle_root: Path) -> None:
    network = load(
        name=bundle_root.name,
        bundle_dir=bundle_root.parent,
        workflow_type="inference",
        source="github",
        device="cpu",
    )
    saved = torch.load("models/model.pt", weights_only=True)
    weight = network.state_dict()["decoder.first.weight"]
    assert torch.equal(weight, saved["decoder.first.weight"].float())


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good study and one that lacks its lateral."""
    folder = tmp_path_factory.mktemp("night")
    write_demo_pair(folder / "one", name="good", shape=(240, 240), pitch=1.2)
    _, lateral = write_demo_pair(folder / "two", name="half", shape=(64, 64), pitch=1.8)
    lateral.unlink()
    return folder


@pytest.mark.slow
def test_literal_command_from_the_root(night: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "monai.bundle", "run", "inference"),
        *("--config_file", "configs/inference.json"),
        *("--dataset_dir", str(night), "--output_dir", str(out)),
        *("--spacing", "4.0", "--shape", "64"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr[-2000:]
    (study,) = [path for path in out.iterdir() if path.is_dir() and path.name[0] != "."]
    assert {p.name for p in study.iterdir()} == {
        "ct.nii.gz",
        "label.nii.gz",
        "preview.png",
        "report.json",
    }
    image = nibabel.load(study / "ct.nii.gz")
    assert image.shape == (64, 64, 64)
    assert np.allclose(image.affine @ [31.5, 31.5, 31.5, 1], [0, 0, 0, 1])
    refused = json.loads((out / "refused.json").read_text())["refused"]
    assert [f["code"] for entry in refused for f in entry["findings"]] == ["E06"]
    assert "E06" in done.stdout


@pytest.mark.slow
def test_run_alone_from_elsewhere(night: Path, tmp_path: Path, bundle_root: Path) -> None:
    command = [
        *(sys.executable, "-m", "monai.bundle", "run"),
        *("--config_file", str(bundle_root / "configs" / "inference.json")),
        *("--bundle_root", str(bundle_root)),
        *("--dataset_dir", str(night / "one"), "--output_dir", str(tmp_path / "out")),
        *("--spacing", "8.0", "--shape", "32"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out").glob("*/report.json"))) == 1


@pytest.mark.slow
def test_a_kill_after_the_first_study_loses_neither_it_nor_a_refusal(
    night: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(night, folder)
    for number in range(3):
        write_demo_pair(folder / f"z{number}", name=f"{number}", shape=(160, 160), pitch=1.8)
    command = [
        *(sys.executable, "-m", "monai.bundle", "run", "inference"),
        *("--config_file", "configs/inference.json", "--dataset_dir", str(folder)),
        *("--output_dir", str(out), "--spacing", "8.0", "--shape", "32"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("[0-9a-f]*/report.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    refused = json.loads((out / "refused.json").read_text())["refused"]
    assert [f["code"] for entry in refused for f in entry["findings"]] == ["E06"]
    for report in out.glob("[0-9a-f]*/report.json"):
        assert (report.parent / "ct.nii.gz").is_file()


@pytest.mark.slow
def test_unwritable_result_ends_with_exit_code_1(night: Path, tmp_path: Path) -> None:
    values = {"dataset_dir": str(night / "one"), "spacing": 8.0, "shape": 32}
    free = inference_workflow({**values, "output_dir": str(tmp_path / "a")})
    free.run()
    free.finalize()
    (report,) = (tmp_path / "a").glob("*/report.json")
    (tmp_path / "b" / report.parent.name / "mine").mkdir(parents=True)
    blocked = inference_workflow({**values, "output_dir": str(tmp_path / "b")})
    blocked.run()
    with pytest.raises(SystemExit) as end:
        blocked.finalize()
    assert end.value.code == 1
    assert not list((tmp_path / "b").glob("*/report.json"))


@pytest.mark.slow
def test_training_then_evaluation_on_phantoms(tmp_path: Path) -> None:
    shared: dict[str, Any] = {
        **TINY_NETWORK,
        "device": "cpu",
        "ckpt_dir": str(tmp_path / "run"),
        "train::data": PHANTOMS[:1],
        "validate::data": PHANTOMS[1:],
        "points_per_case": 256,
        "batch_size": 1,
    }
    training = {"epochs": 2, "iterations_per_epoch": 2, "val_interval": 2}
    run("training", config_file="configs/train.json", logging_file=False, **shared, **training)
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (saved["epoch"], saved["iteration"]) == (2, 4)
    assert (tmp_path / "run" / "scores.json").exists()
    # resumed with nothing left to do: the averaged weights do not move
    before = (tmp_path / "run" / "model.pt").read_bytes()
    run("training", config_file="configs/train.json", logging_file=False, **shared, **training)
    assert (tmp_path / "run" / "model.pt").read_bytes() == before
    run(
        "evaluation",
        config_file=["configs/train.json", "configs/evaluate.json"],
        logging_file=False,
        weights=str(tmp_path / "run" / "model.pt"),
        output_dir=str(tmp_path / "eval"),
        **shared,
    )
    scores, validated = (
        json.loads((tmp_path / folder / "scores.json").read_text()) for folder in ("eval", "run")
    )
    assert [row["case"] for row in scores["cases"]] == ["phantom_2"]
    # the last validation saw the same averaged weights, before they were stored as float16
    assert scores["mean"]["psnr_db"] == pytest.approx(validated["mean"]["psnr_db"], abs=0.1)
    # an evaluation is no training: neither weights nor curves are written
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {"scores.json", "scores.csv"}
    assert (tmp_path / "run" / "model.pt").read_bytes() == before
