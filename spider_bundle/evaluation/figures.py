"""Figures of an evaluation: scores of every case, sensitivity, worst and best case in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spider_bundle.evaluation.methods import Item, Method, Reconstruction
from spider_bundle.files import atomic_path
from spider_bundle.labels import BONES

_WINDOW = (-200.0, 1200.0)
_DISCLAIMER = "Research use only, not for diagnosis."


def draw_figures(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    means: Mapping[str, Mapping[str, float]],
    items: Sequence[Item],
    method: Method,
    output_dir: str | Path,
) -> None:
    """Draw all figures of an evaluation.

    ``psnr.png``, ``bone.png``, ``sensitivity.png``; ``worst.png`` and ``best.png`` show the worst
    and the best case by PSNR.

    Args:
        rows: Scores of each case by method; the first method is the one that is shown.
        means: Mean scores by setting of the sensitivity test.
        items: The cases of ``rows``.
        method: The first method.
        output_dir: Folder to write to, created if absent.
    """
    folder = Path(output_dir)
    plot_cases(rows, folder / "psnr.png", "psnr_db", "PSNR, dB")
    plot_cases(rows, folder / "bone.png", "dice_bone", "Dice of bone")
    plot_sensitivity(means, folder / "sensitivity.png")
    first = next(iter(rows.values()))
    ranked = sorted(first, key=lambda row: row["psnr_db"])
    by_name = {str(item["case"]): item for item in items}
    for name, row in (("worst", ranked[0]), ("best", ranked[-1])):
        item = by_name[str(row["case"])]
        title = f"{name.capitalize()} case, {row['case']}: {row['psnr_db']:.1f} dB"
        plot_case(method(item), item, folder / f"{name}.png", title)


def plot_cases(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, score: str, title: str
) -> None:
    """One line of dots per method: the score of every case, cases sorted by the first method.

    Args:
        rows: Scores of each case, by the title of the method; the same cases in each.
        path: PNG file to write.
        score: Name of the score.
        title: Its title.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    first = next(iter(rows.values()))
    order = sorted(range(len(first)), key=lambda i: first[i][score] or 0)
    for index, (name, cases) in enumerate(rows.items()):
        values = [cases[i].get(score) for i in order]
        axes.plot(
            [np.nan if v is None else v for v in values],
            marker="o" if index == 0 else ".",
            linewidth=2 if index == 0 else 0.8,
            label=name,
        )
    axes.set_xticks(range(len(order)), [str(first[i]["case"]) for i in order], rotation=45)
    axes.set_ylabel(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    _save(figure, path)


def plot_sensitivity(means: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """Bars of the loss of PSNR in every setting against the first.

    Args:
        means: Mean scores by setting.
        path: PNG file to write.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    titles = list(means)
    right = means[titles[0]]["psnr_db"]
    axes.barh(titles[1:], [means[t]["psnr_db"] - right for t in titles[1:]], color="tab:blue")
    axes.invert_yaxis()
    axes.set_xlabel("change of the PSNR, dB")
    axes.grid(axis="x", alpha=0.3)
    _save(figure, path)


def plot_case(reconstruction: Reconstruction, item: Item, path: str | Path, title: str) -> None:
    """Three planes of a reconstruction, and where its bone is wrong.

    Upper row: the reconstructed CT. Lower row: the same with bone of the labels that is not in the
    reference (orange) and bone of the reference that is missing (blue), measured voxels only.

    Args:
        reconstruction: On the grid of the case.
        item: The case (see :mod:`spider_bundle.evaluation.methods`).
        path: PNG file to write.
        title: Title of the figure.
    """
    measured = item["measured"].numpy()
    wanted = np.isin(item["structure"].numpy(), BONES) & measured
    found = np.isin(reconstruction.labels, BONES) & measured
    inside = np.argwhere(item["structure"].numpy() > 0)
    middle = inside.mean(axis=0).round().astype(int) if len(inside) else np.zeros(3, int)
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    figure.suptitle(f"{title}. {_DISCLAIMER}", fontsize="medium")
    panels = figure.subplots(2, 3)
    for axis in range(3):
        where = tuple(int(middle[axis]) if i == axis else slice(None) for i in range(3))
        hu = _upright(reconstruction.hu[where])
        _show(panels[0, axis], hu)
        _show(panels[1, axis], hu)
        colours = np.zeros((*hu.shape, 4))
        colours[_upright((found & ~wanted)[where])] = (1.0, 0.5, 0.0, 0.8)
        colours[_upright((wanted & ~found)[where])] = (0.1, 0.5, 1.0, 0.8)
        panels[1, axis].imshow(colours, interpolation="nearest")
    _save(figure, path)


def draw_side_by_side(
    truth: npt.NDArray[Any], reconstruction: npt.NDArray[Any], path: str | Path
) -> None:
    """Three planes through the middle of a CT (upper row) and of its reconstruction (lower row).

    Args:
        truth: HU, shape ``(X, Y, Z)``.
        reconstruction: HU on the same grid.
        path: PNG file to write.
    """
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    figure.suptitle(f"CT above, reconstruction below. {_DISCLAIMER}", fontsize="medium")
    panels = figure.subplots(2, 3)
    for row, hu in enumerate((truth, reconstruction)):
        for axis in range(3):
            where = tuple(n // 2 if i == axis else slice(None) for i, n in enumerate(hu.shape))
            _show(panels[row, axis], _upright(hu[where]))
    _save(figure, path)


def _upright(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a plane of a RAS volume with head or front upwards."""
    return np.asarray(plane.T[::-1])


def _show(axes: Axes, plane: npt.NDArray[Any]) -> None:
    axes.imshow(plane, cmap="gray", vmin=_WINDOW[0], vmax=_WINDOW[1], interpolation="nearest")
    axes.set_axis_off()


def _save(figure: Figure, path: str | Path) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(90)
    with atomic_path(target) as temporary:
        # without the writer's version, the same results give the same bytes
        canvas.print_png(str(temporary), metadata={"Software": None})
