"""What Project-MONAI/model-zoo asks of a bundle, checked on a copy below ``models/``, offline.

Its ``ci/verify_bundle.py`` (17e7879) and CONTRIBUTING.md (04c6b0e) name the checks: files, names of
keys, version, metadata, properties, shapes, TorchScript. As there, the current folder is not the
bundle's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import (
    ConfigParser,
    ckpt_export,
    create_workflow,
    load,
    verify_metadata,
    verify_net_in_out,
)

from spider_bundle.networks import SPIDER
from spider_bundle.weights import load_weights
from tests.tiny import PHANTOMS

NAME = "spider_bundle"
LARGEST_FILE = 25 * 1000**2
"""Bytes; the zoo takes no larger file."""

NECESSARY = ("LICENSE", "configs/metadata.json")
PREFERRED = ("models/model.pt", "configs/inference.json")

INFERENCE_KEYS = ("bundle_root", "device", "dataset_dir", "network_def", "inferer", "output_dir")
TRAIN_KEYS = (
    *("bundle_root", "device", "dataset_dir", "output_dir", "val_interval"),
    *("train::trainer", "train::trainer::max_epochs", "train::dataset", "train::dataset::data"),
    *("train::handlers", "train::preprocessing", "train::inferer", "validate::evaluator"),
    *("validate::handlers", "validate::dataset", "validate::dataset::data"),
    *("validate::preprocessing", "validate::inferer"),
)


@pytest.fixture(scope="module")
def zoo(bundle_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder ``models`` of a zoo that holds this bundle."""
    models = tmp_path_factory.mktemp("zoo") / "models"
    bundle = models / NAME
    for name in ("configs", "models"):
        shutil.copytree(bundle_root / name, bundle / name)
    shutil.copy(bundle_root / "LICENSE", bundle)
    schema = bundle_root / "tests" / "data" / "metadata_schema_20240725.json"
    (bundle / "eval").mkdir()
    shutil.copy(schema, bundle / "eval" / "schema.json")
    return models


@pytest.fixture
def bundle(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle in the zoo, seen from another folder."""
    monkeypatch.chdir(zoo.parent)
    return zoo / NAME


def config(bundle: Path, name: str) -> str:
    return str(bundle / "configs" / f"{name}.json")


def test_files_are_there(bundle: Path) -> None:
    for name in (*NECESSARY, *PREFERRED):
        assert (bundle / name).stat().st_size > 0, name


@pytest.mark.parametrize(("name", "keys"), [("inference", INFERENCE_KEYS), ("train", TRAIN_KEYS)])
def test_keys_have_the_names_of_the_zoo(bundle: Path, name: str, keys: tuple[str, ...]) -> None:
    parser = ConfigParser()
    parser.read_config(config(bundle, name))
    assert [key for key in keys if key not in parser] == []


def test_configs_name_no_place_of_a_person(bundle: Path) -> None:
    for path in (bundle / "configs").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not any(place in text for place in ('"/', "'/", "/home/", "/Users/")), path.name


def test_version_is_in_the_changelog(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["version"] in metadata["changelog"]
    assert metadata["name"]


def test_metadata_satisfies_the_schema_that_was_put_beside_it(bundle: Path, tmp_path: Path) -> None:
    metadata = bundle / "configs" / "metadata.json"
    schema = str(bundle / "eval" / "schema.json")
    verify_metadata(meta_file=str(metadata), filepath=schema)
    broken = json.loads(metadata.read_text(encoding="utf-8"))
    del broken["network_data_format"]["inputs"]["image"]["num_channels"]
    (tmp_path / "broken.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(ValueError, match="num_channels"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=schema)


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        ("inference", "inference", {}),
        ("train", "train", {"train::data": PHANTOMS, "validate::data": PHANTOMS}),
    ],
)
def test_no_property_is_missing(
    bundle: Path, tmp_path: Path, kind: str, name: str, values: dict[str, Any]
) -> None:
    workflow = create_workflow(
        config_file=config(bundle, name),
        workflow_type=kind,
        bundle_root=str(bundle),
        logging_file=str(bundle / "configs" / "logging.conf"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        dataset_dir=str(tmp_path),
        **values,
    )
    assert workflow.check_properties() == []


@pytest.mark.slow
def test_network_has_the_declared_shapes(bundle: Path) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=config(bundle, "inference"),
        bundle_root=str(bundle),
        device="cpu",
    )


@pytest.fixture(scope="module")
def network(bundle_root: Path) -> SPIDER:
    """The bundle's network, without the bundle machinery."""
    parser = ConfigParser()
    parser.read_config(str(bundle_root / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def")
    load_weights(network, bundle_root / "models" / "model.pt")
    assert isinstance(network, SPIDER)
    return network.eval()


def same(first: Any, second: SPIDER) -> bool:
    """Whether two networks give the same numbers at some points."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 2, 256, 256, generator=generator)
    points = 200 * (torch.rand(1, 500, 3, generator=generator) - 0.5)
    projection = second.nominal_projection[None]
    with torch.no_grad():
        got = first(image, projection, points)
        return torch.allclose(got, second(image, projection, points), atol=1e-4)


@pytest.mark.slow
def test_torchscript_is_exported_and_loads_with_its_metadata(bundle: Path, network: SPIDER) -> None:
    path = bundle / "models" / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=config(bundle, "inference"),
        bundle_root=str(bundle),
        device="cpu",
    )
    module, metadata, _ = load(
        NAME, bundle_dir=bundle.parent, load_ts_module=True, source="github", device="cpu"
    )
    assert same(module, network)
    assert (
        metadata["version"] == json.loads((bundle / "configs/metadata.json").read_text())["version"]
    )


@pytest.mark.slow
def test_bundle_loads_by_name_and_folder(bundle: Path, network: SPIDER) -> None:
    loaded = load(
        NAME,
        bundle_dir=bundle.parent,
        workflow_type="inference",
        source="github",
        device="cpu",
    )
    assert same(loaded.eval(), network)
    # a network of the caller's own gets the weights, and no config is read
    own = load(
        NAME,
        model=SPIDER(**_arguments(bundle)),
        bundle_dir=bundle.parent,
        source="github",
        device="cpu",
    )
    assert same(own.eval(), network)


def _arguments(bundle: Path) -> dict[str, Any]:
    parser = ConfigParser()
    parser.read_config(config(bundle, "inference"))
    arguments: dict[str, Any] = parser.get_parsed_content(
        "network_def", instantiate=False
    ).get_config()
    return {k: v for k, v in arguments.items() if not k.startswith("_")}


def test_no_file_is_too_large_for_the_zoo(bundle_root: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=bundle_root, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    large = [
        n for n in names if (p := bundle_root / n).is_file() and p.stat().st_size > LARGEST_FILE
    ]
    assert large == []


def test_large_files_are_listed_as_the_zoo_wants_them(bundle_root: Path) -> None:
    """Weights that outgrow the limit become downloads; each entry must be able to be checked."""
    path = bundle_root / "large_files.yml"
    if not path.is_file():
        assert (bundle_root / "models" / "model.pt").stat().st_size <= LARGEST_FILE
        return
    for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"]:
        assert entry["url"].startswith("https://")
        place = (bundle_root / entry["path"]).resolve()
        assert place.is_relative_to(bundle_root)
        if place.is_file():
            digest = hashlib.new(entry["hash_type"], place.read_bytes()).hexdigest()
            assert digest == entry["hash_val"]
