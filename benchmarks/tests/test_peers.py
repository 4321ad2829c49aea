"""The peers train, resume and are scored by the pipeline of SPIDER."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run

from benchmarks.ablations import ROWS, row_overrides
from benchmarks.peers import NETWORKS
from benchmarks.peers.back_projection import BackProjectionUNet
from benchmarks.peers.lifting import LiftingNet
from benchmarks.peers.volume import VolumeNetwork
from spider_bundle.geometry import Grid
from spider_bundle.networks import SPIDER

PEERS: dict[str, type[VolumeNetwork]] = {
    "lifting": LiftingNet,
    "back_projection": BackProjectionUNet,
}
TINY: dict[str, dict[str, Any]] = {
    "lifting": {
        "features": [4, 4, 8, 8, 8],
        "volume_features": [8, 8, 4, 4],
    },
    "back_projection": {"features": [4, 4, 4, 8, 8, 4]},
}
every_peer = pytest.mark.parametrize("name", list(PEERS))


@pytest.fixture(autouse=True)
def in_bundle(monkeypatch: pytest.MonkeyPatch, bundle_root: Path) -> None:
    monkeypatch.chdir(bundle_root)


def layered(name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config("configs/train.json")
    parser.update({"network_def": NETWORKS[name]})
    return parser


@every_peer
def test_peer_has_its_defaults_and_reconstructs_the_cube_of_spider(name: str) -> None:
    network = layered(name).get_parsed_content("network_def")
    assert type(network) is PEERS[name]
    defaults = PEERS[name]()
    assert [p.shape for p in network.parameters()] == [p.shape for p in defaults.parameters()]
    for peer in (network, defaults):
        assert np.array_equal(peer.grid.points(), Grid.centred(2.0, 128).points())
    assert torch.equal(network.nominal_projection, SPIDER().nominal_projection)


def test_rows_of_the_ablations_override_what_there_is() -> None:
    parser = ConfigParser()
    parser.read_config("configs/train.json")
    for title in ROWS:
        for name, value in row_overrides(title).items():
            # a typing error would add an id that nothing reads, and the row would show nothing;
            # an empty list or a null cannot be told from what is not there
            assert name in parser or value in ([], None), name
            if name.startswith("train::preprocessing"):
                parent = parser[name.rpartition("::")[0]]
                assert parent["_target_"].endswith("RandRadiographRealismd")


@pytest.mark.parametrize("title", ROWS)
def test_networks_of_the_ablations_have_the_published_size(title: str) -> None:
    parser = ConfigParser()
    parser.read_config("configs/train.json")
    parser.update(row_overrides(title))
    network = parser.get_parsed_content("network_def")
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert f"| {title} | {millions:.2f} |" in Path("docs", "results.md").read_text(encoding="utf-8")


@pytest.mark.slow
@every_peer
def test_training_runs_and_writes_scores_and_weights(name: str, tmp_path: Path) -> None:
    phantoms = [{"case": f"phantom_{seed}", "phantom": seed} for seed in (1, 2)]
    tiny: dict[str, Any] = {
        **TINY[name],
        "lattice_spacing": 16.0,
        "lattice_shape": [16, 16, 16],
    }
    run(
        "training",
        config_file="configs/train.json",
        logging_file=False,
        ckpt_dir=str(tmp_path),
        device="cpu",
        epochs=1,
        iterations_per_epoch=1,
        val_interval=1,
        batch_size=1,
        points_per_case=256,
        network_def={**NETWORKS[name], **tiny},
        **{"train::data": phantoms[:1], "validate::data": phantoms[1:]},
    )
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert [row["case"] for row in scores["cases"]] == ["phantom_2"]
    parser = layered(name)
    parser.update({"network_def": {**NETWORKS[name], **tiny}})
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
