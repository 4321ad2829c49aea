"""What TensorBoard and MLflow show: terms of the loss, slices of validation cases.

TensorBoard is optional (extra ``train``) and imported only where a writer is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
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
        curves = {"loss": output[0]["loss"], **terms}
        rate = self.optimizer.param_groups[0]["lr"]
        return {
            **{f"train/{name}": float(value) for name, value in curves.items()},
            "train/learning_rate": float(rate),
        }


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
            self.writer.add_image(tag, picture, engine.state.epoch, dataformats="HWC")
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
