"""Surfaces of the bones as binary STL files in patient space (LPS mm).

A surface encloses the voxels of a label. It is closed, also where the label meets the edge of the
grid, its triangles are seen counter-clockwise from outside, and it is smoothed a little so that
voxels do not show as steps. scikit-image is imported only when a mesh is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects
from scipy.sparse import coo_matrix, diags_array

from spider_bundle.files import atomic_path
from spider_bundle.geometry import FloatArray, Grid
from spider_bundle.labels import LABEL_NAMES, Label
from spider_bundle.outputs.optional_dependencies import require_extra

IntArray = npt.NDArray[np.int64]

MESH_FILES: Mapping[Label, str] = {Label.BONE: "bone.stl", Label.MANDIBLE: "mandible.stl"}
"""File of each meshed label; ``bone`` is all bone but the mandible."""

_SMOOTHING_STEPS = 8
_SHRINK, _INFLATE = 0.5, -0.53
"""Factors of Taubin's smoothing, which keeps the volume (Taubin 1995, SIGGRAPH)."""

_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])


def write_meshes(
    folder: str | os.PathLike[str], labels: npt.NDArray[Any], grid: Grid
) -> list[Path]:
    """Write the meshes of :data:`MESH_FILES`; a label without voxels gets no file.

    Args:
        folder: Existing folder.
        labels: Values of :class:`~spider_bundle.labels.Label`, shape ``(X, Y, Z)``.
        grid: Its grid (LPS mm).

    Returns:
        The files written.

    Raises:
        SpiderError: R03, scikit-image is not installed.
        ValueError: The shape is not the grid's.
        OSError: A file cannot be written.
    """
    require_extra("mesh")
    if labels.shape != grid.shape:
        raise ValueError(f"labels of shape {labels.shape} on a grid of shape {grid.shape}")
    written = []
    for label, name in MESH_FILES.items():
        mask = labels == label
        if mask.any():
            vertices, faces = label_surface(mask, grid)
            write_stl(Path(folder, name), vertices, faces, LABEL_NAMES[label])
            written.append(Path(folder, name))
    return written


def label_surface(mask: npt.NDArray[np.bool_], grid: Grid) -> tuple[FloatArray, IntArray]:
    """Return the closed surface around the voxels of a mask.

    Args:
        mask: At least one True, shape ``(X, Y, Z)``.
        grid: Its grid (LPS mm).

    Returns:
        Vertices in LPS mm, shape ``(V, 3)``, and the corners of the triangles, counter-clockwise
        seen from outside, shape ``(F, 3)``.

    Raises:
        ValueError: The mask is empty.
    """
    from skimage.measure import marching_cubes

    box = find_objects(mask.astype(np.uint8))
    if not box:
        raise ValueError("an empty mask has no surface")
    # one empty voxel around closes the surface at the edge of the grid
    volume = np.pad(mask[box[0]], 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(volume, 0.5)
    vertices = _smooth(vertices.astype(np.float64), faces.astype(np.int64))
    index = vertices + [float(side.start - 1) for side in box[0]]
    world: FloatArray = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    if enclosed_volume(world, faces) < 0:
        faces = faces[:, ::-1]
    return world, faces.astype(np.int64)


def enclosed_volume(vertices: FloatArray, faces: IntArray) -> float:
    """Volume inside a closed surface, in the cube of the vertices' unit; < 0 if inside out."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def write_stl(
    path: str | os.PathLike[str], vertices: FloatArray, faces: IntArray, name: str
) -> None:
    """Write a surface as binary STL, atomically.

    Args:
        path: File to write.
        vertices: LPS mm, shape ``(V, 3)``.
        faces: Corners of the triangles, shape ``(F, 3)``.
        name: What it is, for the header.

    Raises:
        OSError: The file cannot be written.
    """
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    triangles = np.zeros(len(faces), _TRIANGLE)
    triangles["normal"] = np.divide(normals, lengths, out=normals, where=lengths > 0)
    triangles["corners"] = corners
    # readers such as 3D Slicer look for SPACE=; text files begin with "solid", so this must not
    header = f"SPIDER {name}; SPACE=LPS; UNIT=mm; research use only, not for diagnosis"
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(header.encode("ascii").ljust(80)[:80])
        stream.write(len(faces).to_bytes(4, "little"))
        stream.write(triangles.tobytes())


def _smooth(vertices: FloatArray, faces: IntArray) -> FloatArray:
    """Taubin smoothing: each vertex moves towards, then away from, the mean of its neighbours."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    ones = np.ones(len(edges))
    adjacency = coo_matrix((ones, edges.T), shape=(len(vertices),) * 2).tocsr()
    mean = diags_array(1.0 / np.asarray(adjacency.sum(axis=1)).ravel()) @ adjacency
    for _ in range(_SMOOTHING_STEPS):
        for factor in (_SHRINK, _INFLATE):
            vertices = vertices + factor * (mean @ vertices - vertices)
    return vertices
