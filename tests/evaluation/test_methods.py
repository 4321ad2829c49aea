"""Methods see the world in which the radiographs were taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from spider_bundle.cases.case import phantom_case
from spider_bundle.evaluation.methods import NetworkMethod, sample_volume, world_points
from spider_bundle.geometry import Grid, rotation_about
from spider_bundle.intensity import denormalise_hu
from spider_bundle.networks import SPIDER

GRID = Grid.centred((4.0, 5.0, 6.0), (8, 9, 10))


def item(pose: torch.Tensor | None = None) -> dict[str, Any]:
    network = SPIDER(features=(8, 8, 8, 8), hidden=(16,), image_size=32)
    image = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(1))
    return {
        "image": MetaTensor(image, meta={"projection": network.nominal_projection}),
        "ct": torch.zeros(GRID.shape),
        "affine": torch.from_numpy(GRID.affine),
        "pose": torch.eye(4, dtype=torch.float64) if pose is None else pose,
    }


def moved() -> torch.Tensor:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.from_numpy(rotation_about(2, 30.0))
    pose[:3, 3] = torch.tensor([5.0, -3.0, 2.0])
    return pose


def test_world_points_are_the_posed_voxels() -> None:
    np.testing.assert_allclose(world_points(item()).numpy(), GRID.points(), atol=1e-9)
    pose = moved()
    expected = GRID.points() @ pose[:3, :3].numpy().T + pose[:3, 3].numpy()
    np.testing.assert_allclose(world_points(item(pose)).numpy(), expected, atol=1e-9)


def test_sampled_volume_is_exact_on_linear_functions_and_padded_outside() -> None:
    points = GRID.points()
    volume = points @ np.array([1.0, 2.0, -3.0]) + 7.0
    where = torch.from_numpy(points[1:-1, 1:-1, 1:-1] + [1.3, -0.7, 2.1])
    found = sample_volume(volume, GRID, where, -1000.0)
    np.testing.assert_allclose(found, where.numpy() @ [1.0, 2.0, -3.0] + 7.0, atol=1e-3)
    far = sample_volume(np.stack([volume, volume]), GRID, where + 500.0, -1000.0)
    assert far.shape == (2, *where.shape[:3])
    np.testing.assert_allclose(far, -1000.0)


def test_network_is_asked_for_the_posed_voxels() -> None:
    case = item(moved())
    torch.manual_seed(0)
    network = SPIDER(features=(8, 8, 8, 8), hidden=(16,), image_size=32)
    with torch.no_grad():
        network.decoder.intensity[-1].bias.fill_(0.5)  # away from where HU are clipped
    found = NetworkMethod(network, precision="float32")(case)
    with torch.no_grad():
        maps = network.encode(case["image"].as_tensor()[None])
        points = world_points(case).float().reshape(1, -1, 3)
        expected = network.decode(maps, case["image"].meta["projection"][None], points)[0]
    np.testing.assert_allclose(
        found.hu.ravel(), denormalise_hu(expected[:, -1]).numpy(), rtol=1e-4, atol=0.1
    )
    labels = expected[:, :-1].argmax(dim=1).numpy()
    assert (found.labels.ravel() == labels).mean() > 0.999
    still = NetworkMethod(network, precision="float32")(item())
    assert not np.allclose(still.hu, found.hu)


def test_a_grid_with_another_number_of_voxels_works() -> None:
    head = phantom_case(3, spacing=8.0, shape=20)
    case = {**item(), "ct": torch.from_numpy(head.hu), "affine": torch.from_numpy(head.grid.affine)}
    network = SPIDER(features=(8, 8, 8, 8), hidden=(16,), image_size=32)
    assert NetworkMethod(network)(case).labels.shape == (20, 20, 20)
