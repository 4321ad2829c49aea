"""Meshes are closed, face outwards, and lie where the labels lie."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from spider_bundle.geometry import LPS_TO_RAS, Grid
from spider_bundle.labels import Label
from spider_bundle.outputs.mesh import (
    MESH_FILES,
    enclosed_volume,
    label_surface,
    write_meshes,
)

pytest.importorskip("skimage")

SPACING = (1.5, 2.0, 1.0)
CENTRE = np.array([7.3, -12.1, 4.6])  # LPS mm
RADIUS = 24.0


@pytest.fixture
def grid() -> Grid:
    return Grid.centred(SPACING, (64, 56, 80))


def voxels(grid: Grid) -> npt.NDArray[np.float64]:
    """LPS mm of every voxel, shape ``(X, Y, Z, 3)``."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    world: npt.NDArray[np.float64] = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return world


def ball(grid: Grid, centre: npt.ArrayLike = CENTRE, radius: float = RADIUS) -> npt.NDArray:
    return np.linalg.norm(voxels(grid) - centre, axis=-1) < radius


def read_stl(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Corners ``(F, 3, 3)`` and normals ``(F, 3)`` of a binary STL file."""
    data = path.read_bytes()
    (count,) = struct.unpack_from("<I", data, 80)
    assert len(data) == 84 + 50 * count
    rows = [struct.unpack_from("<12f", data, 84 + 50 * number) for number in range(count)]
    numbers = np.array(rows).reshape(-1, 4, 3)
    return numbers[:, 1:], numbers[:, 0]


def moments(corners: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    """Volume and centre of mass inside a closed surface, by the divergence theorem."""
    tetrahedra = np.linalg.det(corners) / 6
    centres = corners.sum(axis=1) / 4
    return float(tetrahedra.sum()), (tetrahedra[:, None] * centres).sum(axis=0) / tetrahedra.sum()


def test_sphere_has_its_volume_place_and_normals(grid: Grid, tmp_path: Path) -> None:
    labels = np.where(ball(grid), Label.BONE, Label.SOFT_TISSUE).astype(np.uint8)
    (path,) = write_meshes(tmp_path, labels, grid)
    assert path.name == "bone.stl"
    corners, normals = read_stl(path)
    volume, centre = moments(corners)
    assert volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)
    assert np.all(np.abs(centre - CENTRE) < 0.1)
    radii = np.linalg.norm(corners - CENTRE, axis=-1)
    assert np.abs(radii - RADIUS).max() < max(SPACING)
    assert np.abs(radii - RADIUS).mean() < 0.5 * min(SPACING)
    outward = (corners.mean(axis=1) - CENTRE) / radii.mean()
    assert np.einsum("ij,ij->i", normals, outward).min() > 0.5
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    turned = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert np.all(np.einsum("ij,ij->i", turned, normals) > 0)


def test_bone_and_mandible_are_apart(grid: Grid, tmp_path: Path) -> None:
    low = np.array([0.0, -20.0, -25.0])
    labels = np.zeros(grid.shape, np.uint8)
    labels[ball(grid, (0, 0, 15), 12)] = Label.BONE
    labels[ball(grid, low, 8)] = Label.MANDIBLE
    paths = write_meshes(tmp_path, labels, grid)
    assert [path.name for path in paths] == ["bone.stl", "mandible.stl"]
    for path, centre in zip(paths, ([0, 0, 15], low), strict=True):
        _, found = moments(read_stl(path)[0])
        assert np.all(np.abs(found - centre) < 0.5 * np.array(SPACING))


def directed_edges(faces: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


@pytest.mark.parametrize("kind", ["noise", "whole grid", "one voxel", "hollow"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_surfaces_are_closed_and_not_inside_out(kind: str, mirrored: bool) -> None:
    grid = Grid.centred(2.0, 24)
    if mirrored:
        affine = grid.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
        grid = Grid(grid.shape, affine)
    mask = np.zeros(grid.shape, bool)
    if kind == "noise":
        mask = np.random.default_rng(0).random(grid.shape) < 0.4
    elif kind == "whole grid":
        mask[:] = True
    elif kind == "one voxel":
        mask[3, 20, 23] = True
    else:
        mask = ball(Grid.centred(2.0, 24), (0, 0, 0), 20) & ~ball(
            Grid.centred(2.0, 24), (0, 0, 0), 10
        )
    vertices, faces = label_surface(mask, grid)
    edges = directed_edges(faces)
    # every edge is run through as often one way as the other
    forth, back = (np.unique(e, axis=0, return_counts=True) for e in (edges, edges[:, ::-1]))
    np.testing.assert_array_equal(forth[0], back[0])
    np.testing.assert_array_equal(forth[1], back[1])
    assert enclosed_volume(vertices, faces) > 0
    if kind == "hollow":
        expected = 4 / 3 * np.pi * (20**3 - 10**3)
        assert enclosed_volume(vertices, faces) == pytest.approx(expected, rel=0.03)
    if kind == "whole grid":
        assert enclosed_volume(vertices, faces) == pytest.approx(48.0**3, rel=0.02)


def test_oblique_grid_is_followed(tmp_path: Path) -> None:
    ras = np.array(
        [[0.0, 0.0, 1.5, -40.0], [-2.0, 0.0, 0.0, 50.0], [0.0, 1.0, 0.0, -30.0], [0, 0, 0, 1]]
    )
    grid = Grid((50, 60, 56), LPS_TO_RAS @ ras)
    centre = grid.affine[:3, :3] @ [24.3, 28.9, 27.2] + grid.affine[:3, 3]
    labels = np.where(ball(grid, centre, 20), Label.MANDIBLE, 0)
    (path,) = write_meshes(tmp_path, labels, grid)
    volume, found = moments(read_stl(path)[0])
    assert np.linalg.norm(found - centre) < 0.3
    assert volume == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.02)


def test_files_are_stable_and_say_what_they_are(grid: Grid, tmp_path: Path) -> None:
    labels = np.where(ball(grid), Label.BONE, 0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_meshes(tmp_path / name, labels, grid)
    data = (tmp_path / "a" / "bone.stl").read_bytes()
    assert data == (tmp_path / "b" / "bone.stl").read_bytes()
    header = data[:80].decode("ascii")
    assert not header.startswith("solid")
    assert "SPACE=LPS" in header
    assert "not for diagnosis" in header


def test_absent_labels_get_no_file(grid: Grid, tmp_path: Path) -> None:
    assert write_meshes(tmp_path, np.zeros(grid.shape, np.uint8), grid) == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="empty mask"):
        label_surface(np.zeros(grid.shape, bool), grid)
    with pytest.raises(ValueError, match="on a grid of shape"):
        write_meshes(tmp_path, np.zeros((2, 2, 2), np.uint8), grid)
    assert set(MESH_FILES) == {Label.BONE, Label.MANDIBLE}
