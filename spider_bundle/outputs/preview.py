"""A picture of one reconstruction for a quick look: radiographs, reprojections, planes, labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from torch.nn import functional as F

from spider_bundle.files import atomic_path
from spider_bundle.geometry import Grid
from spider_bundle.labels import LABEL_COLOURS, LABEL_NAMES, Label

FloatArray = npt.NDArray[np.floating[Any]]

PREVIEW_FILE = "preview.png"

WIDTH, HEIGHT = 1600, 812
"""Size of the picture in pixels."""

DISPLAY_WINDOW: tuple[float, float] = (-200.0, 1500.0)
"""HU shown as black and white; soft tissue is dark grey, dense bone white."""

OVERLAY_OPACITY = 0.55
SOFT_TISSUE_OPACITY = 0.25
"""Soft tissue covers much of the head, so it is only tinted."""

FOOTER = "Research use only. Not for diagnosis."

_PANEL = 300
_GAP = 10
_MARGIN = 24
_GROUP_GAP = WIDTH - 2 * _MARGIN - 5 * _PANEL - 3 * _GAP
_TOP = 98
_DPI = 100
_SCALE_BAR_MM = 50.0

_BACKGROUND = "#101418"
_TEXT = "#e6e9ec"
_DIM = "#93a0ab"
_AMBER = "#f2b84b"
_FONT = "DejaVu Sans"


class Box(NamedTuple):
    """A panel in the picture, in pixels from the top left corner."""

    left: int
    top: int
    size: int


@dataclass(frozen=True)
class Plane:
    """One of the three planes in radiological convention.

    Attributes:
        name: Name of the plane.
        normal: Axis of LPS across the plane.
        right: LPS axis and sign of increasing picture column.
        down: LPS axis and sign of increasing picture row.
        letters: Orientation letters at the left, right, top and bottom edges.
    """

    name: str
    normal: int
    right: tuple[int, int]
    down: tuple[int, int]
    letters: tuple[str, str, str, str]


PLANES: tuple[Plane, ...] = (
    Plane("Axial", 2, (0, 1), (1, 1), ("R", "L", "A", "P")),
    Plane("Coronal", 1, (0, 1), (2, -1), ("R", "L", "S", "I")),
    Plane("Sagittal", 0, (1, 1), (2, -1), ("A", "P", "S", "I")),
)


def panel_box(row: int, column: int) -> Box:
    """Where a panel lies.

    Args:
        row: 0 (frontal radiograph, plain planes) or 1 (lateral radiograph, planes with labels).
        column: 0 radiograph, 1 reprojection, 2 to 4 the :data:`PLANES`.
    """
    left = _MARGIN + column * (_PANEL + _GAP) + (_GROUP_GAP - _GAP if column > 1 else 0)
    return Box(left, _TOP + row * (_PANEL + _GAP), _PANEL)


def plane_frame(grid: Grid) -> tuple[FloatArray, float]:
    """Centre and side of the square region that every plane shows.

    The planes pass through the isocentre, or through the middle of a grid that does not hold it.

    Returns:
        LPS mm of the common middle of the regions, shape ``(3,)``, and their side in mm.
    """
    low, high = _bounds(grid)
    return (low + high) / 2, float((high - low).max())


def write_preview(
    path: str | os.PathLike[str],
    *,
    image: FloatArray,
    reprojection: FloatArray,
    hu: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    grid: Grid,
    warnings: Sequence[str] = (),
    pixel_size: float | None = None,
    hidden: Sequence[bool] = (False, False),
) -> None:
    """Draw the preview and write it as PNG, atomically.

    Args:
        path: File to write.
        image: Network images, shape ``(2, H, W)``: frontal, lateral; dense = high, 0 outside the
            exposed field and where identifying marks were masked.
        reprojection: The reconstruction projected in the same views, shape ``(2, H, W)``.
        hu: Reconstructed HU, shape ``(X, Y, Z)``.
        labels: Label map, shape ``(X, Y, Z)``.
        grid: Grid of both (LPS mm).
        warnings: Codes for the footer.
        pixel_size: Pixel size of the network images at the isocentre in mm; without it the
            radiographs carry no scale bar.
        hidden: Radiographs to leave out, frontal and lateral, as text in them may name somebody.

    Raises:
        ValueError: Shapes do not fit each other.
        OSError: The file cannot be written.
    """
    if image.ndim != 3 or image.shape[0] != 2 or image.shape != reprojection.shape:
        raise ValueError(f"need two (2, H, W) images, got {image.shape}, {reprojection.shape}")
    if hu.shape != grid.shape or labels.shape != grid.shape:
        raise ValueError(f"volumes {hu.shape} and {labels.shape} on a grid of {grid.shape}")
    figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor=_BACKGROUND)
    canvas = FigureCanvasAgg(figure)
    _draw_headings(figure, grid)
    _draw_radiographs(figure, image, reprojection, pixel_size, hidden)
    _draw_planes(figure, hu, labels, grid)
    _draw_legend(figure)
    _draw_footer(figure, warnings)
    with atomic_path(path) as temporary:
        # Without the name of the writing software: equal inputs give equal bytes.
        # The fastest compression; the file is about a quarter larger.
        canvas.print_png(temporary, metadata={"Software": None}, pil_kwargs={"compress_level": 1})


def _bounds(grid: Grid) -> tuple[FloatArray, FloatArray]:
    """Outer edges of the grid's voxels along the LPS axes, mm."""
    ends = [(-0.5, n - 0.5) for n in grid.shape]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    world = corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return world.min(axis=0), world.max(axis=0)


