"""What wrong geometry or an unusual tone of the radiographs costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose

from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.evaluation.comparison import score_method
from spider_bundle.evaluation.methods import Item, Method
from spider_bundle.evaluation.tables import mean_scores, write_scores, write_sensitivity
from spider_bundle.simulation import NormaliseRadiographsd, SimulateRadiographsd, ToneCurved

Settings = Mapping[str, Mapping[str, Mapping[str, float]]]

SETTINGS: Settings = {
    "nothing wrong (V1)": {},
    "SOD stated 10 % too short": {"error": {"sod": -0.1}},
    "SOD stated 5 % too short": {"error": {"sod": -0.05}},
    "SOD stated 5 % too long": {"error": {"sod": 0.05}},
    "SOD stated 10 % too long": {"error": {"sod": 0.1}},
    "SDD stated 10 % too short": {"error": {"sdd": -0.1}},
    "SDD stated 5 % too short": {"error": {"sdd": -0.05}},
    "SDD stated 5 % too long": {"error": {"sdd": 0.05}},
    "SDD stated 10 % too long": {"error": {"sdd": 0.1}},
    "lateral turned by 1 degree": {"error": {"angle": 1.0}},
    "lateral turned by 2 degrees": {"error": {"angle": 2.0}},
    "lateral turned by 5 degrees": {"error": {"angle": 5.0}},
    "lateral turned by 10 degrees": {"error": {"angle": 10.0}},
    "tone: power 0.6": {"tone": {"gamma": 0.6}},
    "tone: power 1.6": {"tone": {"gamma": 1.6}},
    "tone: sigmoid of slope 5": {"tone": {"slope": 5.0}},
    "tone: sigmoid of slope 8": {"tone": {"slope": 8.0}},
}
"""What is wrong, by title: the arguments of ``error``
(:class:`~spider_bundle.acquisition.GeometryError`) or of ``tone``
(:class:`~spider_bundle.simulation.ToneCurved`)."""


def sensitivity(
    data: Sequence[Mapping[str, Any]],
    method: Method,
    output_dir: str | Path,
    image_size: int,
    pixel_size: float,
    settings: Settings = SETTINGS,
) -> dict[str, dict[str, float]]:
    """Score a method on protocol V1 with one thing wrong at a time.

    Writes ``sensitivity.json``, ``.csv`` and the table ``sensitivity.md``.

    Args:
        data: Datalist entries of the cases.
        method: The method.
        output_dir: Folder to write to, created if absent.
        image_size: Rows and columns of the network's image.
        pixel_size: Its pixel size at the isocentre, mm.
        settings: What is wrong; the first is the one that the others are compared with.

    Returns:
        Mean scores by title.
    """
    load = LoadHeadCased()
    heads = [load({str(key): value for key, value in entry.items()}) for entry in data]
    means = {}
    rows = []
    for title, wrong in settings.items():
        simulate = Compose(
            [
                SimulateRadiographsd(
                    size=image_size,
                    pixel_size=pixel_size,
                    seed_by_case=True,
                    error=wrong.get("error"),
                ),
                *([ToneCurved(**wrong["tone"])] if "tone" in wrong else []),
                NormaliseRadiographsd(),
            ]
        )
        items: list[Item] = [simulate(head) for head in heads]
        scores = score_method(method, items, surfaces=False)
        means[title] = mean_scores(scores)
        rows += [{"setting": title, **row} for row in scores]
    write_scores(Path(output_dir), "sensitivity", rows, {})
    write_sensitivity(Path(output_dir) / "sensitivity.md", means)
    return means
