"""A picture of one reconstruction for a quick look: radiographs, reprojections, planes, bones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch.nn import functional as F

from spider_bundle.arrays import AnyFloatArray
from spider_bundle.files import atomic_path
from spider_bundle.geometry import Grid
from spider_bundle.labels import LABEL_COLOURS, Label
from spider_bundle.outputs.report import INTENDED_USE, LabelEntry, Report
from spider_bundle.outputs.surface import render_surfaces
from spider_bundle.projection_matrix import project_points

if TYPE_CHECKING:
    from spider_bundle.reconstructor import Result

PREVIEW_FILE = "preview.png"

WIDTH, HEIGHT = 1920, 812
"""Size of the picture in pixels."""

DISPLAY_WINDOW: tuple[float, float] = (-200.0, 1500.0)
"""HU shown as black and white; soft tissue is dark grey, dense bone white."""

OVERLAY_OPACITY = 0.55
SOFT_TISSUE_OPACITY = 0.25
"""Soft tissue covers much of the head, so it is only tinted."""

_PANEL = 300
_GAP = 10
_MARGIN = 24
_GROUP_GAP = (WIDTH - 2 * _MARGIN - 6 * _PANEL - 3 * _GAP) // 2
"""Between radiographs, planes and surfaces."""
_TOP = 98
_SCALE_BAR_MM = 50.0

_BACKGROUND = "#101418"
_TEXT = "#e6e9ec"
_DIM = "#93a0ab"
_AMBER = "#f2b84b"
_BOLD = 0.4
"""Pixels by which bold text is thicker on each side."""
_HATCH = 10
"""Pixels from one line of a hatching to the next."""
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
        column: 0 radiograph, 1 reprojection, 2 to 4 the :data:`PLANES`, 5 surfaces.
    """
    groups = (column > 1) + (column > 4)
    left = _MARGIN + column * (_PANEL + _GAP) + groups * (_GROUP_GAP - _GAP)
    return Box(left, _TOP + row * (_PANEL + _GAP), _PANEL)


def plane_frame(grid: Grid) -> tuple[AnyFloatArray, float]:
    """Centre and side of the square region that every plane shows.

    The planes pass through the isocentre, or through the middle of a grid that does not hold it.

    Returns:
        LPS mm of the common middle of the regions, shape ``(3,)``, and their side in mm.
    """
    low, high = _bounds(grid)
    return (low + high) / 2, float((high - low).max())


def write_preview(path: str | os.PathLike[str], result: Result, report: Report) -> None:
    """Draw the preview and write it as PNG, atomically.

    A radiograph with text burned in, which may name somebody, is not shown.

    Args:
        path: File to write.
        result: The study.
        report: Its report.

    Raises:
        ValueError: Shapes do not fit each other.
        OSError: The file cannot be written.
    """
    image, grid = result.image, result.centred_grid
    if image.ndim != 3 or not image.shape == result.reprojection.shape == result.mask.shape:
        raise ValueError("images, masks and reprojections need one shape (2, H, W)")
    if not result.hu.shape == result.labels.shape == grid.shape:
        raise ValueError(f"volumes of {result.hu.shape}, {result.labels.shape} on {grid.shape}")
    picture = Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    _draw_headings(draw, grid)
    _draw_radiographs(picture, draw, result)
    is_hatched = _draw_planes(picture, draw, result)
    _draw_surfaces(picture, draw, result)
    _draw_legend(draw, report.labels, is_hatched)
    _draw_footer(draw, report.warnings)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        # The fastest compression; the file is about a quarter larger.
        picture.save(stream, "PNG", compress_level=1)


def _bounds(grid: Grid) -> tuple[AnyFloatArray, AnyFloatArray]:
    """Outer edges of the grid's voxels along the LPS axes, mm."""
    ends = [(-0.5, n - 0.5) for n in grid.shape]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    world = corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return world.min(axis=0), world.max(axis=0)


def _plane_points(plane: Plane, grid: Grid) -> AnyFloatArray:
    """LPS mm under the pixels of a panel, shape ``(3, size, size)``."""
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
    return world


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
    world = _plane_points(plane, grid)
    inverse = np.linalg.inv(grid.affine)
    index = np.tensordot(inverse[:3, :3], world, axes=1) + inverse[:3, 3, None, None]
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
        overlaid += _tinted(plain, value, np.nan_to_num(weight)[..., None]) - plain
    return plain, overlaid, float(world[plane.normal, 0, 0])