def _plane_index(plane: Plane, grid: Grid) -> tuple[FloatArray, float]:
    """Voxel indices ``(3, size, size)`` under the pixels of a panel, and the position in mm."""
    low, high = _bounds(grid)
    centre, side = plane_frame(grid)
    position = 0.0 if low[plane.normal] <= 0.0 <= high[plane.normal] else centre[plane.normal]
    steps = ((np.arange(_PANEL) + 0.5) / _PANEL - 0.5) * side
    world = np.empty((3, _PANEL, _PANEL))
    world[plane.normal] = position
    axis, sign = plane.right
    world[axis] = centre[axis] + sign * steps[None, :]
    axis, sign = plane.down
    world[axis] = centre[axis] + sign * steps[:, None]
    inverse = np.linalg.inv(grid.affine)
    index: FloatArray = np.tensordot(inverse[:3, :3], world, axes=1) + inverse[:3, 3, None, None]
    return index, float(position)


def _sample(volumes: npt.NDArray[np.float32], index: FloatArray) -> npt.NDArray[np.float32]:
    """Linear interpolation that repeats edge voxels up to their outer edge, and NaN beyond.

    Args:
        volumes: Shape ``(C, X, Y, Z)``.
        index: Voxel indices, shape ``(3, rows, columns)``.

    Returns:
        Values, shape ``(C, rows, columns)``.
    """
    size = np.array(volumes.shape[1:])[:, None, None]
    inside = ((index >= -0.5) & (index <= size - 0.5)).all(axis=0)
    # grid_sample counts from -1 to 1, the last axis first
    scaled = torch.from_numpy(2 * index / np.maximum(size - 1, 1) - 1).float()
    grid = scaled.flip(0).permute(1, 2, 0)[None, None]
    values = F.grid_sample(
        torch.from_numpy(volumes)[None], grid, padding_mode="border", align_corners=True
    )
    return np.where(inside, values[0, :, 0].numpy(), np.float32(np.nan))


