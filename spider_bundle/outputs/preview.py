"""A picture of one reconstruction for a quick look: radiographs, reprojections, planes, labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from spider_bundle.arrays import AnyFloatArray
from spider_bundle.files import atomic_path
from spider_bundle.geometry import Grid
from spider_bundle.labels import LABEL_COLOURS, LABEL_NAMES, Label

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
_SCALE_BAR_MM = 50.0

_BACKGROUND = "#101418"
_TEXT = "#e6e9ec"
_DIM = "#93a0ab"
_AMBER = "#f2b84b"
_BOLD = 0.4
"""Pixels by which bold text is thicker on each side."""
_RIM = 2
"""Pixels of the dark rim that keeps text in a panel readable on white."""


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


def plane_frame(grid: Grid) -> tuple[AnyFloatArray, float]:
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
    image: AnyFloatArray,
    reprojection: AnyFloatArray,
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
    picture = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _draw_headings(draw, grid)
    _draw_radiographs(picture, draw, image, reprojection, pixel_size, hidden)
    _draw_planes(picture, draw, hu, labels, grid)
    _draw_legend(draw)
    _draw_footer(draw, warnings)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        # The fastest compression; the file is about a quarter larger.
        picture.save(stream, "PNG", compress_level=1)


def _bounds(grid: Grid) -> tuple[AnyFloatArray, AnyFloatArray]:
    """Outer edges of the grid's voxels along the LPS axes, mm."""
    ends = [(-0.5, n - 0.5) for n in grid.shape]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    world = corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return world.min(axis=0), world.max(axis=0)


def _plane_index(plane: Plane, grid: Grid) -> tuple[AnyFloatArray, float]:
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
    index: AnyFloatArray = np.tensordot(inverse[:3, :3], world, axes=1) + inverse[:3, 3, None, None]
    return index, float(position)


def _sample(volumes: npt.NDArray[np.float32], index: AnyFloatArray) -> npt.NDArray[np.float32]:
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
) -> tuple[AnyFloatArray, AnyFloatArray, float]:
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
        colour = np.array(LABEL_COLOURS[value], np.float32) / 255
        overlaid += opacity * np.nan_to_num(weight)[..., None] * (colour - plain)
    return plain, overlaid, position


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that comes with Pillow: ASCII only (no multiplication or minus sign)."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size it is no bitmap
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    *,
    size: int = 14,
    bold: bool = False,
    colour: str = _TEXT,
    anchor: str = "lm",
    rim: int = 0,
) -> float:
    """Write a text at a pixel; gives where it ends, in pixels from the left."""
    font = _font(size)
    if rim:
        draw.text(at, text, "black", font, anchor, stroke_width=rim)
    # the font has no bold face: a thin outline of its own colour thickens it
    draw.text(at, text, colour, font, anchor, stroke_width=_BOLD if bold else 0)
    return at[0] + float(font.getlength(text))


def _draw_letters(draw: ImageDraw.ImageDraw, box: Box, letters: tuple[str, str, str, str]) -> None:
    middle, edge = _PANEL / 2, _PANEL - 10
    places = ((10, middle), (edge, middle), (middle, 10), (middle, edge))
    for (x, y), letter in zip(places, letters, strict=True):
        at = (box.left + x, box.top + y)
        _write(draw, at, letter, size=12, bold=True, colour=_AMBER, anchor="mm", rim=_RIM)


def _draw_scale_bar(
    draw: ImageDraw.ImageDraw, box: Box, pixels_per_mm: float, where: str = ""
) -> None:
    length = round(_SCALE_BAR_MM * pixels_per_mm)
    right, bottom = box.left + _PANEL - 12, box.top + _PANEL - 12
    draw.rectangle((right - length - 1, bottom - 2, right + 1, bottom + 1), "black")
    draw.rectangle((right - length, bottom - 1, right, bottom), _TEXT)
    text = f"{_SCALE_BAR_MM:.0f} mm{where}"
    _write(draw, (right, bottom - 5), text, size=10, anchor="rb", rim=_RIM)


def _caption(draw: ImageDraw.ImageDraw, box: Box, text: str) -> None:
    _write(draw, (box.left + 8, box.top + 8), text, size=12, anchor="la", rim=_RIM)


