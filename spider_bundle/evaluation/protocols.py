"""The evaluation protocols: a method beside the naive baselines and the mandatory controls.

V1: one noise-free radiograph pair of each patient, whose geometry is known. V2: the head is moved,
the radiographs get noise, tone, collimation and the like, and their geometry is known
approximately. What is drawn depends on the patient's id alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.transforms import Compose

from spider_bundle.cases.transforms import LoadHeadCased, RandHeadPosed
from spider_bundle.evaluation.baselines import BackProjection, MeanHead, NearestHead, RidgeHead
from spider_bundle.evaluation.comparison import compare
from spider_bundle.evaluation.controls import FlippedRadiograph, ShuffledRadiographs
from spider_bundle.evaluation.figures import draw_figures
from spider_bundle.evaluation.methods import Item, Method
from spider_bundle.evaluation.sensitivity import SETTINGS, Settings, sensitivity
from spider_bundle.simulation import (
    AcquisitionRanges,
    CaseSeededCompose,
    NormaliseRadiographsd,
    RandRadiographRealismd,
    SimulateRadiographsd,
)

Entry = Mapping[str, Any]

V1 = AcquisitionRanges()
V2 = replace(V1, unmodelled_rotation=1.5, unmodelled_offset=3.0, unmodelled_sod=0.05)


def v1_items(entries: Sequence[Entry], image_size: int, pixel_size: float) -> list[Item]:
    """Return the cases of datalist entries with radiographs of protocol V1.

    Args:
        entries: Datalist entries.
        image_size: Rows and columns of the network's image.
        pixel_size: Its pixel size at the isocentre, mm.
    """
    transforms = Compose(
        [
            LoadHeadCased(),
            SimulateRadiographsd(V1, image_size, pixel_size, seed_by_case=True),
            NormaliseRadiographsd(),
        ]
    )
    return _applied(transforms, entries)


def v2_items(entries: Sequence[Entry], image_size: int, pixel_size: float) -> list[Item]:
    """Return the cases of datalist entries with radiographs of protocol V2; see `v1_items`."""
    transforms = CaseSeededCompose(
        [
            LoadHeadCased(),
            RandHeadPosed(prob=1.0, rotation=8.0, shift=12.0, scale=0.0, stretch=0.0, mirror=0.0),
            SimulateRadiographsd(V2, image_size, pixel_size),
            RandRadiographRealismd(prob=1.0, effect=1.0),
            NormaliseRadiographsd(),
        ]
    )
    return _applied(transforms, entries)


def _applied(transforms: Compose, entries: Sequence[Entry]) -> list[Item]:
    return [dict(transforms(dict(entry))) for entry in entries]


def naive_baselines(
    training: Sequence[Entry], image_size: int, pixel_size: float
) -> dict[str, Method]:
    """Return the baselines that learn from training cases, by title; see `v1_items`."""
    image: dict[str, Any] = {"size": image_size, "pixel_size": pixel_size}
    return {
        "training-mean CT": MeanHead(training),
        "nearest training case": NearestHead(training, **image),
        "ridge regression": RidgeHead(training, **image),
        "back-projection": BackProjection(training, **image),
    }


def controls(method: Method, items: Sequence[Item]) -> dict[str, Method]:
    """Return the method with wrong radiographs, by title.

    Args:
        method: The method under control.
        items: All cases.
    """
    return {
        "radiographs shuffled": ShuffledRadiographs(method, items),
        "lateral flipped": FlippedRadiograph(method, view=1),
        "frontal flipped": FlippedRadiograph(method, view=0),
    }


def evaluate(
    method: Method,
    training: Sequence[Entry],
    validation: Sequence[Entry],
    output_dir: str | Path,
    image_size: int = 256,
    pixel_size: float = 1.2,
    settings: Settings = SETTINGS,
) -> None:
    """Evaluate a method on both protocols, and what wrong statements cost it.

    Writes ``v1`` and ``v2`` (see :func:`~spider_bundle.evaluation.comparison.compare`), the
    sensitivity table and ``figures`` (see :func:`~spider_bundle.evaluation.figures.draw_figures`).

    Args:
        method: The method, titled ``SPIDER`` in tables and files.
        training: Datalist entries of the patients that the baselines learn from.
        validation: Datalist entries of the patients to score.
        output_dir: Folder to write to, created if absent.
        image_size: Rows and columns of the network's image.
        pixel_size: Its pixel size at the isocentre, mm.
        settings: See :func:`~spider_bundle.evaluation.sensitivity.sensitivity`.

    What cannot be done with the patients that there are, such as a regression on one, is left out
    with a warning.
    """
    folder = Path(output_dir)
    baselines = naive_baselines(training, image_size, pixel_size)
    items = v1_items(validation, image_size, pixel_size)
    rows = compare(items, {"SPIDER": method, **baselines, **controls(method, items)}, folder / "v1")
    posed_mean = MeanHead(training, known_pose=True)
    compare(
        v2_items(validation, image_size, pixel_size),
        {"SPIDER": method, **baselines, "training-mean CT, known pose": posed_mean},
        folder / "v2",
    )
    means = sensitivity(validation, method, folder, image_size, pixel_size, settings)
    draw_figures(rows, means, items, method, folder / "figures")
