"""Moving, deforming and sampling of head cases: points must keep the values of their voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from spider_bundle.cases.case import phantom_case
from spider_bundle.cases.transforms import (
    LoadHeadCased,
    RandHeadDeformd,
    RandHeadPosed,
    SamplePointsd,
)
from spider_bundle.geometry import Grid
from spider_bundle.intensity import normalise_hu
from spider_bundle.labels import BONES, Label

FloatArray = npt.NDArray[np.float64]
GRID = Grid.centred((4.0, 3.0, 5.0), (40, 50, 36))


def numbered(grid: Grid = GRID, seed: int = 0) -> dict[str, Any]:
    """A case whose voxels all differ, so that a point can only have come from one of them."""
    count = int(np.prod(grid.shape))
    generator = np.random.default_rng(seed)
    hu = np.linspace(-1000, 2000, count, dtype=np.float32)
    generator.shuffle(hu)
    return {
        "case": "numbered",
        "ct": torch.from_numpy(hu.reshape(grid.shape)),
        "structure": torch.from_numpy(
            generator.integers(0, len(Label), grid.shape, dtype=np.uint8)
        ),
        "ambiguous": torch.zeros(grid.shape, dtype=torch.bool),
        "measured": torch.ones(grid.shape, dtype=torch.bool),
        "affine": torch.from_numpy(grid.affine),
        "pose": torch.eye(4, dtype=torch.float64),
    }


def seeded(transform: Any, seed: int) -> Any:
    transform.set_random_state(seed)
    return transform


def voxels_of(points: FloatArray, out: dict[str, Any]) -> FloatArray:
    """Voxel coordinates of world points: back through the pose, then the affine."""
    to_world = out["pose"].numpy() @ out["affine"].numpy()
    homogeneous = np.c_[points, np.ones(len(points))]
    coordinates: FloatArray = (homogeneous @ np.linalg.inv(to_world).T)[:, :3]
    return coordinates


def trilinear(volume: torch.Tensor, coordinates: FloatArray) -> FloatArray:
    values: FloatArray = ndimage.map_coordinates(
        volume.double().numpy(), coordinates.T, order=1, mode="nearest"
    )
    return values


# Loading


def test_loaded_case_is_the_case_in_nominal_pose() -> None:
    out = LoadHeadCased()({"case": "phantom_4", "phantom": 4})
    case = phantom_case(4)
    for key, expected in (
        ("ct", case.hu),
        ("structure", case.structure),
        ("ambiguous", case.ambiguous),
        ("measured", case.measured),
        ("affine", case.grid.affine),
        ("pose", np.eye(4)),
    ):
        np.testing.assert_array_equal(out[key].numpy(), expected)
    assert out["case"] == "phantom_4"


# Pose


@pytest.mark.parametrize("seed", range(6))
def test_posed_points_keep_the_values_of_their_voxels(seed: int) -> None:
    out = seeded(SamplePointsd(3000), seed)(seeded(RandHeadPosed(), seed)(numbered()))
    coordinates = voxels_of(out["points"].double().numpy(), out)
    index = np.rint(coordinates).astype(int)
    np.testing.assert_allclose(coordinates, index, atol=1e-4)  # points are voxel centres
    at = tuple(index.T)
    torch.testing.assert_close(out["label"][:, 0], normalise_hu(out["ct"][at]))
    labels = out["label"][:, 2:].argmax(dim=1)
    assert torch.equal(labels, out["structure"][at].long())
    assert (out["label"][:, 2:].sum(dim=1) == 1).all()
    moved = np.linalg.norm(out["points"].numpy() - GRID.points()[at], axis=1)
    assert moved.mean() > 2  # it did move, so a pose that is ignored would be seen


def test_pose_stays_in_its_ranges() -> None:
    transform = seeded(RandHeadPosed(1.0, 10.0, 15.0, scale=0.1, stretch=0.05, mirror=0.0), 3)
    poses = np.array([transform(numbered())["pose"].numpy() for _ in range(60)])
    assert (np.abs(poses[:, :3, 3]) <= 15).all()
    assert np.abs(poses[:, :3, 3]).max() > 13
    sizes = np.linalg.svd(poses[:, :3, :3], compute_uv=False)
    assert 0.9 * 0.95 <= sizes.min() < 0.92
    assert 1.08 < sizes.max() <= 1.1 * 1.05
    assert (sizes.max(axis=1) / sizes.min(axis=1) <= 1.05 / 0.95 + 1e-9).all()
    np.testing.assert_array_equal(poses[:, 3], np.tile([0, 0, 0, 1], (60, 1)))
    for pose in poses[:, :3, :3]:
        u, _, v = np.linalg.svd(pose)
        angle = np.degrees(np.arccos((np.trace(u @ v) - 1) / 2))
        assert angle <= 10 * np.sqrt(3) + 1e-6


def test_rotation_alone_keeps_distances() -> None:
    out = seeded(RandHeadPosed(1.0, 20.0, 0.0, 0.0, 0.0, 0.0), 1)(numbered())
    turn = out["pose"].numpy()
    np.testing.assert_allclose(turn[:3, :3] @ turn[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_array_equal(turn[:3, 3], 0)


def test_mirroring_swaps_left_and_right_only() -> None:
    out = seeded(RandHeadPosed(1.0, 0.0, 0.0, 0.0, 0.0, mirror=1.0), 0)(numbered())
    np.testing.assert_allclose(out["pose"], np.diag([-1.0, 1, 1, 1]), atol=1e-12)
    transform = seeded(RandHeadPosed(mirror=0.5), 0)
    signs = [np.linalg.det(transform(numbered())["pose"]) > 0 for _ in range(60)]
    assert 15 < sum(signs) < 45
    never = seeded(RandHeadPosed(mirror=0.0), 0)
    assert all(np.linalg.det(never(numbered())["pose"]) > 0 for _ in range(20))


def test_poses_compose_in_the_world() -> None:
    first = numbered()
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = torch.tensor([100.0, 0.0, 0.0])
    first["pose"] = shift
    mirrored = seeded(RandHeadPosed(1.0, 0, 0, 0, 0, mirror=1.0), 0)(first)["pose"].numpy()
    np.testing.assert_allclose(mirrored @ [0, 0, 0, 1], [-100, 0, 0, 1], atol=1e-9)


@pytest.mark.parametrize("transform", [RandHeadPosed(prob=0.0), RandHeadDeformd(prob=0.0)])
def test_nothing_happens_at_probability_zero(transform: Any) -> None:
    data = numbered()
    out = transform(data)
    assert out.keys() == data.keys()
    assert torch.equal(out["pose"], torch.eye(4, dtype=torch.float64))


def test_transforms_leave_the_cached_case_alone() -> None:
    data = numbered()
    before = {k: v.clone() for k, v in data.items() if isinstance(v, torch.Tensor)}
    out = data
    for transform in (RandHeadDeformd(1.0), RandHeadPosed(1.0), SamplePointsd(100)):
        out = seeded(transform, 1)(out)
    assert "points" not in data
    for key, value in before.items():
        assert torch.equal(data[key], value)


# Deformation


def deformed_ramp(axis: int, seed: int) -> dict[str, Any]:
    """A CT whose value is its own LPS coordinate in mm, deformed."""
    grid = Grid.centred(4.0, 64)
    data = {
        "ct": torch.from_numpy(grid.points()[..., axis]).float(),
        "affine": torch.from_numpy(grid.affine),
    }
    return seeded(RandHeadDeformd(1.0), seed)(data)


@pytest.mark.parametrize("seed", range(3))
def test_displacement_leads_to_where_the_voxel_is_seen(seed: int) -> None:
    """The warped CT at the displaced place holds the value of the voxel, here a coordinate."""
    points = Grid.centred(4.0, 64).points()
    inner = (slice(8, -8),) * 3
    for axis in range(3):
        out = deformed_ramp(axis, seed)
        move = out["displacement"].double().numpy()
        there = ((points + move)[inner]).reshape(-1, 3)
        linear, origin = out["affine"].numpy()[:3, :3], out["affine"].numpy()[:3, 3]
        seen = trilinear(out["warped_ct"], (there - origin) @ np.linalg.inv(linear).T)
        error = np.abs(seen - points[inner][..., axis].ravel())
        wrong = np.abs(move[inner][..., axis])
        # of 4 mm voxels; the rest is the inverse, which is kept on a lattice of 16 mm
        assert error.mean() < 0.2
        assert np.quantile(error, 0.99) < 1.5
        assert wrong.mean() > 10 * error.mean()


def test_deformation_is_smooth_bounded_and_invertible() -> None:
    for seed in range(4):
        move = deformed_ramp(0, seed)["displacement"].double().numpy()
        length = np.linalg.norm(move, axis=-1)
        assert 1.5 < length.mean() < 9  # a standard deviation of 5 mm at the control points
        assert length.max() < 30
        gradient = np.stack(np.gradient(move, 4.0, axis=(0, 1, 2)), axis=-1)
        gradient = gradient * np.sign(np.diag(Grid.centred(4.0, 64).affine))[:3]
        jacobian = np.linalg.det(np.eye(3) + gradient)
        assert jacobian.min() > 0.2  # no folds


def test_deformation_is_in_mm_whatever_the_voxels() -> None:
    """The same control points move coarse, anisotropic and mirrored grids of one cube alike."""
    extent = 240.0
    moves = []
    for counts, flip in (((61, 61, 61), 1), ((41, 61, 31), 1), ((61, 61, 61), -1)):
        spacing = extent / (np.array(counts) - 1)
        ras = np.diag([flip * spacing[0], spacing[1], spacing[2], 1.0])
        ras[:3, 3] = -ras[:3, :3] @ (np.array(counts) - 1) / 2
        grid = Grid.from_ras(ras, counts)
        data = {"ct": torch.zeros(counts), "affine": torch.from_numpy(grid.affine)}
        moves.append(seeded(RandHeadDeformd(1.0), 5)(data)["displacement"])
    fine, coarse, mirrored = moves
    torch.testing.assert_close(fine[::3, ::2, ::4], coarse[::2, ::2, ::2], atol=1e-3, rtol=1e-3)
    # amplitudes are per axis in mm also where the index runs the other way
    assert float(mirrored.std()) == pytest.approx(float(fine.std()), rel=0.3)


def test_displaced_points_keep_the_values_of_their_voxels() -> None:
    """Sampled points differ from posed voxel centres by exactly the displacement."""
    data = seeded(RandHeadPosed(), 2)(seeded(RandHeadDeformd(1.0), 2)(numbered()))
    moved = seeded(SamplePointsd(2000), 7)(data)
    still = seeded(SamplePointsd(2000), 7)({k: v for k, v in data.items() if k != "displacement"})
    assert torch.equal(moved["label"], still["label"])
    at = tuple(np.rint(voxels_of(still["points"].double().numpy(), data)).astype(int).T)
    expected = data["displacement"][at].double() @ data["pose"][:3, :3].T
    difference = (moved["points"] - still["points"]).double()
    torch.testing.assert_close(difference, expected, atol=1e-4, rtol=1e-4)
    assert float(difference.norm(dim=1).mean()) > 1


# Sampling


def layered(measured: bool = True) -> dict[str, Any]:
    """Half air; a head of mostly soft tissue, some bone, a little internal air; no brain."""
    data = numbered()
    structure = np.zeros(GRID.shape, dtype=np.uint8)
    structure[20:] = Label.SOFT_TISSUE
    structure[34:] = Label.BONE
    structure[39:, 45:] = Label.INTERNAL_AIR
    data["structure"] = torch.from_numpy(structure)
    data["measured"] = torch.full(GRID.shape, measured)
    return data


def test_every_class_gets_its_share() -> None:
    count, uniform, head = 40000, 0.25, 0.45
    data = layered()
    out = seeded(SamplePointsd(count, uniform, head), 1)(data)
    assert out["points"].shape == (count, 3)
    drawn = out["label"][:, 2:].mean(dim=0).numpy()
    voxels = np.bincount(data["structure"].numpy().ravel(), minlength=6) / np.prod(GRID.shape)
    in_head = np.where(np.arange(6) > 0, voxels, 0) / voxels[1:].sum()
    present = (np.arange(6) > 0) & (voxels > 0)
    expected = uniform * voxels + head * in_head + (1 - uniform - head) * present / present.sum()
    np.testing.assert_allclose(drawn, expected, atol=0.01)
    # a rare class is lifted far above its size
    assert drawn[Label.INTERNAL_AIR] > 20 * voxels[Label.INTERNAL_AIR]
    assert drawn[Label.INTRACRANIAL] == drawn[Label.MANDIBLE] == 0


@pytest.mark.parametrize(("uniform", "head"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_shares_can_be_all_or_nothing(uniform: float, head: float) -> None:
    out = seeded(SamplePointsd(1999, uniform, head), 1)(layered())
    assert len(out["points"]) == 1999
    background = float(out["label"][:, 2 + Label.BACKGROUND].mean())
    if uniform:
        assert background == pytest.approx(0.5, abs=0.05)
    else:
        assert background == pytest.approx(0, abs=0.002)


def test_volume_without_a_head_is_drawn_uniformly() -> None:
    data = layered()
    data["structure"] = torch.zeros(GRID.shape, dtype=torch.uint8)
    out = seeded(SamplePointsd(4000), 1)(data)
    assert len(out["points"]) == 4000
    middle = out["points"].double().mean(dim=0).numpy()
    np.testing.assert_allclose(middle, 0, atol=5)  # 160 x 150 x 180 mm around the origin
    assert (out["label"][:, 2 + Label.BACKGROUND] == 1).all()


def test_completed_voxels_weigh_less() -> None:
    data = layered()
    data["measured"][:, 25:] = False
    out = seeded(SamplePointsd(2000, completed_weight=0.3), 1)(data)
    index = np.rint(voxels_of(out["points"].double().numpy(), out)).astype(int)
    share = torch.where(torch.from_numpy(index[:, 1] < 25), 1.0, 0.3)
    data["measured"][:] = True
    full = seeded(SamplePointsd(2000), 1)(data)["label"][:, 1]
    torch.testing.assert_close(out["label"][:, 1], share * full)
    assert 0 < (share == 1).float().mean() < 1  # both kinds were drawn


@pytest.mark.parametrize(("uniform", "head"), [(1.0, 0.0), (0.25, 0.45), (0.1, 0.0)])
def test_weighted_points_stand_for_the_whole_volume(uniform: float, head: float) -> None:
    data = layered()
    label = seeded(SamplePointsd(40000, uniform, head), 1)(data)["label"]
    weight = label[:, 1]
    # the weighted share of every class is its share of the voxels, however often it was drawn
    voxels = torch.bincount(data["structure"].flatten(), minlength=6) / data["structure"].numel()
    share = (weight[:, None] * label[:, 2:]).sum(dim=0) / len(label)
    torch.testing.assert_close(share, voxels.float(), atol=0.02, rtol=0.05)
    intensity = (weight * label[:, 0]).sum() / weight.sum()
    torch.testing.assert_close(intensity, normalise_hu(data["ct"]).mean(), atol=0.01, rtol=0.02)
    if uniform == 1:
        assert torch.equal(weight, torch.ones_like(weight))


def test_ambiguous_bone_may_be_either_bone() -> None:
    data = layered()
    bone = data["structure"] == Label.BONE
    data["ambiguous"] = bone & (torch.arange(GRID.shape[2]) < 18)
    out = seeded(SamplePointsd(3000), 1)(data)
    at = tuple(np.rint(voxels_of(out["points"].double().numpy(), out)).astype(int).T)
    either = data["ambiguous"][at]
    allowed = out["label"][:, 2:]
    assert either.any()
    assert (bone[at] & ~either).any()
    both = torch.zeros(6)
    both[list(BONES)] = 1
    assert (allowed[either] == both).all()
    assert (allowed[~either].sum(dim=1) == 1).all()
    assert torch.equal(allowed[~either].argmax(dim=1), data["structure"][at][~either].long())


def test_drawing_repeats_with_its_seed() -> None:
    first, second, other = (seeded(SamplePointsd(500), s)(layered()) for s in (1, 1, 2))
    assert torch.equal(first["points"], second["points"])
    assert torch.equal(first["label"], second["label"])
    assert not torch.equal(first["points"], other["points"])
