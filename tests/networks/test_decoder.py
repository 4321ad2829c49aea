"""The implicit decoder: layout of the output, separate heads, shared trunk."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from spider_bundle.networks.decoder import ImplicitDecoder


def decoder(branch: tuple[int, ...]) -> ImplicitDecoder:
    torch.manual_seed(0)
    return ImplicitDecoder(5, hidden=(8, 7), branch=branch, num_classes=4)


def test_linear_heads_by_hand() -> None:
    net = decoder(())
    x = torch.randn(3, 5)
    parameters = dict(net.named_parameters())
    h = F.relu(x @ parameters["first.weight"].T + parameters["first.bias"])
    h = F.relu(h @ parameters["trunk.0.weight"].T + parameters["trunk.0.bias"])
    logits = h @ parameters["structure.1.weight"].T + parameters["structure.1.bias"]
    intensity = h @ parameters["intensity.1.weight"].T + parameters["intensity.1.bias"]
    torch.testing.assert_close(net(x), torch.cat([logits, intensity], dim=-1))


@pytest.mark.parametrize("branch", [(), (6,), (6, 4)])
def test_heads_train_apart_and_the_trunk_with_both(branch: tuple[int, ...]) -> None:
    net = decoder(branch)
    x = torch.randn(50, 5)
    for channels, own, other in (
        (slice(0, 4), "structure", "intensity"),
        (slice(4, 5), "intensity", "structure"),
    ):
        net.zero_grad()
        net(x)[:, channels].square().sum().backward()
        moved = {
            name.split(".")[0]
            for name, p in net.named_parameters()
            if p.grad is not None and bool((p.grad != 0).any())
        }
        assert moved == {"first", "trunk", own}
        assert other not in moved


def test_points_are_independent() -> None:
    net = decoder((6,))
    x = torch.randn(2, 9, 5)
    torch.testing.assert_close(net(x)[1, 3], net(x[1, 3]))


def test_after_first_continues_the_first_layer() -> None:
    net = decoder((6,))
    x = torch.randn(9, 5)
    torch.testing.assert_close(net.after_first(net.first(x)), net(x))
