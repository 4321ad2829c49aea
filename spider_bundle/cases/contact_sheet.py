"""Pictures of prepared heads for a quick look: three planes with the outlines of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import image as pictures
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spider_bundle.cases.case import HeadCase
from spider_bundle.files import atomic_path
from spider_bundle.labels import LABEL_COLOURS, Label

DISPLAY_WINDOW: tuple[float, float] = (-300.0, 1200.0)
"""HU shown as black and white."""

COLUMNS = 2
"""Cases side by side on a sheet."""

PER_SHEET = 40
"""Cases on one sheet."""

_UNKNOWN = (0.1, 0.2, 0.4, 1.0)  # red, green, blue, opacity
_PANEL_INCHES = 2.2
_DPI = 100


def write_tile(path: Path, case: HeadCase, title: str) -> None:
    """Draw one head: axial, coronal and sagittal plane through the isocentre.

    Radiological convention: the patient's right is at the left of the picture. What was not
    measured is blue.

    Args:
        path: PNG file to write, atomically.
        case: The head on its axis-aligned RAS grid.
        title: Line above the planes; no patient data.

    Raises:
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=(3 * _PANEL_INCHES, _PANEL_INCHES + 0.3), dpi=_DPI, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    figure.text(0.01, 0.97, title, color="white", fontsize=8, va="top")
    index = np.rint(np.linalg.solve(case.grid.affine, [0.0, 0.0, 0.0, 1.0])[:3]).astype(int)
    index = np.clip(index, 0, np.array(case.grid.shape) - 1)
    for column, normal in enumerate((2, 1, 0)):
        height = _PANEL_INCHES / (_PANEL_INCHES + 0.3)
        axes = figure.add_axes((column / 3, 0.0, 1 / 3, height))
        hu = _plane(case.hu, normal, index[normal])
        axes.imshow(hu, cmap="gray", vmin=DISPLAY_WINDOW[0], vmax=DISPLAY_WINDOW[1])
        unknown = ~_plane(case.measured, normal, index[normal])
        axes.imshow(np.where(unknown[..., None], _UNKNOWN, 0.0))
        labels = _plane(case.structure, normal, index[normal])
        for label in Label:
            mask = labels == label
            if label != Label.BACKGROUND and mask.any() and not mask.all():
                colour = tuple(value / 255 for value in LABEL_COLOURS[label])
                axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.6)
        axes.axhline((hu.shape[0] - 1) / 2, color="white", linewidth=0.3, alpha=0.5)
        axes.axvline((hu.shape[1] - 1) / 2, color="white", linewidth=0.3, alpha=0.5)
        axes.set_axis_off()
    with atomic_path(path) as temporary:
        canvas.print_png(temporary)


def write_sheets(folder: Path, tiles: Sequence[Path]) -> list[Path]:
    """Lay tiles out on sheets ``preview.png``, ``preview_2.png``, ...; older sheets are removed.

    Args:
        folder: Where to write.
        tiles: Pictures of equal size.

    Raises:
        OSError: A file cannot be read or written.
    """
    sheets = []
    for number, start in enumerate(range(0, len(tiles), PER_SHEET), start=1):
        images = [pictures.imread(tile)[..., :3] for tile in tiles[start : start + PER_SHEET]]
        images += [np.zeros_like(images[0])] * (-len(images) % COLUMNS)
        rows = [np.hstack(images[i : i + COLUMNS]) for i in range(0, len(images), COLUMNS)]
        sheets.append(folder / ("preview.png" if number == 1 else f"preview_{number}.png"))
        with atomic_path(sheets[-1]) as temporary:
            pictures.imsave(temporary, np.vstack(rows))
    for old in set(folder.glob("preview*.png")) - set(sheets):
        old.unlink()
    return sheets


def _plane(volume: npt.NDArray[Any], normal: int, index: int) -> npt.NDArray[Any]:
    """Return a plane of a RAS volume: rows from anterior or superior, columns from right."""
    plane = np.take(volume, index, axis=normal)
    return plane[::-1, ::-1].T
