"""Weight files: plain, half size, safe to load, all or nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from spider_bundle.networks import SPIDER
from spider_bundle.weights import load_weights, save_weights


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


def test_other_networks_and_missing_files_are_refused(tmp_path: Path) -> None:
    save_weights(network(0).state_dict(), tmp_path / "model.pt")
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights(network(0, width=24), tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError):
        load_weights(network(0), tmp_path / "absent.pt")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save(network(0), tmp_path / "model.pt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        load_weights(network(0), tmp_path / "model.pt")


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