def render_plane(
    plane: Plane, hu: npt.NDArray[Any], labels: npt.NDArray[Any], grid: Grid
) -> tuple[FloatArray, FloatArray, float]:
    """Grey and overlaid picture ``(size, size, 3)``, values 0 to 1, and the plane's mm."""
    index, position = _plane_index(plane, grid)
    # Only the slab of voxels around the plane is needed.
    limits = np.array(grid.shape) - 1
    first = np.clip(np.floor(index.min(axis=(1, 2))), 0, limits).astype(int)
    last = np.clip(np.ceil(index.max(axis=(1, 2))), 0, limits).astype(int)
    slab = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    index = index - first[:, None, None]
    low, high = DISPLAY_WINDOW
    shown = [value for value in LABEL_COLOURS if value != Label.BACKGROUND]
    # Interpolated membership gives smooth edges between labels.
    volumes = np.stack([hu[slab], *(labels[slab] == value for value in shown)], dtype=np.float32)
    values, *weights = _sample(volumes, index)
    grey = (np.nan_to_num(values, nan=-1000.0).clip(low, high) - low) / (high - low)
    plain = np.repeat(grey[..., None], 3, axis=-1)
    overlaid = plain.copy()
    for value, weight in zip(shown, weights, strict=True):
        opacity = SOFT_TISSUE_OPACITY if value == Label.SOFT_TISSUE else OVERLAY_OPACITY
        colour = np.array(LABEL_COLOURS[value]) / 255.0
        overlaid += opacity * np.nan_to_num(weight)[..., None] * (colour - plain)
    return plain, overlaid, position


def _panel(figure: Figure, box: Box, frame: tuple[float, float] | None = None) -> Any:
    """Axes over a panel: pixel units, (0, 0) at the top left corner."""
    axes = figure.add_axes(
        (
            box.left / WIDTH,
            1 - (box.top + box.size) / HEIGHT,
            box.size / WIDTH,
            box.size / HEIGHT,
        )
    )
    axes.set_axis_off()
    axes.set_xlim(0, box.size)
    axes.set_ylim(box.size, 0)
    axes.add_patch(Rectangle((0, 0), box.size, box.size, facecolor="black", zorder=0))
    return axes


