"""What happens when the geometry or the tone of the radiographs is not what the network is told."""

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


def sensitivity(
    data: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Mapping[str, Mapping[str, float]]],
    method: Method,
    output_dir: str | Path,
    image_size: int = 256,
    pixel_size: float = 1.2,
) -> dict[str, dict[str, float]]:
    """Score a method on protocol V1 with one thing wrong at a time.

    Writes ``sensitivity.json``, ``.csv`` and the table ``sensitivity.md``.

    Args:
        data: Datalist entries of the cases.
        settings: By title what is wrong: ``error``
            (:class:`~spider_bundle.simulation.GeometryError`) and ``tone``
            (:class:`~spider_bundle.simulation.ToneCurved`), each by its arguments.
        method: The method.
        output_dir: Folder to write to, created if absent.
        image_size: Rows and columns of the network's image.
        pixel_size: Its pixel size at the isocentre, mm.

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
