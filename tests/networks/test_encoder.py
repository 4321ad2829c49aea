"""The view encoder: shared weights, the exchange of the views, one pixel's place in the map."""

from __future__ import annotations

import pytest
import torch

from spider_bundle.networks.encoder import ViewEncoder

SMALL = {"features": (8, 8, 16, 16), "map_channels": 4, "context_channels": 4}


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))


def encoder(stride: int = 2, exchange: bool = False) -> ViewEncoder:
    torch.manual_seed(0)
    return ViewEncoder(stride=stride, exchange=exchange, **SMALL).eval()


def test_views_share_weights_and_swap_with_their_images(image: torch.Tensor) -> None:
    for exchange in (False, True):
        net = encoder(exchange=exchange)
        torch.testing.assert_close(net(image.flip(1)), net(image).flip(1), atol=1e-5, rtol=1e-4)


def test_views_are_independent_without_exchange(image: torch.Tensor) -> None:
    other = image.clone()
    other[:, 1] = 0
    for exchange in (False, True):
        net = encoder(exchange=exchange)
        same = torch.allclose(net(image)[:, 0], net(other)[:, 0])
        assert same is not exchange


def test_exchange_reads_the_rows_mean_of_the_other_view(image: torch.Tensor) -> None:
    # a lateral radiograph mirrored along its columns keeps every row's mean at the bottleneck only
    # if the encoder is symmetric, so constant rows are used: mirroring is then no change at all
    rows = image[:, 1].mean(dim=-1, keepdim=True).expand(-1, -1, 64)
    net = encoder(exchange=True)
    with torch.no_grad():
        first = net(torch.stack([image[:, 0], rows], dim=1))[:, 0]
        second = net(torch.stack([image[:, 0], rows.flip(-1)], dim=1))[:, 0]
        upside_down = net(torch.stack([image[:, 0], rows.flip(-2)], dim=1))[:, 0]
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, upside_down, atol=1e-4)


def test_cases_of_a_batch_are_independent(image: torch.Tensor) -> None:
    net = encoder(exchange=True)
    torch.testing.assert_close(net(image)[1:], net(image[1:]), atol=1e-5, rtol=1e-4)