def _tinted(grey: AnyFloatArray, label: int, weight: AnyFloatArray) -> AnyFloatArray:
    """Blend grey pixels ``(..., 3)`` with a label's colour, as far as they belong to the label."""
    opacity = SOFT_TISSUE_OPACITY if label == Label.SOFT_TISSUE else OVERLAY_OPACITY
    colour = np.array(LABEL_COLOURS[label], grey.dtype) / 255
    return grey + opacity * weight * (colour - grey)


def views_of_plane(plane: Plane, result: Result) -> npt.NDArray[np.int64]:
    """In how many radiographs each pixel of a plane lies in the exposed field. ``(size, size)``."""
    projections = [view.projection for view in result.provenance.views]
    if None in projections:
        return np.full((_PANEL, _PANEL), 2)
    points = torch.from_numpy(_plane_points(plane, result.centred_grid)).reshape(1, 3, -1).mT
    pixels = project_points(torch.tensor(projections, dtype=torch.float64)[None], points)[0]
    mask = torch.from_numpy(result.mask)[:, None].double()
    # grid_sample counts from edge to edge of the image, columns first
    at = (2 * pixels + 1) / torch.tensor(mask.shape[:1:-1]) - 1
    seen = F.grid_sample(mask, at[:, None], mode="nearest", align_corners=False)
    return seen.sum(dim=0).reshape(_PANEL, _PANEL).numpy().astype(np.int64)


