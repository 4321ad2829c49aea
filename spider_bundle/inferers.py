"""MONAI inferers: points for training, whole volumes in bounded memory for everything else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from torch import nn

from spider_bundle.coarse_to_fine import coarse_to_fine, halvings, padded
from spider_bundle.dicom.dataset import REFUSED, StudyDataset
from spider_bundle.errors import Code, SpiderError, line, root_cause
from spider_bundle.geometry import Grid
from spider_bundle.intensity import denormalise_hu
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
        The inferer's output for the study, on the device.
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
        dataset: Where refusals are noted that came up when pixels were read, or after the network.
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
        done: list[tuple[Any, Any]] = []
        for item in batch:
            if REFUSED in item:
                self._refuse(item[REFUSED])
                continue
            with engine.mode(engine.network):
                pred = predict(item, engine.network, engine.inferer, engine.state.device)
            engine.state.batch, engine.state.output = [item], [{"pred": pred}]
            try:
                engine.fire_event(IterationEvents.FORWARD_COMPLETED)
                engine.fire_event(IterationEvents.MODEL_COMPLETED)  # the postprocessing
            except Exception as error:
                cause = root_cause(error)
                if not isinstance(cause, SpiderError):
                    raise
                facts = [found.facts() for found in cause.findings]
                key = item["image"].meta["study_key"]
                self._refuse({"study_key": key, "findings": facts})
            else:
                done += zip(engine.state.batch, engine.state.output, strict=True)
        engine.state.batch = [item for item, _ in done]
        engine.state.output = [output for _, output in done]
        return list(engine.state.output)

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
    ``original_affine`` ``(B, 4, 4)`` (RAS), which must be the same for the whole batch, in a frame
    in which the isocentre of the views lies at ``isocentre`` ``(B, 3)`` (LPS mm; 0 if absent).

    Args:
        spacing: Voxel size in mm of the grid where the meta names none.
        shape: Its number of voxels; see :meth:`~.grid.Grid.centred` if not given.
        chunk: Points decoded at a time; bounds the memory.
        precision: See :func:`spider_bundle.precision.autocast`.
        exact: Decode every voxel and return logits. Otherwise grids of 2 mm and finer are decoded
            coarse to fine (:mod:`spider_bundle.coarse_to_fine`), straight to HU and labels.
    """

    def __init__(
        self,
        spacing: float | Sequence[float] = 2.0,
        shape: int | Sequence[int] | None = None,
        chunk: int = 131072,
        precision: str = "auto",
        exact: bool = True,
    ) -> None:
        super().__init__()
        self.grid = Grid.centred(spacing, shape)
        self.chunk = int(chunk)
        self.precision = precision
        self.exact = exact

    def __call__(
        self, inputs: torch.Tensor, network: SPIDER, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Return logits and intensity, ``(B, K + 1, X, Y, Z)``; see :func:`ct_and_labels`.

        Not ``exact``, on grids of 2 mm and finer: HU and labels, int16, ``(B, 2, X, Y, Z)``.

        Raises:
            ValueError: The cases of the batch do not share one axis-aligned grid, or the network's
                output is not finite.
        """
        meta = getattr(inputs, "meta", {})
        image = torch.Tensor.as_subclass(inputs, torch.Tensor)
        projection = meta.get("projection")
        if projection is None:
            projection = network.nominal_projection
        projection = torch.as_tensor(projection)
        if projection.ndim == 3:
            projection = projection[None].expand(image.shape[0], -1, -1, -1)
        grid = self._grid(meta)
        count = 0 if self.exact or min(grid.shape) == 1 else halvings(grid.spacing)
        with torch.no_grad(), autocast(image.device, self.precision):
            maps = network.encode(image)
            if count == 0:
                x, y, z = (torch.from_numpy(axis).float() for axis in grid.axes())
                return network.decode_grid(maps, projection, x, y, z, self.chunk)
            cases = zip(maps.split(1), projection.split(1), strict=True)
            return torch.stack(
                [self._coarse_to_fine(network, grid, count, *case) for case in cases]
            )

    def _coarse_to_fine(
        self, network: SPIDER, grid: Grid, count: int, maps: torch.Tensor, projection: torch.Tensor
    ) -> torch.Tensor:
        """HU and labels of one case, int16, ``(2, X, Y, Z)``."""
        x, y, z = (padded(n, count) for n in grid.shape)
        axes = (torch.from_numpy(axis).float() for axis in replace(grid, shape=(x, y, z)).axes())
        voxels = network.voxel_decoder(maps, projection, *axes)
        chunk = min(self.chunk, network.cpu_chunk) if maps.device.type == "cpu" else self.chunk

        def decode(*index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            parts = zip(*(axis.split(chunk) for axis in index), strict=True)
            hu, labels = zip(*(ct_and_labels(voxels(*part).T) for part in parts), strict=True)
            return torch.cat(hu, dim=1)[0], torch.cat(labels, dim=1)[0]

        hu, labels = coarse_to_fine(decode, grid.shape, count, maps.device)
        return torch.stack([hu, labels.to(torch.int16)])

    def _grid(self, meta: dict[str, Any]) -> Grid:
        if "spatial_shape" not in meta or "original_affine" not in meta:
            return self.grid
        shape = np.asarray(meta["spatial_shape"]).reshape(-1, 3)
        affine = np.array(meta["original_affine"], dtype=np.float64).reshape(-1, 4, 4)
        isocentre = np.asarray(meta.get("isocentre", np.zeros(3)), dtype=np.float64).reshape(-1, 3)
        affine[:, :2, 3] += isocentre[:, :2]  # RAS
        affine[:, 2, 3] -= isocentre[:, 2]
        if not (np.all(shape == shape[0]) and np.allclose(affine, affine[0])):
            raise ValueError("all cases of a batch must share one output grid")
        return Grid.from_ras(affine[0], shape[0])


def ct_and_labels(prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the output of a :class:`VolumeInferer` into a CT in HU and a label map.

    Args:
        prediction: Class logits and normalised intensity, shape ``(K + 1, ...)``; or HU and labels,
            int16, shape ``(2, ...)``.

    Returns:
        HU, int16, and labels, uint8, both ``(1, ...)``.

    Raises:
        ValueError: The prediction holds NaN or infinity, which no integer can show.
    """
    if prediction.dtype is torch.int16:
        return prediction[:1], prediction[1:].to(torch.uint8)
    # a sum is finite only if all values are, and takes no memory
    if not torch.isfinite(prediction.sum()):
        raise ValueError("the network's output is not finite")
    hu = denormalise_hu(prediction[-1:].float()).round().to(torch.int16)
    return hu, _most_likely(prediction[:-1])[None]


def _most_likely(logits: torch.Tensor) -> torch.Tensor:
    """Return the index of the largest of the first dimension, the first one of equals, as uint8.

    On a CPU ``argmax`` across the slow dimension takes several times as long as comparing.
    """
    best = logits[0].clone()
    labels = torch.zeros_like(best, dtype=torch.uint8)
    for number, logit in enumerate(logits[1:], start=1):
        labels.masked_fill_(logit > best, number)
        torch.maximum(best, logit, out=best)
    return labels