def _draw_headings(draw: ImageDraw.ImageDraw, grid: Grid) -> None:
    _write(draw, (_MARGIN, 34), "SPIDER: head CT from two radiographs", size=21, bold=True)
    voxels = " x ".join(str(n) for n in grid.shape)
    sizes = " x ".join(f"{step:.3g}" for step in grid.spacing)
    text = f"{voxels} voxels of {sizes} mm"
    _write(draw, (WIDTH - _MARGIN, 34), text, colour=_DIM, anchor="rm")
    names = ("Radiograph", "Reprojection of the CT", *(plane.name for plane in PLANES))
    for column, name in enumerate(names):
        _write(draw, (panel_box(0, column).left, _TOP - 16), name, size=15, colour=_DIM)


def _draw_radiographs(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    image: AnyFloatArray,
    reprojection: AnyFloatArray,
    pixel_size: float | None,
    hidden: Sequence[bool],
) -> None:
    rows, columns = image.shape[1:]
    scale = _PANEL / max(rows, columns)
    size = (max(round(scale * columns), 1), max(round(scale * rows), 1))
    letters = (("R", "L", "S", "I"), ("A", "P", "S", "I"))
    for row, name in enumerate(("Frontal", "Lateral")):
        for column, view in enumerate((image[row], reprojection[row])):
            box = panel_box(row, column)
            left_out = hidden[row] and column == 0
            shown = np.nan_to_num(view.astype(np.float32) * (not left_out))
            white = max(float(np.percentile(shown, 99.8)), 1e-6)
            grey = Image.fromarray(_bytes(shown / white)).resize(size, Image.Resampling.BILINEAR)
            draw.rectangle((box.left, box.top, box.left + _PANEL - 1, box.top + _PANEL - 1), 0)
            corner = (box.left + (_PANEL - size[0]) // 2, box.top + (_PANEL - size[1]) // 2)
            picture.paste(grey.convert("RGB"), corner)
            _caption(draw, box, f"{name}: not shown, text burned in (E17)" if left_out else name)
            _draw_letters(draw, box, letters[row])
            if pixel_size is not None:
                _draw_scale_bar(draw, box, scale / pixel_size, " at isocentre")


def _draw_planes(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    hu: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    grid: Grid,
) -> None:
    _, side = plane_frame(grid)
    for column, plane in enumerate(PLANES, start=2):
        *views, position = render_plane(plane, hu, labels, grid)
        for row, view in enumerate(views):
            box = panel_box(row, column)
            picture.paste(Image.fromarray(_bytes(view)), (box.left, box.top))
            _caption(draw, box, f"{'xyz'[plane.normal]} = {position:.0f} mm")
            _draw_letters(draw, box, plane.letters)
            _draw_scale_bar(draw, box, _PANEL / side)


def _bytes(values: AnyFloatArray) -> npt.NDArray[np.uint8]:
    """Brightness 0 to 1 as 0 to 255. Any shape."""
    return np.rint(255 * values.clip(0, 1)).astype(np.uint8)


def _draw_legend(draw: ImageDraw.ImageDraw) -> None:
    y = _TOP + 2 * _PANEL + _GAP + 32
    low, high = DISPLAY_WINDOW
    _write(draw, (_MARGIN, y), f"Display window {low:.0f} to {high:.0f} HU", colour=_DIM)
    x = float(panel_box(0, 2).left)
    for value, name in LABEL_NAMES.items():
        if value == Label.BACKGROUND:
            continue
        draw.rectangle((x, y - 7, x + 15, y + 6), tuple(LABEL_COLOURS[value]))
        x = _write(draw, (x + 24, y), name.capitalize()) + 28


def _draw_footer(draw: ImageDraw.ImageDraw, warnings: Sequence[str]) -> None:
    y = HEIGHT - 30
    _write(draw, (_MARGIN, y), FOOTER, bold=True, colour=_AMBER)
    left = float(panel_box(0, 2).left)
    for count in range(len(warnings), -1, -1):  # as many codes as the line holds
        rest = [f"{len(warnings) - count} more"] if count < len(warnings) else []
        text = "Warnings: " + (", ".join([*warnings[:count], *rest]) or "none")
        if left + _font(14).getlength(text) <= WIDTH - _MARGIN:
            break
    _write(draw, (left, y), text, colour=_AMBER if warnings else _DIM)
