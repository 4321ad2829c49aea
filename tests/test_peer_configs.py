"""The peers train, resume and are scored by the pipeline of SPIDER."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, run

from spider_bundle.networks.back_projection import BackProjectionUNet
from spider_bundle.networks.lifting import LiftingNet
from spider_bundle.networks.volume import VolumeNetwork

PEERS: dict[str, type[VolumeNetwork]] = {
    "peer_lifting": LiftingNet,
    "peer_back_projection": BackProjectionUNet,
}
TINY: dict[str, dict[str, Any]] = {
    "peer_lifting": {
        "network_def::features": [4, 4, 8, 8, 8],
        "network_def::volume_features": [8, 8, 4, 4],
    },
    "peer_back_projection": {"network_def::features": [4, 4, 4, 8, 8, 4]},
}
every_peer = pytest.mark.parametrize("name", list(PEERS))


@pytest.fixture(autouse=True)
def in_bundle(monkeypatch: pytest.MonkeyPatch, bundle_root: Path) -> None:
    monkeypatch.chdir(bundle_root)


def layered(name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(["configs/train.json", f"configs/{name}.json"])
    return parser


@every_peer
def test_config_is_its_network_and_its_folder_only(name: str) -> None:
    layer = json.loads(Path("configs", f"{name}.json").read_text(encoding="utf-8"))
    assert set(layer) == {"ckpt_dir", "network_def"}
    parser = layered(name)
    assert Path(parser.get_parsed_content("ckpt_dir")).name == name
    network = parser.get_parsed_content("network_def")
    assert type(network) is PEERS[name]
    assert network.num_classes == 6
    defaults = PEERS[name]()
    assert [p.shape for p in network.parameters()] == [p.shape for p in defaults.parameters()]
    # the cube of SPIDER's default grid, on the same image
    assert network.lattice.shape == (64, 64, 64)
    assert network.lattice.spacing == (4.0, 4.0, 4.0)
    assert torch.equal(network.grid_x, defaults.grid_x)
    assert torch.equal(network.nominal_projection, defaults.nominal_projection)


@pytest.mark.slow
@every_peer
def test_training_runs_and_writes_scores_and_weights(name: str, tmp_path: Path) -> None:
    phantoms = [{"case": f"phantom_{seed}", "phantom": seed} for seed in (1, 2)]
    tiny: dict[str, Any] = {
        **TINY[name],
        "network_def::lattice_spacing": 16.0,
        "network_def::lattice_shape": [16, 16, 16],
    }
    run(
        "training",
        config_file=["configs/train.json", f"configs/{name}.json"],
        logging_file=False,
        ckpt_dir=str(tmp_path),
        device="cpu",
        epochs=1,
        iterations_per_epoch=1,
        val_interval=1,
        batch_size=1,
        points_per_case=256,
        **tiny,
        **{"train::data": phantoms[:1], "validate::data": phantoms[1:]},
    )
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert [row["case"] for row in scores["cases"]] == ["phantom_2"]
    parser = layered(name)
    parser.update({key.replace("::", "#"): value for key, value in tiny.items()})
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
