"""SPIDER: folded grids equal plain points, pixel alignment, geometry, TorchScript."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spider_bundle.geometry import (
    Grid,
    ViewPosition,
    isocentric_view,
    positioner_rotation,
)
from spider_bundle.networks import SPIDER
from spider_bundle.networks.sampling import map_projection
from spider_bundle.projection_matrix import project_points

SMALL: dict[str, Any] = {
    "features": (8, 8, 16, 16),
    "map_channels": 4,
    "context_channels": 4,
    "hidden": (16, 16),
    "image_size": 64,
    "pixel_size": 4.8,
    "grid_spacing": 20.0,
    "grid_shape": (8, 9, 10),
}
ENCODINGS = ("none", "fourier")


def small(encoding: str = "fourier", branch: tuple[int, ...] = (), **options: Any) -> SPIDER:
    torch.manual_seed(0)
    return SPIDER(**{**SMALL, "positional_encoding": encoding, "branch": branch, **options}).eval()


def image(batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 2, 64, 64, generator=torch.Generator().manual_seed(1))


def oblique_projection(sod: float = 800.0, shift: float = 15.0) -> torch.Tensor:
    """Two views away from the nominal geometry: turned, tilted, off centre, other distances."""
    views = [
        isocentric_view(
            position,
            sod=sod,
            sdd=sod + 200,
            spacing=(6.0, 5.5),
            shape=(64, 64),
            rotation=positioner_rotation(angle, -4.0),
            offset=(shift, -shift / 2),
        )
        for position, angle in ((ViewPosition.PA, 7.0), (ViewPosition.LL, -11.0))
    ]
    return torch.stack([torch.from_numpy(view.matrix) for view in views])[None]


def axes_of(grid: Grid) -> list[torch.Tensor]:
    return [torch.from_numpy(a).float() for a in grid.axes()]


def points_of(grid: Grid) -> torch.Tensor:
    return torch.from_numpy(grid.points()).float().reshape(1, -1, 3)


def as_grid(points: torch.Tensor, grid: Grid) -> torch.Tensor:
    return points.transpose(1, 2).reshape(points.shape[0], -1, *grid.shape)


GRIDS = {
    "odd": Grid.centred((23.0, 31.0, 17.0), (7, 5, 11)),
    "single": Grid.centred(20.0, (1, 1, 1)),
    "larger than the images": Grid.centred(60.0, (9, 8, 7)),
    "shifted": Grid.from_ras(np.diag([-9.0, 12.0, 10.0, 1.0]) + np.eye(4, k=3) * 50, (6, 7, 8)),
}


@pytest.mark.parametrize("branch", [(), (8,), (8, 6)], ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))
@torch.no_grad()
def test_folded_grid_equals_plain_points(
    encoding: str, branch: tuple[int, ...], grid: Grid
) -> None:
    net = small(encoding, branch)
    maps = net.encode(image(2))
    nominal = net.nominal_projection[None]
    projection = torch.cat([nominal, oblique_projection()])  # each case its own geometry
    plain = net.decode(maps, projection, points_of(grid).expand(2, -1, -1))
    folded = net.decode_grid(maps, projection, *axes_of(grid))
    torch.testing.assert_close(folded, as_grid(plain, grid), atol=1e-4, rtol=0)
    assert grid.shape == (1, 1, 1) or float(plain.std(dim=1).max()) > 1e-3  # not a constant


@torch.no_grad()
def test_the_large_grid_leaves_the_images_and_passes_the_source() -> None:
    grid = GRIDS["larger than the images"]
    pixels = project_points(oblique_projection(), points_of(grid))
    outside = ((pixels < 0) | (pixels > 63)).any(dim=-1)
    assert 0.2 < float(outside.float().mean()) < 0.9
    net = small()
    behind = Grid.centred(400.0, (3, 7, 3))  # y reaches 1200 mm, the source is at 800 mm
    projection = oblique_projection()
    assert bool((project_points(projection, points_of(behind)) == -1e6).any())
    maps = net.encode(image())
    plain = net.decode(maps, projection, points_of(behind))
    folded = net.decode_grid(maps, projection, *axes_of(behind))
    torch.testing.assert_close(folded, as_grid(plain, behind), atol=1e-4, rtol=0)


@pytest.mark.parametrize("stride", [1, 4])
@torch.no_grad()
def test_folded_grid_equals_plain_points_at_other_strides(stride: int) -> None:
    net = small(stride=stride)
    grid = GRIDS["odd"]
    maps = net.encode(image())
    plain = net.decode(maps, oblique_projection(), points_of(grid))
    folded = net.decode_grid(maps, oblique_projection(), *axes_of(grid))
    torch.testing.assert_close(folded, as_grid(plain, grid), atol=1e-4, rtol=0)


@pytest.mark.parametrize("encoding", ENCODINGS)
@torch.no_grad()
def test_result_does_not_depend_on_the_chunk(encoding: str) -> None:
    net = small(encoding)
    grid = GRIDS["odd"]
    maps = net.encode(image())
    whole = net.decode_grid(maps, oblique_projection(), *axes_of(grid))
    for chunk in (1, 11, 25, 10**6):
        part = net.decode_grid(maps, oblique_projection(), *axes_of(grid), chunk)
        torch.testing.assert_close(part, whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_decode_is_pointwise() -> None:
    net = small()
    maps = net.encode(image())
    points = points_of(GRIDS["odd"])
    whole = net.decode(maps, oblique_projection(), points)
    parts = [net.decode(maps, oblique_projection(), p) for p in points.split(100, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_encode_once_decode_many_is_forward() -> None:
    net = small()
    maps = net.encode(image())
    for projection in (net.nominal_projection[None], oblique_projection()):
        for grid in (GRIDS["odd"], GRIDS["shifted"]):
            points = points_of(grid)
            whole = net(image(), projection, points)
            torch.testing.assert_close(net.decode(maps, projection, points), whole)


@torch.no_grad()
def test_forward_of_the_image_alone_is_the_nominal_grid() -> None:
    net = small()
    grid = Grid.centred(20.0, (8, 9, 10))
    result = net(image(2))
    assert result.shape == (2, 7, 8, 9, 10)
    points = points_of(grid).expand(2, -1, -1)
    nominal = net.nominal_projection[None].expand(2, -1, -1, -1)
    torch.testing.assert_close(
        result, as_grid(net(image(2), nominal, points), grid), atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_geometry_matters() -> None:
    net = small()
    points = points_of(GRIDS["odd"])
    results = [net(image(), oblique_projection(sod), points) for sod in (800.0, 1000.0)]
    assert float((results[0] - results[1]).abs().max()) > 1e-3
    # a point at the isocentre of isocentric views is seen at the same pixel at any distance
    origin = torch.zeros(1, 1, 3)
    central = [net(image(), oblique_projection(sod, shift=0.0), origin) for sod in (800.0, 1000.0)]
    torch.testing.assert_close(central[0], central[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("view", [0, 1])
@torch.no_grad()
def test_an_impulse_in_a_map_reaches_exactly_the_points_on_its_ray(view: int) -> None:
    net = small("none")
    maps = torch.rand(1, 2, 8, 32, 32)
    projection = oblique_projection()
    grid = Grid.centred(6.0, (31, 31, 31))
    pixels = project_points(map_projection(projection, 2), points_of(grid))[0, view]
    before = net.decode_grid(maps, projection, *axes_of(grid))
    for column, row in ((15, 15), (9, 20)):
        struck = maps.clone()
        struck[0, view, :, row, column] += 10.0
        after = net.decode_grid(struck, projection, *axes_of(grid))
        moved = ((after - before).abs() > 1e-5).any(dim=1).flatten()
        distance = (pixels - torch.tensor([column, row])).abs().amax(dim=-1)
        assert not bool(moved[distance >= 1].any())
        assert bool(moved[distance < 0.9].all())
        assert int(moved.sum()) > 31  # the ray crosses the whole grid


def test_state_dict_holds_parameters_only() -> None:
    net = small("fourier")
    names = set(net.state_dict())
    assert names == {name for name, _ in net.named_parameters()}
    assert "nominal_projection" not in names
    other = small("fourier", image_size=128, pixel_size=2.4, grid_shape=(4, 4, 4))
    other.load_state_dict(net.state_dict())  # weights fit any nominal geometry and grid


def test_gradients_of_points_reach_every_parameter() -> None:
    net = small("fourier", (8,))
    net(image(), oblique_projection(), points_of(Grid.centred(3.0, 20))).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


@pytest.mark.parametrize("branch", [(), (8,)], ids=str)
@pytest.mark.parametrize("encoding", ENCODINGS)
@torch.no_grad()
def test_torchscript_gives_the_same(encoding: str, branch: tuple[int, ...], tmp_path: Any) -> None:
    net = small(encoding, branch)
    torch.jit.script(net).save(tmp_path / "model.ts")
    scripted = torch.jit.load(tmp_path / "model.ts")
    points = points_of(GRIDS["odd"])
    torch.testing.assert_close(scripted(image(2)), net(image(2)), atol=1e-5, rtol=0)
    for arguments in (
        (image(), oblique_projection()),
        (image(), oblique_projection(), points),
        (image(), None, points),
    ):
        torch.testing.assert_close(scripted(*arguments), net(*arguments), atol=1e-5, rtol=0)
    maps = scripted.encode(image())
    torch.testing.assert_close(maps, net.encode(image()), atol=1e-5, rtol=0)
    for chunk in (30, 131072):
        part = scripted.decode_grid(maps, oblique_projection(), *axes_of(GRIDS["odd"]), chunk)
        whole = net.decode_grid(maps, oblique_projection(), *axes_of(GRIDS["odd"]))
        torch.testing.assert_close(part, whole, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_trace_gives_the_same() -> None:
    net = small()
    traced = torch.jit.trace(net, (image(),))
    other = image().flip(-1)
    torch.testing.assert_close(traced(other), net(other), atol=1e-5, rtol=0)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="positional_encoding"):
        SPIDER(positional_encoding="sine")