def _mark(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text in a panel, with a dark rim that keeps it readable on white."""
    options = {"color": _TEXT, "fontsize": 9, "zorder": 3, **style}
    axes.text(x, y, text, family=_FONT, path_effects=[_rim(2.0)], **options)


def _rim(width: float) -> withStroke:
    return withStroke(linewidth=width, foreground="black")


def _draw_letters(axes: Any, letters: tuple[str, str, str, str]) -> None:
    middle, edge = _PANEL / 2, _PANEL - 7
    style = {"weight": "bold", "ha": "center", "va": "center", "color": _AMBER}
    for (x, y), letter in zip(
        ((10, middle), (edge - 3, middle), (middle, 10), (middle, edge - 3)), letters, strict=True
    ):
        _mark(axes, x, y, letter, **style)


def _draw_scale_bar(axes: Any, pixels_per_mm: float, where: str = "") -> None:
    length = _SCALE_BAR_MM * pixels_per_mm
    right, bottom = _PANEL - 12, _PANEL - 12
    rim = [_rim(3.6)]
    axes.plot([right - length, right], [bottom] * 2, c=_TEXT, lw=1.8, zorder=3, path_effects=rim)
    style = {"ha": "right", "va": "bottom", "fontsize": 7.5}
    _mark(axes, right, bottom - 4, f"{_SCALE_BAR_MM:.0f} mm{where}", **style)


def _caption(axes: Any, text: str) -> None:
    _mark(axes, 8, 8, text, va="top", fontsize=8.5)


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> Text:
    """Text on the picture at pixel (x, y) from the top left."""
    options = {"color": _TEXT, "fontsize": 10, "va": "center", **style}
    return figure.text(x / WIDTH, 1 - y / HEIGHT, text, family=_FONT, **options)


def _right_edge(text: Text) -> float:
    """Where a text ends, in pixels from the left."""
    return float(text.get_window_extent().x1)


def _draw_headings(figure: Figure, grid: Grid) -> None:
    _write(figure, _MARGIN, 34, "SPIDER: head CT from two radiographs", fontsize=15, weight="bold")
    voxels = " × ".join(str(n) for n in grid.shape)
    sizes = " × ".join(f"{step:.3g}" for step in grid.spacing)
    text = f"{voxels} voxels of {sizes} mm"
    _write(figure, WIDTH - _MARGIN, 34, text, color=_DIM, ha="right")
    names = ("Radiograph", "Reprojection of the CT", *(plane.name for plane in PLANES))
    for column, name in enumerate(names):
        _write(figure, panel_box(0, column).left, _TOP - 16, name, fontsize=11, color=_DIM)


def _draw_radiographs(
    figure: Figure,
    image: FloatArray,
    reprojection: FloatArray,
    pixel_size: float | None,
    hidden: Sequence[bool],
) -> None:
    rows, columns = image.shape[1:]
    scale = _PANEL / max(rows, columns)
    left, top = (_PANEL - scale * columns) / 2, (_PANEL - scale * rows) / 2
    extent = (left, left + scale * columns, top + scale * rows, top)
    letters = (("R", "L", "S", "I"), ("A", "P", "S", "I"))
    for row, name in enumerate(("Frontal", "Lateral")):
        for column, picture in enumerate((image[row], reprojection[row])):
            axes = _panel(figure, panel_box(row, column))
            left_out = hidden[row] and column == 0
            shown = np.nan_to_num(picture.astype(np.float32) * (not left_out))
            white = max(float(np.percentile(shown, 99.8)), 1e-6)
            axes.imshow(
                shown,
                cmap="gray",
                vmin=0.0,
                vmax=white,
                extent=extent,
                interpolation="bilinear",
                aspect="auto",
                zorder=1,
            )
            axes.set_xlim(0, _PANEL)
            axes.set_ylim(_PANEL, 0)
            _caption(axes, f"{name}: not shown, text burned in (E17)" if left_out else name)
            _draw_letters(axes, letters[row])
            if pixel_size is not None:
                _draw_scale_bar(axes, scale / pixel_size, " at isocentre")


def _draw_planes(
    figure: Figure, hu: npt.NDArray[Any], labels: npt.NDArray[Any], grid: Grid
) -> None:
    _, side = plane_frame(grid)
    extent = (0, _PANEL, _PANEL, 0)
    for column, plane in enumerate(PLANES, start=2):
        *pictures, position = render_plane(plane, hu, labels, grid)
        for row, picture in enumerate(pictures):
            axes = _panel(figure, panel_box(row, column))
            axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto", zorder=1)
            _caption(axes, f"{'xyz'[plane.normal]} = {position:.0f} mm")
            _draw_letters(axes, plane.letters)
            _draw_scale_bar(axes, _PANEL / side)


def _draw_legend(figure: Figure) -> None:
    y = _TOP + 2 * _PANEL + _GAP + 32
    low, high = (f"{hu:.0f}".replace("-", "\N{MINUS SIGN}") for hu in DISPLAY_WINDOW)
    _write(figure, _MARGIN, y, f"Display window {low} to {high} HU", color=_DIM)
    x = float(panel_box(0, 2).left)
    for value, name in LABEL_NAMES.items():
        if value == Label.BACKGROUND:
            continue
        corner = (x / WIDTH, 1 - (y + 7) / HEIGHT)
        colour = [part / 255 for part in LABEL_COLOURS[value]]
        patch = Rectangle(corner, 16 / WIDTH, 14 / HEIGHT, facecolor=colour, edgecolor="none")
        figure.add_artist(patch)
        x = _right_edge(_write(figure, x + 24, y, name.capitalize())) + 28


def _draw_footer(figure: Figure, warnings: Sequence[str]) -> None:
    y = HEIGHT - 30
    _write(figure, _MARGIN, y, FOOTER, weight="bold", color=_AMBER)
    colour = _AMBER if warnings else _DIM
    text = _write(figure, panel_box(0, 2).left, y, "Warnings: none", color=colour)
    for count in range(len(warnings), -1, -1):  # as many codes as the line holds
        rest = [f"{len(warnings) - count} more"] if count < len(warnings) else []
        text.set_text("Warnings: " + (", ".join([*warnings[:count], *rest]) or "none"))
        if _right_edge(text) <= WIDTH - _MARGIN:
            return
