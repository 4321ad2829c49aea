"""What TensorBoard and MLflow show: terms of the loss, slices of validation cases.

TensorBoard is optional (extra ``train``) and imported only where a writer is opened.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from PIL import Image, ImageDraw
from torch.nn import functional as F

from spider_bundle.geometry import Grid
from spider_bundle.intensity import denormalise_hu
from spider_bundle.outputs.preview import PLANES, render_plane
from spider_bundle.training.losses import JointLoss
from spider_bundle.training.processes import process_rank

_log = logging.getLogger(__name__)

Picture = npt.NDArray[np.uint8]


def open_summary(folder: str | Path) -> Any | None:
    """Open a TensorBoard writer of the folder.

    Args:
        folder: Where the event files go.

    Returns:
        A ``torch.utils.tensorboard.SummaryWriter``, or None where TensorBoard is not installed
        (which the log says) or where another process of the training writes.
    """
    if process_rank() > 0:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.warning("TensorBoard is not installed (extra train): no curves and images are kept")
        return None
    return SummaryWriter(str(folder))


class TrainingCurves:
    """Loss, its terms and the learning rate, for MONAI's handlers to take from a trainer's output.

    The trainer decollates (MONAI's default).

    Args:
        loss: The loss that is trained with.
        optimizer: Tells the learning rate.
    """

    def __init__(self, loss: JointLoss, optimizer: torch.optim.Optimizer) -> None:
        self.loss = loss
        self.optimizer = optimizer

    def __call__(self, output: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """Scalars by the names of their curves; terms are given before weighting."""
        prediction, target = (torch.stack([case[k] for case in output]) for k in ("pred", "label"))
        with torch.no_grad():
            terms = self.loss.terms(prediction, target)
        curves = {"total": output[0]["loss"], **terms}
        rate = self.optimizer.param_groups[0]["lr"]
        return {
            **{f"loss/{name}": float(value) for name, value in curves.items()},
            "learning_rate": float(rate),
        }


class TrainingLog:
    """Log what a training starts from, then one line an epoch: losses, scores, time left.

    The best score is kept in checkpoints.

    Args:
        scalars: Loss and terms from the trainer's output.
        validator: The evaluator, whose metrics are the scores.
        start: What the first weights are.
        shown: Scores to show; the best of the first one is told.
    """

    def __init__(
        self,
        scalars: TrainingCurves,
        validator: Any,
        start: str = "random weights",
        shown: Sequence[str] = ("psnr_db", "dice_bone"),
    ) -> None:
        self.scalars = scalars
        self.validator = validator
        self.start = start
        self.shown = shown
        self.best: dict[str, float] = {}
        self._since = self._began = 0.0
        self._sums: dict[str, float] = {}
        self._ended = 0

    def state_dict(self) -> dict[str, float]:
        """Return the best score and its epoch."""
        return dict(self.best)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take the best score and its epoch from a checkpoint."""
        self.best = dict(state)

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer, after its validation."""
        if process_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)

    def _begin(self, engine: Engine) -> None:
        self._began = time.monotonic()
        cases = [len(e.data_loader.dataset) for e in (engine, self.validator)]
        _log.info(
            "%d training cases, %d validation cases; %d epochs of %s steps from %s",
            *cases,
            engine.state.max_epochs,
            engine.state.epoch_length,
            self.start,
        )

    def _start(self, _: Engine) -> None:
        self._since = time.monotonic()
        self._sums = {}

    def _add(self, engine: Engine) -> None:
        for name, value in self.scalars(engine.state.output).items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _tell(self, engine: Engine) -> None:
        epoch, epochs = engine.state.epoch, engine.state.max_epochs
        self._ended += 1
        means = {n: s / engine.state.epoch_length for n, s in self._sums.items()}
        total = means.pop("loss/total")
        terms = ", ".join(
            f"{n.removeprefix('loss/')} {v:.4f}" for n, v in means.items() if n.startswith("loss/")
        )
        left = (time.monotonic() - self._began) / self._ended * (epochs - epoch)
        _log.info(
            "epoch %d/%d loss %.4f (%s)%s; %.0f s, %s left",
            *(epoch, epochs, total, terms, self._scores(epoch)),
            *(time.monotonic() - self._since, timedelta(seconds=round(left))),
        )

    def _scores(self, epoch: int) -> str:
        """Return the scores, if the epoch was validated."""
        state = self.validator.state
        if state.epoch != epoch:
            return ""
        scores = {name: state.metrics[name] for name in self.shown if name in state.metrics}
        key = self.shown[0]
        if scores.get(key, -math.inf) > self.best.get("score", -math.inf):
            self.best = {"score": scores[key], "epoch": epoch}
        text = "".join(f" {name} {value:.3f}" for name, value in scores.items())
        best = f", best {self.best['score']:.3f} at epoch {self.best['epoch']}" if self.best else ""
        return text + best


def write_grouped(engine: Engine, writer: Any) -> None:
    """Write an evaluator's metrics to TensorBoard, grouped by kind: ``dice/bone``, ``hd95/bone``.

    Args:
        engine: The evaluator.
        writer: Writer from :func:`open_summary`.
    """
    for name, value in engine.state.metrics.items():
        kind, _, structure = name.partition("_")
        is_surface = kind in ("dice", "nsd", "hd95", "assd")
        tag = f"{kind}/{structure.removesuffix('_mm')}" if is_surface else f"intensity/{name}"
        writer.add_scalar(tag, value, engine.state.epoch)


class SliceImages:
    """Write a picture of the first validation cases at every validation.

    The batches and outputs of the evaluator are those that
    :class:`~spider_bundle.evaluation.handler.CaseScores` describes.

    Args:
        summary_writer: Writer from :func:`open_summary`.
        cases: Number of cases to show.
    """

    def __init__(self, summary_writer: Any, cases: int = 2) -> None:
        self.writer = summary_writer
        self.cases = cases
        self.shown = 0

    def attach(self, engine: Engine) -> None:
        """Listen to an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _start(self, _: Engine) -> None:
        self.shown = 0

    def _write(self, engine: Engine) -> None:
        for case, output in zip(engine.state.batch, engine.state.output, strict=True):
            if self.shown == self.cases:
                return
            self.shown += 1
            prediction = torch.as_tensor(output["pred"]).float().cpu()
            picture = slice_picture(
                case["image"].cpu(),
                [case["ct"].cpu().numpy(), denormalise_hu(prediction[-1]).numpy()],
                [case["structure"].cpu().numpy(), prediction[:-1].argmax(dim=0).numpy()],
                Grid(case["ct"].shape, case["affine"].cpu().numpy()),
            )
            # by number: the log of a training names no patient
            tag = f"validation/case_{self.shown}"
            captioned = Image.fromarray(picture)
            for row, title in enumerate(("reference", "reconstruction")):
                place = (4, row * captioned.height // 2 + 4)
                ImageDraw.Draw(captioned).text(place, title, fill="yellow", font_size=24)
            self.writer.add_image(tag, np.asarray(captioned), engine.state.epoch, dataformats="HWC")
        self.writer.flush()


def slice_picture(
    image: torch.Tensor,
    hu: Sequence[npt.NDArray[Any]],
    labels: Sequence[npt.NDArray[Any]],
    grid: Grid,
) -> Picture:
    """Draw the reference above the reconstruction: three planes plain, then with labels.

    The leftmost column holds the radiographs, the frontal one above.

    Args:
        image: Network images, shape ``(2, H, W)``.
        hu: Reference and reconstruction in HU, each of shape ``(X, Y, Z)``.
        labels: Reference labels and labels, of the same shape.
        grid: Grid of all volumes (LPS mm).

    Returns:
        RGB, shape ``(2 S, 7 S, 3)`` for square panels of S pixels.
    """
    rows = []
    for radiograph, volume, label in zip(image, hu, labels, strict=True):
        planes = [render_plane(plane, volume, label, grid) for plane in PLANES]
        panels = [plain for plain, _, _ in planes] + [overlaid for _, overlaid, _ in planes]
        size = panels[0].shape[:2]
        rows.append(np.concatenate([_grey(radiograph, size), *panels], axis=1))
    return (255 * np.concatenate(rows).clip(0, 1) + 0.5).astype(np.uint8)


def _grey(radiograph: torch.Tensor, size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Radiograph ``(H, W)`` as a panel, 0 to its maximum from black to white."""
    plain = torch.Tensor.as_subclass(radiograph, torch.Tensor).float()
    resized = F.interpolate(plain[None, None], list(size), mode="bilinear", align_corners=False)
    unit = resized[0, 0] / resized.max().clamp_min(1e-6)
    panel: npt.NDArray[np.float32] = unit[..., None].expand(-1, -1, 3).numpy()
    return panel
