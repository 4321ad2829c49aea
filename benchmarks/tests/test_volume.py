"""Networks on a lattice: their volume read at points and on grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.peers.volume import VolumeNetwork
from spider_bundle.geometry import Grid

LATTICE = Grid.centred(8.0, (4, 5, 6))


class GivenVolume(VolumeNetwork):
    """Takes the image's first values for its volume; counts how often it is asked for it."""

    def __init__(self) -> None:
        super().__init__(1, 8.0, LATTICE.shape, 16, 4.0, 10.0, (3, 4, 2))
        self.asked = 0

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)[:, :240].reshape(-1, 2, *LATTICE.shape)

    def volume(self, maps: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return maps


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def linear_image(slope: tuple[float, float, float], offset: float) -> torch.Tensor:
    """Image whose volume has this gradient per mm of LPS in both channels."""
    values = torch.from_numpy(LATTICE.points() @ np.array(slope) + offset).float().flatten()
    return torch.cat([values, values, torch.zeros(512 - 240)]).reshape(1, 2, 16, 16)


def test_lattice_points_read_the_lattice(image: torch.Tensor) -> None:
    net = GivenVolume()
    points = torch.from_numpy(LATTICE.points()).float().reshape(1, -1, 3).expand(2, -1, -1)
    read = net(image, None, points)
    expected = net.encode(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=0)
    on_grid = net.decode_grid(
        net.encode(image),
        net.nominal_projection[None],
        *(torch.from_numpy(a).float() for a in LATTICE.axes()),
    )
    torch.testing.assert_close(on_grid, net.encode(image), atol=1e-5, rtol=0)


def test_a_linear_field_is_read_exactly_in_lps_millimetres() -> None:
    net = GivenVolume()
    slope = (0.3, -0.7, 1.1)
    half = torch.tensor(LATTICE.spacing) * (torch.tensor(LATTICE.shape) - 1) / 2
    points = (torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1) * half
    read = net(linear_image(slope, 2.0), None, points)
    expected = points @ torch.tensor(slope) + 2.0
    torch.testing.assert_close(read[..., 0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(read[..., 1], expected, atol=1e-4, rtol=0)


def test_points_outside_read_the_border(image: torch.Tensor) -> None:
    net = GivenVolume()
    far = net(image, None, torch.tensor([[[500.0, 500.0, -500.0]]]).expand(2, -1, -1))
    # +x and +y are the first index of a RAS grid, -z is the first too
    torch.testing.assert_close(far[:, 0], net.encode(image)[:, :, 0, 0, 0])


@pytest.mark.parametrize("chunk", [1, 30, 131072])
def test_grid_is_its_points_and_moves_with_them(image: torch.Tensor, chunk: int) -> None:
    net = GivenVolume()
    maps, projection = net.encode(image), net.nominal_projection[None]
    moved = Grid.from_ras(np.diag([5.0, 3.0, 4.0, 1.0]) + np.eye(4, k=3) * -7, (4, 6, 5))
    x, y, z = (torch.from_numpy(a).float() for a in moved.axes())
    points = torch.from_numpy(moved.points()).float().reshape(1, -1, 3).expand(2, -1, -1)
    plain = net.decode(maps, projection, points).transpose(1, 2).reshape(2, 2, *moved.shape)
    net.asked = 0
    torch.testing.assert_close(
        net.decode_grid(maps, projection, x, y, z, chunk), plain, atol=1e-5, rtol=0
    )
    assert net.asked == 1  # however many chunks


def test_translating_grid_and_content_together_changes_nothing() -> None:
    net = GivenVolume()
    slope, shift = (0.2, 0.5, -0.4), torch.tensor([3.0, -2.0, 4.0])
    x, y, z = torch.tensor([-4.0, 0.0]), torch.tensor([0.0, 2.0, 5.0]), torch.tensor([1.0])
    projection = net.nominal_projection[None]
    here = net.decode_grid(net.encode(linear_image(slope, 0.0)), projection, x, y, z)
    change = -float(torch.tensor(slope) @ shift)
    there = net.decode_grid(
        net.encode(linear_image(slope, change)),
        projection,
        x + shift[0],
        y + shift[1],
        z + shift[2],
    )
    torch.testing.assert_close(there, here, atol=1e-5, rtol=0)


def test_forward_of_the_image_alone_is_the_default_grid(image: torch.Tensor) -> None:
    net = GivenVolume()
    grid = Grid.centred(10.0, (3, 4, 2))
    points = torch.from_numpy(grid.points()).float().reshape(1, -1, 3).expand(2, -1, -1)
    expected = net(image, None, points).transpose(1, 2).reshape(2, 2, 3, 4, 2)
    torch.testing.assert_close(net(image), expected, atol=1e-5, rtol=0)
