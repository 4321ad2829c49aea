"""Lifting: every view at its place among the patient's axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.peers.lifting import LiftingNet, _ViewGenerator

SMALL: dict[str, Any] = {
    "num_classes": 2,
    "features": (4, 4, 8, 8, 8),
    "volume_features": (8, 8, 4, 4),
    "lattice_spacing": 8.0,
    "lattice_shape": (32, 24, 16),
    "image_size": 64,
    "pixel_size": 4.0,
    "grid_spacing": 20.0,
    "grid_shape": (3, 4, 5),
}


def small(**options: Any) -> LiftingNet:
    torch.manual_seed(0)
    return LiftingNet(**{**SMALL, **options}).eval()


def random_image(batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 2, 64, 64, generator=torch.Generator().manual_seed(1))


def pixel_of(horizontal: float, z: float) -> tuple[int, int]:
    """(row, column) of a canonical image of 64 pixels of 4 mm, parallel beams."""
    return round(31.5 - z / 4.0), round(31.5 + horizontal / 4.0)


def test_images_arrive_on_the_lattice_in_its_order() -> None:
    net = small()
    image = torch.zeros(1, 2, 64, 64)
    # 32 mm towards the left (frontal) or posterior (lateral) and 20 mm towards the head
    image[:, :, *pixel_of(34.0, 22.0)] = 1.0
    points = net.lattice.points()
    frontal = net._on_lattice(image[:, :1], net.to_x)[0, 0]
    lateral = net._on_lattice(image[:, 1:], net.to_y)[0, 0]
    assert frontal.shape == (64, 32)
    assert lateral.shape == (48, 32)
    u, w = (int(i) // 2 for i in torch.unravel_index(frontal.argmax(), frontal.shape))
    assert abs(points[u, 0, w, 0] - 34.0) <= 4
    assert abs(points[u, 0, w, 2] - 22.0) <= 4
    u, w = (int(i) // 2 for i in torch.unravel_index(lateral.argmax(), lateral.shape))
    assert abs(points[0, u, w, 1] - 34.0) <= 4
    assert abs(points[0, u, w, 2] - 22.0) <= 4


@pytest.mark.parametrize("pixel_size", [1.2, 1.5, 4.0])
def test_averages_of_ramps_are_millimetres(pixel_size: float) -> None:
    net = small(pixel_size=pixel_size, lattice_spacing=4.0, lattice_shape=(8, 16, 16))
    place = ((torch.arange(64.0) - 31.5) * pixel_size).expand(64, 64)  # of columns, mm
    across = torch.linspace(15.0, -15.0, 16), torch.linspace(31.0, -31.0, 32)
    for to_horizontal, wanted in zip((net.to_x, net.to_y), across, strict=True):
        horizontal = net._on_lattice(place[None, None], to_horizontal)[0, 0]
        height = net._on_lattice(-place.T[None, None], to_horizontal)[0, 0]
        # a mean of pixels differs from the ramp by less than half a pixel
        error = (horizontal - wanted[:, None]).abs().max()
        assert float(error) <= 0.5 * pixel_size
        error = (height - torch.linspace(-31.0, 31.0, 32)).abs().max()
        assert float(error) <= 0.5 * pixel_size


def test_averages_weigh_all_pixels_and_sum_to_one_inside_the_image() -> None:
    net = small(pixel_size=1.2, image_size=256, lattice_spacing=4.0, lattice_shape=64)
    for weights in (net.to_x, net.to_y, net.to_z):
        assert weights.shape == (128, 256)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(128))
        # pixels of the cube's 256 mm are used alike; a lattice pixel takes 1 / (2 / 1.2) of each
        used = weights.sum(dim=0)[22:-22]
        torch.testing.assert_close(used, torch.full_like(used, 0.6), atol=1e-4, rtol=0)


def mark_sensitivity(net: LiftingNet, view: int, horizontal: float, z: float) -> torch.Tensor:
    """Mean absolute change of the volume ``(X, Y, Z)`` when a mark is put into one view."""
    image = random_image()
    marked = image.clone()
    row, column = pixel_of(horizontal, z)
    marked[:, view, row - 1 : row + 2, column - 1 : column + 2] += 3.0
    with torch.no_grad():
        return (net.encode(marked) - net.encode(image)).abs().mean(dim=(0, 1))


def without_context(net: LiftingNet) -> LiftingNet:
    """The same network without its bottleneck and norms, whose reach is the whole image."""
    for generator in (net.frontal, net.lateral):
        torch.nn.init.zeros_(generator.lift.weight)
        torch.nn.init.zeros_(generator.lift.bias)
    for module in net.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, torch.nn.Identity())
    return net


@pytest.mark.parametrize(("horizontal", "z"), [(60.0, 30.0), (-60.0, -30.0), (40.0, -20.0)])
@pytest.mark.parametrize("view", [0, 1])
def test_a_mark_changes_the_beam_behind_it(view: int, horizontal: float, z: float) -> None:
    net = without_context(small())
    change = mark_sensitivity(net, view, horizontal, z)
    points = torch.from_numpy(net.lattice.points()).float()
    across, along = (0, 1) if view == 0 else (1, 0)
    centre = [float((change * points[..., a]).sum() / change.sum()) for a in range(3)]
    assert abs(centre[across] - horizontal) < 12
    assert abs(centre[2] - z) < 12
    assert abs(centre[along]) < 16  # along the beam it is everywhere alike
    profile = change.sum(dim=tuple(a for a in range(3) if a != along))
    assert float(profile[2:-2].min()) > 0.5 * float(profile.max())


def test_depth_of_the_bottleneck_lies_along_the_beam() -> None:
    torch.manual_seed(0)
    for beam, shape in ((3, (4, 3, 2)), (2, (3, 4, 2))):
        generator = _ViewGenerator((4, 4, 8, 8, 8), (8, 8, 4, 4), 3, beam)
        features = torch.rand(1, 8, 4, 2)  # (x or y, z) at an eighth of the resolution
        lifted: list[torch.Tensor] = []
        generator.conv5.register_forward_pre_hook(lambda _, x, kept=lifted: kept.append(x[0]))
        with torch.no_grad():
            generator.level5.register_forward_hook(lambda _m, _x, _y, f=features: f)
            generator(torch.rand(1, 1, 64, 32))
            flat = generator.lift(features).reshape(1, 8, 3, 4, 2)
        assert lifted[0].shape == (1, 8, *shape)
        for depth in range(3):
            torch.testing.assert_close(lifted[0].select(beam, depth), flat[:, :, depth])


def test_the_geometry_of_the_study_is_ignored() -> None:
    net = small()
    points = torch.rand(1, 50, 3) * 40
    other = net.nominal_projection[None].clone()
    other[..., 3] += 10.0
    assert torch.equal(net(random_image(), None, points), net(random_image(), other, points))


def test_cases_of_a_batch_are_independent() -> None:
    net = small()
    both = net(random_image(2))
    assert both.shape == (2, 3, 3, 4, 5)
    torch.testing.assert_close(net(random_image(2)[1:]), both[1:], atol=1e-4, rtol=1e-4)


def test_gradient_reaches_every_parameter() -> None:
    net = small()
    points = (torch.rand(2, 500, 3, generator=torch.Generator().manual_seed(4)) - 0.5) * 200
    net(random_image(2), None, points).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


def test_unfit_lattice_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        small(lattice_shape=(32, 20, 16))
