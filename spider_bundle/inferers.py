"""MONAI inferers: points for training, whole volumes in bounded memory for everything else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from torch import nn

from spider_bundle.dicom.dataset import REFUSED, StudyDataset
from spider_bundle.errors import Code, line
from spider_bundle.geometry import Grid
from spider_bundle.networks import SPIDER
from spider_bundle.precision import autocast

_log = logging.getLogger(__name__)


class PointInferer(Inferer):
    """Decode given points, in reduced precision where that pays.

    Args:
        precision: See :func:`spider_bundle.precision.autocast`.
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        self.precision = precision

    def __call__(
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        projection: torch.Tensor,
        points: torch.Tensor,
        **_: Any,
    ) -> torch.Tensor:
        """Return the network's output ``(B, P, K + 1)`` at ``points`` ``(B, P, 3)`` (LPS mm)."""
        with autocast(inputs.device, self.precision):
            image = torch.Tensor.as_subclass(inputs, torch.Tensor)
            return network(image, projection, points)


def predict(
    item: Mapping[Hashable, Any],
    network: SPIDER,
    inferer: Inferer,
    device: str | torch.device,
) -> torch.Tensor:
    """Run the network on one study; ``network_seconds`` of the image's meta tells how long it took.

    Args:
        item: Its ``image`` is a MetaTensor ``(2, H, W)``.
        network: On ``device``.
        inferer: E.g. a :class:`VolumeInferer`.
        device: Device of the network.

    Returns:
        Logits and intensity, shape ``(K + 1, X, Y, Z)``, on the device.
    """
    image = item["image"]
    inputs = MetaTensor(image.as_tensor()[None].to(device), meta=image.meta)
    start = time.perf_counter()
    prediction: torch.Tensor = inferer(inputs, network)[0]
    if prediction.is_cuda:
        torch.cuda.synchronize(prediction.device)
    image.meta["network_seconds"] = time.perf_counter() - start
    return prediction


class StudyIteration:
    """Run the network on studies one by one; ``iteration_update`` of an evaluator.

    The data loader hands items on without collation, which would refuse the provenance in the
    image's meta, and the evaluator does not decollate.

    Args:
        dataset: Where refusals are noted that came up when pixels were read.
        write_refusals: Writes ``refused``, all of them, again after each.
    """

    def __init__(
        self,
        dataset: StudyDataset | None = None,
        write_refusals: Callable[..., object] | None = None,
    ) -> None:
        self.dataset = dataset
        self.write_refusals = write_refusals

    def __call__(
        self, engine: SupervisedEvaluator, batch: Sequence[Mapping[Hashable, Any]]
    ) -> list[dict[str, Any]]:
        """Return ``pred`` ``(K + 1, X, Y, Z)`` for each item that was not refused.

        Args:
            engine: Its network, inferer and device are used; its batch keeps those items only.
            batch: Items, see :func:`predict`.
        """
        items = [item for item in batch if REFUSED not in item]
        for item in batch:
            if REFUSED in item:
                self._refuse(item[REFUSED])
        engine.state.batch, engine.state.output = items, []
        if not items:
            return []
        with engine.mode(engine.network):
            engine.state.output = [
                {"pred": predict(item, engine.network, engine.inferer, engine.state.device)}
                for item in items
            ]
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        output: list[dict[str, Any]] = engine.state.output
        return output

    def _refuse(self, refused: Mapping[str, Any]) -> None:
        if self.dataset is not None and self.write_refusals is not None:
            self.dataset.refuse(refused)
            try:
                self.write_refusals(refused=self.dataset.refused)
            except OSError as error:  # its text names the file; the run writes them once more
                why = error.strerror or type(error).__name__
                text = f"the list of refusals could not be written: {why}"
                _log.error("%s", line(Code.WRITE_FAILED, text))


class VolumeInferer(Inferer):
    """Reconstruct whole grids from the geometry in the image's meta.

    The meta of the input (a MetaTensor of shape ``(B, 2, H, W)``) carries ``projection``
    ``(B, 2, 4, 4)``, and optionally the output grid as ``spatial_shape`` ``(B, 3)`` and
    ``original_affine`` ``(B, 4, 4)`` (RAS), which must be the same for the whole batch.

    Args:
        spacing: Voxel size in mm of the grid where the meta names none.
        shape: Its number of voxels.
        chunk: Points decoded at a time; bounds the memory.
        precision: See :func:`spider_bundle.precision.autocast`.
    """

    def __init__(
        self,
        spacing: float | Sequence[float] = 2.0,
        shape: int | Sequence[int] = 128,
        chunk: int = 131072,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.grid = Grid.centred(spacing, shape)
        self.chunk = int(chunk)
        self.precision = precision

    def __call__(
        self, inputs: torch.Tensor, network: SPIDER, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return logits and intensity, ``(B, K + 1, X, Y, Z)``.

        Raises:
            ValueError: The cases of the batch do not share one axis-aligned grid.
        """
        meta = getattr(inputs, "meta", {})
        image = torch.Tensor.as_subclass(inputs, torch.Tensor)
        projection = meta.get("projection")
        if projection is None:
            projection = network.nominal_projection
        projection = torch.as_tensor(projection)
        if projection.ndim == 3:
            projection = projection[None].expand(image.shape[0], -1, -1, -1)
        x, y, z = (torch.from_numpy(a).float() for a in self._grid(meta).axes())
        with torch.no_grad(), autocast(image.device, self.precision):
            maps = network.encode(image)
            return network.decode_grid(maps, projection, x, y, z, self.chunk)

    def _grid(self, meta: dict[str, Any]) -> Grid:
        if "spatial_shape" not in meta or "original_affine" not in meta:
            return self.grid
        shape = np.asarray(meta["spatial_shape"]).reshape(-1, 3)
        affine = np.asarray(meta["original_affine"], dtype=np.float64).reshape(-1, 4, 4)
        if not (np.all(shape == shape[0]) and np.allclose(affine, affine[0])):
            raise ValueError("all cases of a batch must share one output grid")
        return Grid.from_ras(affine[0], shape[0])
