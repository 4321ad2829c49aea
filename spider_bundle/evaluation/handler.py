"""Ignite handler that scores every case of an evaluator's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from spider_bundle.evaluation.metrics import score_case
from spider_bundle.evaluation.tables import mean_scores, write_scores
from spider_bundle.intensity import denormalise_hu


class CaseScores:
    """Score each case of a run; their means become the engine's metrics.

    The evaluator decollates (MONAI's default); its batches carry ``case``, ``ct``, ``structure``
    and ``measured`` beside the image, and its output carries ``pred`` ``(K + 1, X, Y, Z)`` (logits,
    normalised intensity).

    Args:
        output_dir: Folder for ``scores.json`` and ``scores.csv``; nothing is written if not given.
        key_metric: Mean score that model selection looks at.
    """

    def __init__(self, output_dir: str | Path | None = None, key_metric: str = "psnr_db") -> None:
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.key_metric = key_metric
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Listen to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, _: Engine) -> None:
        self.rows = []

    def _score(self, engine: Engine) -> None:
        # MONAI evaluators decollate batch and output into lists of cases
        for case, output in zip(engine.state.batch, engine.state.output, strict=True):
            prediction = torch.as_tensor(output["pred"]).float().cpu()
            scores = score_case(
                denormalise_hu(prediction[-1]).numpy(),
                prediction[:-1].argmax(dim=0).numpy(),
                case["ct"].cpu().numpy(),
                case["structure"].cpu().numpy(),
                case["measured"].cpu().numpy(),
                np.linalg.norm(case["affine"][:3, :3].cpu().numpy(), axis=0).tolist(),
            )
            self.rows.append({"case": case["case"], **scores})

    def _finish(self, engine: Engine) -> None:
        means = mean_scores(self.rows)
        engine.state.metrics.update(means)
        engine.state.metric_details["cases"] = self.rows
        if self.key_metric in means and hasattr(engine.state, "key_metric_name"):
            engine.state.key_metric_name = self.key_metric
            if means[self.key_metric] > engine.state.best_metric:
                engine.state.best_metric = means[self.key_metric]
                engine.state.best_metric_epoch = engine.state.epoch
        if self.output_dir is not None:
            write_scores(self.output_dir, "scores", self.rows, means)
