"""Weight files: plain, half size, safe to load, all or nothing."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from spider_bundle.errors import SpiderError
from spider_bundle.networks import SPIDER
from spider_bundle.networks.definition import definition_of
from spider_bundle.networks.positional_encoding import FourierEncoding
from spider_bundle.weights import (
    load_weights,
    main,
    read_description,
    save_weights,
    trained,
    trained_with,
)


def network(seed: int, width: int = 16) -> SPIDER:
    torch.manual_seed(seed)
    return SPIDER(features=(8, 8, 16, 16), map_channels=4, context_channels=4, hidden=(width,))


def test_full_precision_round_trip(tmp_path: Path) -> None:
    source, loaded = network(0), network(1)
    save_weights(source.state_dict(), tmp_path / "new" / "model.pt", half=False)
    load_weights(loaded, tmp_path / "new" / "model.pt")
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_half_precision_round_trip(tmp_path: Path) -> None:
    source, loaded = network(0), network(1)
    save_weights(source.state_dict(), tmp_path / "model.pt")
    load_weights(loaded, tmp_path / "model.pt")
    for name, value in source.state_dict().items():
        result = loaded.state_dict()[name]
        assert result.dtype == torch.float32
        assert torch.equal(result, value.half().float()), name
    image = torch.rand(1, 2, 64, 64)
    points = torch.rand(1, 50, 3) * 100
    difference = loaded(image, None, points) - source(image, None, points)
    assert float(difference.detach().abs().max()) < 2e-3


def test_half_files_have_half_the_size(tmp_path: Path) -> None:
    net = SPIDER()
    for name, half in (("half.pt", True), ("full.pt", False)):
        save_weights(net.state_dict(), tmp_path / name, half=half)
    parameters = sum(p.numel() for p in net.parameters())
    overhead = 60_000
    assert 2 * parameters < (tmp_path / "half.pt").stat().st_size < 2 * parameters + overhead
    assert 4 * parameters < (tmp_path / "full.pt").stat().st_size < 4 * parameters + overhead


def test_integers_stay_integers(tmp_path: Path) -> None:
    net = nn.BatchNorm1d(3)
    net(torch.rand(5, 3))
    save_weights(net.state_dict(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state["num_batches_tracked"].dtype == torch.int64
    assert int(state["num_batches_tracked"]) == 1


def test_file_is_a_plain_state_dict(tmp_path: Path) -> None:
    save_weights(network(0).state_dict(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert type(state) is dict
    assert list(state) == list(network(0).state_dict())


def test_hash_of_the_file_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_weights(network(0).state_dict(), path)
    assert load_weights(network(1), path) == hashlib.sha256(path.read_bytes()).hexdigest()


def raised(weights: Path, net: nn.Module | None = None) -> str:
    """The first line of the code with which weights are refused."""
    with pytest.raises(SpiderError) as error:
        load_weights(network(0) if net is None else net, weights)
    return str(error.value)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_weights(network(0), tmp_path / "absent.pt")


def state_with(value: float) -> dict[str, torch.Tensor]:
    return {**network(0).state_dict(), "decoder.first.bias": torch.full((16,), value)}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (network(0), "M01"),  # a pickled module: its code is not run
        ({"network": network(0).state_dict(), "epoch": 3}, "M01"),  # a training's checkpoint
        ([1, 2], "M01"),
        (state_with(float("nan")), "M01 some values are not finite"),
        (state_with(float("inf")), "M01"),
        (network(0, width=24).state_dict(), "M02"),
        ({}, "M02"),
        ({**network(0).state_dict(), "more": torch.zeros(2)}, "M02 1 of"),
    ],
)
def test_files_of_another_kind_are_refused(content: object, code: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    assert raised(tmp_path / "model.pt").startswith(code)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut", b"\x80\x02."])
def test_files_that_are_no_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert raised(tmp_path / "model.pt").startswith("M01")


def test_weights_bring_their_network(tmp_path: Path) -> None:
    other = SPIDER(
        features=(8, 8, 16, 16),
        positional_encoding=FourierEncoding(octaves=3, extent=100.0),
        pixel_size=1.0,
        grid_spacing=4.0,
    )
    save_weights(other, tmp_path / "model.pt", half=False, recipe={"epochs": 3})
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["recipe"] == {"epochs": 3}
    assert described["network_def"]["features"] == [8, 8, 16, 16]
    loaded = trained(network(0), tmp_path / "model.pt")
    image, points = torch.rand(1, 2, 64, 64), torch.rand(1, 50, 3) * 100
    projection = other.nominal_projection[None]
    assert torch.equal(loaded(image, projection, points), other(image, projection, points))
    # what no weight depends on is the config's; the reader asks for what the network is used to
    assert torch.equal(loaded.grid_x, network(0).grid_x)
    assert torch.equal(loaded.nominal_projection, network(0).nominal_projection)
    assert not torch.equal(loaded.nominal_projection, other.nominal_projection)
    assert trained_with("pixel_size", tmp_path / "model.pt", 1.2) == 1.0
    # a network to train is not replaced
    assert "positional_encoding" in raised(tmp_path / "model.pt")
    assert copy.deepcopy(other).state_dict().keys() == other.state_dict().keys()
    assert definition_of(copy.deepcopy(other)) == definition_of(other)


def test_weights_of_earlier_releases_have_no_description(tmp_path: Path) -> None:
    net = network(0)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    fresh = network(1)
    assert trained(fresh, tmp_path / "model.pt") is fresh
    assert trained_with("pixel_size", tmp_path / "model.pt", 1.2) == 1.2
    # a state dict alone takes away the description of the weights that it replaces
    save_weights(net, tmp_path / "model.pt")
    save_weights(net.state_dict(), tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"weights_sha256": "0" * 64}, "M03"),
        ({"weights_sha256": 3}, "M03"),
        ({"network_def": [1]}, "M03"),
        ({"network_def": {"_target_": "os.system", "command": "true"}}, "M02"),
        ({"network_def": {"_target_": "spider_bundle.networks.spider.torch.load"}}, "M02"),
        ({"network_def": {"_target_": "spider_bundle.networks.SPIDER", "code": "hash"}}, "M02"),
        ({"network_def": {"_target_": "spider_bundle.networks.SPIDER", "features": 3}}, "M02"),
        ({"network_def": {"features": [8]}}, "M02"),
    ],
)
def test_descriptions_that_do_not_hold_are_refused(
    change: dict[str, object], code: str, tmp_path: Path
) -> None:
    save_weights(network(0), tmp_path / "model.pt")
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SpiderError) as error:
        trained(network(1), tmp_path / "model.pt")
    assert error.value.code == code
    path.write_text("{")
    assert raised(tmp_path / "model.pt").startswith("M03")


def test_later_entries_and_other_names_of_a_class_are_taken(tmp_path: Path) -> None:
    save_weights(network(0), tmp_path / "model.pt")
    path = tmp_path / "model.json"
    content = json.loads(path.read_text())
    content["network_def"]["_target_"] = "spider_bundle.networks.SPIDER"
    path.write_text(json.dumps({**content, "calibration": {"bone": 1.1}}))
    assert load_weights(network(1), tmp_path / "model.pt")
    described = read_description(tmp_path / "model.pt")
    assert described is not None
    assert described.model_dump()["calibration"] == {"bone": 1.1}


def test_descriptions_are_written_for_weights_that_have_none(tmp_path: Path) -> None:
    config = {
        "network_def": {"_target_": "spider_bundle.networks.SPIDER", "stride": 4},
        "recipe": {"epochs": 7},
    }
    (tmp_path / "train.json").write_text(json.dumps(config))
    torch.save(SPIDER(stride=4).state_dict(), tmp_path / "w.pt")
    main([str(tmp_path / "w.pt"), str(tmp_path / "train.json")])
    described = read_description(tmp_path / "w.pt")
    assert described is not None
    assert described.recipe == {"epochs": 7}
    assert described.network_def == definition_of(SPIDER(stride=4))
    torch.save(network(0).state_dict(), tmp_path / "w.pt")
    with pytest.raises(SpiderError, match="M02"):
        main([str(tmp_path / "w.pt"), str(tmp_path / "train.json")])
    assert not (tmp_path / "w.json").exists()


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    save_weights(network(0).state_dict(), path)
    before = path.read_bytes()

    def full_disk(_: object, target: Path) -> None:
        Path(target).write_bytes(b"part")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_weights(network(1).state_dict(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
