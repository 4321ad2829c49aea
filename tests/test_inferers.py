"""Inferers: geometry and output grid from the image's meta, points, reduced precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate

from spider_bundle.geometry import Grid
from spider_bundle.inferers import PointInferer, VolumeInferer, ct_and_labels
from spider_bundle.intensity import HU_WINDOW
from spider_bundle.networks import SPIDER
from spider_bundle.networks.spider import nominal_projection

GRID = Grid.centred((11.0, 13.0, 17.0), (6, 5, 7))
LONGER_GRID = Grid.from_ras(GRID.ras_affine, (6, 5, 8))


@pytest.fixture(scope="module")
def network() -> SPIDER:
    torch.manual_seed(0)
    return SPIDER(
        features=(8, 8, 16, 16),
        map_channels=8,
        context_channels=8,
        hidden=(32, 32),
        branch=(),
        image_size=64,
        pixel_size=4.8,
    ).eval()


def radiographs(seed: int, sod: float, grid: Grid | None = GRID) -> MetaTensor:
    """Image (2, H, W) with the meta that the transforms give one study."""
    values = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(seed))
    meta: dict[str, Any] = {"projection": nominal_projection(64, 4.8, sod=sod)}
    if grid is not None:
        meta["spatial_shape"] = np.array(grid.shape)
        meta["original_affine"] = grid.ras_affine
    return MetaTensor(values, meta=meta)


def collated(*images: MetaTensor) -> MetaTensor:
    batch = list_data_collate([{"image": image} for image in images])["image"]
    assert isinstance(batch, MetaTensor)
    return batch


@torch.no_grad()
def expected(network: SPIDER, image: MetaTensor, sod: float, grid: Grid) -> torch.Tensor:
    """The plain path at the voxel centres of a grid, (K + 1, X, Y, Z)."""
    points = torch.from_numpy(grid.points()).float().reshape(1, -1, 3)
    projection = nominal_projection(64, 4.8, sod=sod)[None]
    values = network(image.as_tensor()[None], projection, points)[0]
    return values.T.reshape(-1, *grid.shape)


def infer(network: SPIDER, batch: torch.Tensor, **options: Any) -> torch.Tensor:
    return VolumeInferer(precision="float32", **options)(batch, network)


def test_meta_gives_geometry_and_grid(network: SPIDER) -> None:
    result = infer(network, collated(radiographs(0, 900.0)))
    truth = expected(network, radiographs(0, 900.0), 900.0, GRID)
    torch.testing.assert_close(result[0], truth, atol=1e-4, rtol=0)
    nominal = expected(network, radiographs(0, 900.0), 1000.0, GRID)
    assert float((nominal - truth).abs().max()) > 1e-3


def test_each_case_of_a_batch_has_its_own_geometry(network: SPIDER) -> None:
    result = infer(network, collated(radiographs(0, 750.0), radiographs(1, 1100.0)))
    for i, sod in enumerate((750.0, 1100.0)):
        truth = expected(network, radiographs(i, sod), sod, GRID)
        torch.testing.assert_close(result[i], truth, atol=1e-4, rtol=0)


def test_meta_without_batch_dimension_holds_for_all_cases(network: SPIDER) -> None:
    one = radiographs(0, 900.0)
    batch = MetaTensor(one.as_tensor()[None], meta=one.meta)
    torch.testing.assert_close(infer(network, batch), infer(network, collated(one)))


def test_grid_of_the_constructor_where_the_meta_names_none(network: SPIDER) -> None:
    result = infer(
        network,
        collated(radiographs(0, 900.0, grid=None)),
        spacing=(11.0, 13.0, 17.0),
        shape=(6, 5, 7),
    )
    truth = expected(network, radiographs(0, 900.0), 900.0, GRID)
    torch.testing.assert_close(result[0], truth, atol=1e-4, rtol=0)


def test_plain_tensor_takes_the_nominal_geometry(network: SPIDER) -> None:
    image = radiographs(0, 1000.0)
    result = infer(
        network, image.as_tensor()[None], spacing=(11.0, 13.0, 17.0), shape=(6, 5, 7), chunk=10
    )
    truth = expected(network, image, 1000.0, GRID)
    torch.testing.assert_close(result[0], truth, atol=1e-4, rtol=0)


def test_grid_need_not_be_centred_nor_ras(network: SPIDER) -> None:
    affine = np.diag([-11.0, 13.0, -17.0, 1.0])
    affine[:3, 3] = [40.0, -10.0, 60.0]
    grid = Grid.from_ras(affine, (6, 5, 7))
    result = infer(network, collated(radiographs(0, 900.0, grid)))
    truth = expected(network, radiographs(0, 900.0), 900.0, grid)
    torch.testing.assert_close(result[0], truth, atol=1e-4, rtol=0)


def test_mixed_grids_are_refused(network: SPIDER) -> None:
    shapes = collated(radiographs(0, 900.0), radiographs(1, 900.0, LONGER_GRID))
    with pytest.raises(ValueError, match="share one output grid"):
        infer(network, shapes)
    coarse = Grid.centred((22.0, 13.0, 17.0), (6, 5, 7))
    with pytest.raises(ValueError, match="share one output grid"):
        infer(network, collated(radiographs(0, 900.0), radiographs(1, 900.0, coarse)))


def test_rotated_grid_is_refused(network: SPIDER) -> None:
    turned = Grid.from_ras(
        np.array([[8.0, -6, 0, 0], [6, 8, 0, 0], [0, 0, 9, 0], [0, 0, 0, 1]]), (6, 5, 7)
    )
    with pytest.raises(ValueError, match="not aligned"):
        infer(network, collated(radiographs(0, 900.0, turned)))


def test_scripted_network_can_be_inferred(network: SPIDER) -> None:
    batch = collated(radiographs(0, 750.0), radiographs(1, 1100.0))
    scripted = torch.jit.script(network)
    torch.testing.assert_close(infer(scripted, batch), infer(network, batch), atol=1e-5, rtol=0)


def test_result_is_a_plain_float32_tensor_without_graph(network: SPIDER) -> None:
    result = VolumeInferer(precision="bfloat16")(collated(radiographs(0, 900.0)), network)
    assert type(result) is torch.Tensor
    assert result.dtype == torch.float32
    assert not result.requires_grad


def test_bfloat16_is_close_to_float32() -> None:
    # a full-width network whose random intensities vary by about 600 HU: twice as much as a
    # head's, so the tolerance is twice what a reconstruction needs
    torch.manual_seed(0)
    net = SPIDER(image_size=64, pixel_size=4.8).eval()
    with torch.no_grad():
        net.decoder.intensity[1].weight.mul_(20)
    batch = collated(radiographs(0, 900.0, Grid.centred(12.0, 16)))
    low, high = HU_WINDOW
    exact, reduced = (VolumeInferer(precision=p)(batch, net) for p in ("float32", "bfloat16"))
    hu = exact[:, -1] * (high - low)
    assert 300 < float(hu.std()) < 1000
    difference = (reduced[:, -1] * (high - low) - hu).abs()
    assert 0 < float(difference.mean()) < 12  # HU
    assert float(difference.max()) < 60  # HU
    changed = exact[:, :-1].argmax(dim=1) != reduced[:, :-1].argmax(dim=1)
    assert float(changed.float().mean()) < 0.01


@pytest.mark.parametrize("spacing", [2.0, 1.0, (1.0, 2.0, 1.5)], ids=str)
def test_coarse_to_fine_is_near_the_exact_result(network: SPIDER, spacing: Any) -> None:
    grid = Grid.centred(spacing, (21, 18, 23))
    batch = collated(radiographs(0, 750.0, grid), radiographs(1, 1100.0, grid))
    coarse = infer(network, batch, exact=False)
    assert coarse.dtype == torch.int16
    assert coarse.shape == (2, 2, *grid.shape)
    for case, exact in zip(coarse, infer(network, batch), strict=True):
        hu, labels = ct_and_labels(exact)
        assert float(hu.float().std()) > 5  # not a constant
        assert float((case[0] - hu[0]).abs().float().mean()) < 1
        assert float((case[1] != labels[0]).float().mean()) < 0.01


def test_coarser_grids_are_decoded_exactly(network: SPIDER) -> None:
    grid = Grid.centred(3.0, (9, 8, 7))
    batch = collated(radiographs(0, 900.0, grid))
    assert torch.equal(infer(network, batch, exact=False), infer(network, batch))


def test_coarse_to_fine_refuses_what_is_not_finite(network: SPIDER) -> None:
    image = radiographs(0, 900.0, Grid.centred(2.0, 8))
    image[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        infer(network, collated(image), exact=False)


def test_point_inferer_decodes_the_points_with_gradient(network: SPIDER) -> None:
    image = radiographs(0, 900.0)
    projection = nominal_projection(64, 4.8, sod=900.0)[None]
    points = torch.from_numpy(GRID.points()).float().reshape(1, -1, 3)
    inferer = PointInferer(precision="float32")
    result = inferer(collated(image), network, projection, points)
    assert type(result) is torch.Tensor
    assert result.requires_grad
    truth = expected(network, image, 900.0, GRID).flatten(1).T
    torch.testing.assert_close(result[0], truth, atol=1e-5, rtol=0)
    reduced = PointInferer(precision="bfloat16")(collated(image), network, projection, points)
    torch.testing.assert_close(reduced[0].float(), truth, atol=0.02, rtol=0)