def _hatched(views: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Lines over what only one radiograph shows, crossed lines over what none does."""
    rows, columns = np.indices(views.shape)
    hatched: npt.NDArray[np.bool_] = ((rows + columns) % _HATCH == 0) & (views < 2)
    return hatched | (((rows - columns) % _HATCH == 0) & (views < 1))


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


def _annotate(
    draw: ImageDraw.ImageDraw,
    box: Box,
    caption: str,
    letters: tuple[str, str, str, str],
    pixels_per_mm: float,
    where: str = "",
) -> None:
    """Write caption, orientation letters and scale bar into a panel."""
    _write(draw, (box.left + 8, box.top + 8), caption, size=12, anchor="la", rim=_RIM)
    middle, edge = _PANEL / 2, _PANEL - 10
    places = ((10, middle), (edge, middle), (middle, 10), (middle, edge))
    for (x, y), letter in zip(places, letters, strict=True):
        at = (box.left + x, box.top + y)
        _write(draw, at, letter, size=12, bold=True, colour=_AMBER, anchor="mm", rim=_RIM)
    length = round(_SCALE_BAR_MM * pixels_per_mm)
    right, bottom = box.left + _PANEL - 12, box.top + _PANEL - 12
    draw.rectangle((right - length - 1, bottom - 2, right + 1, bottom + 1), "black")
    draw.rectangle((right - length, bottom - 1, right, bottom), _TEXT)
    text = f"{_SCALE_BAR_MM:.0f} mm{where}"
    _write(draw, (right, bottom - 5), text, size=10, anchor="rb", rim=_RIM)


def _draw_headings(draw: ImageDraw.ImageDraw, grid: Grid) -> None:
    _write(
        draw, (_MARGIN, 34), "SPIDER: estimated head CT from two radiographs", size=21, bold=True
    )
    voxels = " x ".join(str(n) for n in grid.shape)
    sizes = " x ".join(f"{step:.3g}" for step in grid.spacing)
    text = f"{voxels} voxels of {sizes} mm"
    _write(draw, (WIDTH - _MARGIN, 34), text, colour=_DIM, anchor="rm")
    planes = (plane.name for plane in PLANES)
    names = ("Radiograph", "Reprojection of the CT", *planes, "Labels in 3D")
    for column, name in enumerate(names):
        _write(draw, (panel_box(0, column).left, _TOP - 16), name, size=15, colour=_DIM)


def _draw_radiographs(picture: Image.Image, draw: ImageDraw.ImageDraw, result: Result) -> None:
    image, hidden = result.image, result.provenance.burned_in
    rows, columns = image.shape[1:]
    scale = _PANEL / max(rows, columns)
    size = (max(round(scale * columns), 1), max(round(scale * rows), 1))
    letters = (("R", "L", "S", "I"), ("A", "P", "S", "I"))
    for row, name in enumerate(("Frontal", "Lateral")):
        for column, view in enumerate((image[row], result.reprojection[row])):
            box = panel_box(row, column)
            is_hidden = hidden[row] and column == 0
            shown = np.nan_to_num(view.astype(np.float32) * (not is_hidden))
            white = max(float(np.percentile(shown, 99.8)), 1e-6)
            grey = Image.fromarray(_bytes(shown / white)).resize(size, Image.Resampling.BILINEAR)
            draw.rectangle((box.left, box.top, box.left + _PANEL - 1, box.top + _PANEL - 1), 0)
            corner = (box.left + (_PANEL - size[0]) // 2, box.top + (_PANEL - size[1]) // 2)
            picture.paste(grey.convert("RGB"), corner)
            text = f"{name}: not shown, text burned in (E17)" if is_hidden else name
            _annotate(draw, box, text, letters[row], scale / result.pixel_size, " at isocentre")


def _draw_planes(picture: Image.Image, draw: ImageDraw.ImageDraw, result: Result) -> bool:
    """Draw the planes; return whether anything is hatched."""
    _, side = plane_frame(result.centred_grid)
    is_hatched = False
    for column, plane in enumerate(PLANES, start=2):
        *views, position = render_plane(plane, result.hu, result.labels, result.centred_grid)
        hatched = _hatched(views_of_plane(plane, result))
        is_hatched |= bool(hatched.any())
        for row, view in enumerate(views):
            box = panel_box(row, column)
            pixels = _bytes(view)
            pixels[hatched] = pixels[hatched] // 2 + np.array(ImageColor.getrgb(_AMBER)) // 2
            picture.paste(Image.fromarray(pixels), (box.left, box.top))
            text = f"{'xyz'[plane.normal]} = {position:.0f} mm"
            _annotate(draw, box, text, plane.letters, _PANEL / side)
    return is_hatched


def _draw_surfaces(picture: Image.Image, draw: ImageDraw.ImageDraw, result: Result) -> None:
    """Draw the bones as seen from in front and from the left, at the scale of the planes."""
    centre, side = plane_frame(result.centred_grid)
    views, affine = render_surfaces(result.labels, result.centred_grid)
    scale = _PANEL / side
    for row, (view, plane, name) in enumerate(
        zip(views, PLANES[1:], ("From in front", "From the left"), strict=True)
    ):
        box = panel_box(row, 5)
        right = plane.right[0]
        # the upper left corner of the first row, which is the highest, and of the first column
        edge = affine[right, 3] - affine[right, right] / 2 - centre[right]
        top = centre[2] - affine[2, 3] - (len(view) - 0.5) * affine[2, 2]
        size = (
            max(round(view.shape[1] * affine[right, right] * scale), 1),
            max(round(len(view) * affine[2, 2] * scale), 1),
        )
        panel = Image.new("RGB", (_PANEL, _PANEL))
        shown = Image.fromarray(_bytes(view)).resize(size, Image.Resampling.BICUBIC)
        panel.paste(shown, (round(_PANEL / 2 + edge * scale), round(_PANEL / 2 + top * scale)))
        picture.paste(panel, (box.left, box.top))
        _annotate(draw, box, name, plane.letters, scale)


def _bytes(values: AnyFloatArray) -> npt.NDArray[np.uint8]:
    """Brightness 0 to 1 as 0 to 255. Any shape."""
    return np.rint(255 * values.clip(0, 1)).astype(np.uint8)


def _draw_legend(draw: ImageDraw.ImageDraw, labels: Sequence[LabelEntry], is_hatched: bool) -> None:
    y = _TOP + 2 * _PANEL + _GAP + 32
    low, high = DISPLAY_WINDOW
    _write(draw, (_MARGIN, y), f"Display window {low:.0f} to {high:.0f} HU", colour=_DIM)
    x = float(panel_box(0, 2).left)
    for label in labels:
        if label.value == Label.BACKGROUND:
            continue
        grey = (np.clip(label.mean_hu or 0.0, low, high) - low) / (high - low)
        colour = _tinted(np.full(3, grey), label.value, np.ones(()))  # as it looks in the planes
        draw.rectangle((x, y - 7, x + 15, y + 6), tuple(_bytes(colour).tolist()))
        x = _write(draw, (x + 24, y), f"{label.name.capitalize()} {label.volume_ml:.0f} ml") + 20
    if is_hatched:
        text = "Hatched: in the field of one radiograph only; crossed: of none"
        _write(draw, (WIDTH - _MARGIN, y), text, colour=_AMBER, anchor="rm")


def _draw_footer(draw: ImageDraw.ImageDraw, warnings: Sequence[str]) -> None:
    y = HEIGHT - 30
    _write(draw, (_MARGIN, y), INTENDED_USE, bold=True, colour=_AMBER)
    left = float(panel_box(0, 2).left)
    for count in range(len(warnings), -1, -1):  # as many as the line holds
        rest = [f"{len(warnings) - count} more"] if count < len(warnings) else []
        text = "Warnings: " + (", ".join([*warnings[:count], *rest]) or "none")
        if left + _font(14).getlength(text) <= WIDTH - _MARGIN:
            break
    _write(draw, (left, y), text, colour=_AMBER if warnings else _DIM)
