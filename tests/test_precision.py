"""Where autocast reduces precision, and that it leaves positions alone."""

from __future__ import annotations

import pytest
import torch

from spider_bundle import precision
from spider_bundle.networks.spider import nominal_projection
from spider_bundle.precision import autocast, has_fast_bfloat16
from spider_bundle.projection_matrix import project_points


def product_type(setting: str) -> torch.dtype:
    with autocast("cpu", setting):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_named_precisions() -> None:
    assert product_type("float32") == torch.float32
    assert product_type("bfloat16") == torch.bfloat16


@pytest.mark.parametrize("native", [True, False])
def test_auto_follows_the_hardware(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda _: native)
    assert product_type("auto") == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("amx", [True, False])
def test_cpu_needs_matrix_units_for_bfloat16(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = {"avx512_bf16": True, "amx_bf16": amx}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_fast_bfloat16("cpu") is amx


def test_no_bfloat16_without_the_device() -> None:
    assert not has_fast_bfloat16("mps")
    if not torch.cuda.is_available():
        assert not has_fast_bfloat16("cuda")


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'half'"):
        autocast("cpu", "half")


def test_projected_positions_are_not_rounded() -> None:
    points = torch.rand(1, 100, 3) * 200 - 100
    matrix = nominal_projection()[None]
    exact = project_points(matrix, points)
    with autocast("cpu", "bfloat16"):
        assert torch.equal(project_points(matrix, points), exact)
