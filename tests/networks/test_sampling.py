"""Reading maps: bilinear taps against grid_sample, projections of reduced maps."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from spider_bundle.networks.sampling import bilinear_taps, map_projection, sample_maps
from spider_bundle.networks.spider import nominal_projection
from spider_bundle.projection_matrix import resize_matrix


def pixels_everywhere(height: int, width: int) -> torch.Tensor:
    """Positions (column, row) inside, on the border, on pixel centres and far outside."""
    generator = torch.Generator().manual_seed(1)
    size = torch.tensor([width, height])
    spread = torch.rand(2, 300, 2, generator=generator) * (size + 6) - 3
    whole = torch.cartesian_prod(torch.arange(-2.0, width + 2), torch.arange(-2.0, height + 2))
    far = torch.tensor([[-1e6, -1e6], [1e6, 3.0], [2.0, -1e6], [width - 1 + 1e-3, 0.5]])
    fixed = torch.cat([whole, far])[None].expand(2, -1, -1)
    return torch.cat([spread, fixed], dim=1)


def read_by_taps(maps: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Samples (P, V * C) of maps (V, C, H, W) by taps."""
    views, channels, height, width = maps.shape
    taps, weights = bilinear_taps(pixels.transpose(1, 2), height, width)
    table = F.pad(maps, [1, 1, 1, 1]).permute(0, 2, 3, 1).reshape(-1, channels)
    read = (table[taps.long()] * weights[..., None]).reshape(4, views, -1, channels).sum(dim=0)
    return read.transpose(0, 1).flatten(1)


def test_taps_equal_grid_sample() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 7, 10)
    pixels = pixels_everywhere(7, 10)
    expected = sample_maps(maps[None], pixels[None])[0]
    torch.testing.assert_close(read_by_taps(maps, pixels), expected, atol=2e-5, rtol=0)


def test_pixel_centres_read_the_map_and_outside_is_zero() -> None:
    maps = torch.arange(1.0, 13.0).reshape(1, 1, 1, 3, 4)
    pixels = torch.tensor([[3.0, 2.0], [0.0, 1.0], [0.5, 0.5], [3.5, 2.0], [4.0, 2.0], [9.0, 9.0]])
    expected = torch.tensor([12.0, 5.0, 3.5, 6.0, 0.0, 0.0])
    torch.testing.assert_close(sample_maps(maps, pixels[None, None])[0, :, 0], expected)
    torch.testing.assert_close(read_by_taps(maps[0], pixels[None])[:, 0], expected)


def test_weights_are_a_partition_of_one() -> None:
    taps, weights = bilinear_taps(pixels_everywhere(7, 10).transpose(1, 2), 7, 10)
    total = weights.reshape(4, -1).sum(dim=0)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert bool((weights >= 0).all())
    assert 0 <= int(taps.min()) <= int(taps.max()) < 2 * 9 * 12


def test_map_projection_is_the_geometry_of_an_averaged_image() -> None:
    image = nominal_projection(256, 1.2)
    for stride in (1, 2, 4):
        resize = torch.from_numpy(resize_matrix((256, 256), (256 // stride, 256 // stride)))
        torch.testing.assert_close(map_projection(image, stride), resize @ image)


def test_average_pooling_keeps_a_ramp_in_place() -> None:
    # the map's value at a projected point is the radiograph's value there
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    point = torch.tensor([[[20.0, 0.0, -9.0, 1.0]]], dtype=torch.float64)
    for stride in (2, 4):
        matrix = map_projection(nominal_projection(64, 4.8), stride)[0]
        homogeneous = point[0, 0] @ matrix.T
        pixel = (homogeneous[:2] / homogeneous[2]).float()
        pooled = F.avg_pool2d(ramp, stride)[None]
        at_image = point[0, 0] @ nominal_projection(64, 4.8)[0].T
        value = sample_maps(pooled, pixel[None, None, None])[0, 0, 0]
        torch.testing.assert_close(value, (at_image[0] / at_image[2]).float())
