"""Controls: how much of a result comes from the radiographs and not from the learned atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from spider_bundle.evaluation.metrics import score_case
from spider_bundle.evaluation.tables import mean_scores, write_scores
from spider_bundle.inferers import VolumeInferer
from spider_bundle.intensity import denormalise_hu
from spider_bundle.networks import SPIDER

CONTROLS = ("shuffled", "lateral flipped", "frontal flipped")

_GRID_KEYS = ("spatial_shape", "original_affine")


def score_control(
    control: str,
    cases: Sequence[Mapping[str, Any]],
    network: SPIDER,
    inferer: VolumeInferer,
    device: torch.device | str,
    output_dir: str | Path | None = None,
) -> dict[str, float]:
    """Score reconstructions from radiographs that do not belong to the case as they are.

    Args:
        control: ``shuffled`` gives every case the radiographs and geometry of the next one;
            ``lateral flipped`` and ``frontal flipped`` mirror the columns of one radiograph and
            leave its matrix.
        cases: Validation items with ``case``, ``image``, ``ct``, ``structure``, ``measured`` and
            ``affine``.
        network: The network, in evaluation mode after this.
        inferer: Reconstructs on the grid in the image's meta.
        device: Where the network is.
        output_dir: Folder for ``<control>.json`` and ``.csv``, if wanted.

    Returns:
        Mean of each score.

    Raises:
        ValueError: Unknown control, or fewer than two cases to shuffle.
    """
    if control not in CONTROLS:
        raise ValueError(f"control must be one of {CONTROLS}, got {control!r}")
    if control == "shuffled" and len(cases) < 2:
        raise ValueError("shuffling needs at least two cases")
    network.eval()
    rows = []
    for index, case in enumerate(cases):
        source = cases[(index + 1) % len(cases)] if control == "shuffled" else case
        image = source["image"]
        shown = image.as_tensor().clone()
        if control != "shuffled":
            view = 1 if control == "lateral flipped" else 0
            shown[view] = shown[view].flip(-1)
        # the reconstruction is compared with this case, so it is made on this case's grid
        grid = {k: case["image"].meta[k] for k in _GRID_KEYS if k in case["image"].meta}
        batch = MetaTensor(shown[None].to(device), meta={**image.meta, **grid})
        prediction = inferer(batch, network)[0].cpu()
        scores = score_case(
            denormalise_hu(prediction[-1]).numpy(),
            prediction[:-1].argmax(dim=0).numpy(),
            case["ct"].numpy(),
            case["structure"].numpy(),
            case["measured"].numpy(),
            torch.linalg.vector_norm(case["affine"][:3, :3], dim=0).tolist(),
        )
        rows.append({"case": case["case"], **scores})
    means = mean_scores(rows)
    if output_dir is not None:
        write_scores(Path(output_dir), control.replace(" ", "_"), rows, means)
    return means
