"""Back-projection: what the radiographs show, put where it can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.peers.back_projection import BackProjectionUNet
from spider_bundle.geometry import ViewPosition, isocentric_view, positioner_rotation

SMALL: dict[str, Any] = {
    "num_classes": 2,
    "features": (4, 4, 4, 4, 8, 4),
    "lattice_spacing": 8.0,
    "lattice_shape": (16, 32, 16),
    "image_size": 64,
    "pixel_size": 4.0,
    "grid_spacing": 20.0,
    "grid_shape": (3, 4, 5),
}


def small(**options: Any) -> BackProjectionUNet:
    torch.manual_seed(0)
    return BackProjectionUNet(**{**SMALL, **options})


def projections() -> torch.Tensor:
    """The nominal geometry and another one, turned, off centre and with short distances."""
    views = [
        isocentric_view(
            position,
            sod=700.0,
            sdd=900.0,
            spacing=(5.5, 5.0),
            shape=(64, 64),
            rotation=positioner_rotation(angle, 3.0),
            offset=(9.0, -6.0),
        )
        for position, angle in ((ViewPosition.AP, 5.0), (ViewPosition.RL, -4.0))
    ]
    oblique = torch.stack([torch.from_numpy(view.matrix) for view in views])
    return torch.stack([small().nominal_projection, oblique])


def ball_image(projection: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Radiographs ``(B, 2, 64, 64)`` of a small bright ball, drawn where it is projected."""
    homogeneous = projection[..., :3] @ centre.double() + projection[..., 3]
    column, row = (homogeneous[..., i] / homogeneous[..., 2] for i in (0, 1))
    pixel = torch.arange(64.0)
    dx = (pixel - column[..., None].float())[..., None, :]
    dy = (pixel - row[..., None].float())[..., :, None]
    return torch.exp(-(dx**2 + dy**2) / (2 * 3.0**2))


@pytest.mark.parametrize("index", [(3, 20, 11), (12, 5, 2), (8, 16, 7)])
def test_back_projections_of_a_ball_cross_at_the_ball(index: tuple[int, int, int]) -> None:
    net = small()
    projection = projections()
    centre = torch.from_numpy(net.lattice.points())[index].float()
    seen = net.back_project(net.encode(ball_image(projection, centre)), projection)
    both = seen[:, 0] * seen[:, 2]
    for case in both:
        found = torch.unravel_index(case.argmax(), case.shape)
        assert tuple(int(i) for i in found) == index
        assert float(case.max()) > 0.7


def test_one_view_alone_is_constant_along_its_rays() -> None:
    net = small()
    nominal = projections()[:1]
    seen = net.back_project(net.encode(ball_image(nominal, torch.zeros(3))), nominal)[0]
    # the ball is on the central rays, which run along y (frontal) and x (lateral) at index 7.5
    frontal, lateral = seen[0, 7:9, :, 7:9], seen[2, :, 15:17, 7:9]
    assert float(frontal.min()) > 0.5
    assert float(lateral.min()) > 0.5
    assert float(seen[0, 0].max()) < 0.01  # 60 mm beside the ray
    assert float(seen[2, :, 0].max()) < 0.01


def test_field_of_view_is_marked() -> None:
    net = small()
    narrow = isocentric_view(
        ViewPosition.PA, sod=1000.0, sdd=1150.0, spacing=(1.15, 1.15), shape=(64, 64)
    )
    projection = projections()[:1].clone()
    projection[0, 0] = torch.from_numpy(narrow.matrix)  # +-32 mm at the isocentre
    image = torch.full((1, 2, 64, 64), 0.5)
    seen = net.back_project(net.encode(image), projection)[0]
    points = torch.from_numpy(net.lattice.points()).float()
    inside = (points[..., 0].abs() < 25) & (points[..., 2].abs() < 25) & (points[..., 1].abs() < 60)
    outside = points[..., 0].abs() > 40
    for channel, value in ((0, 0.5), (1, 1.0), (3, 1.0)):
        there = seen[channel][inside]
        torch.testing.assert_close(there, torch.full_like(there, value))
    assert bool((seen[:2, outside] == 0).all())


def test_the_geometry_of_the_study_is_used() -> None:
    net = small().eval()
    image = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(1))
    points = torch.zeros(1, 1, 3)
    nominal, oblique = (net(image, p[None], points) for p in projections())
    assert not torch.allclose(nominal, oblique, atol=1e-4)


def test_cases_of_a_batch_are_independent() -> None:
    net = small().eval()
    image = torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(2))
    both = net(image, projections())
    assert both.shape == (2, 3, 3, 4, 5)
    torch.testing.assert_close(net(image[1:], projections()[1:]), both[1:], atol=1e-4, rtol=1e-4)


def test_gradient_reaches_every_parameter() -> None:
    net = small()
    image = torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(3))
    points = (torch.rand(2, 500, 3, generator=torch.Generator().manual_seed(4)) - 0.5) * 120
    net(image, projections(), points).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


def test_unfit_lattice_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        small(lattice_shape=(16, 24, 16))
