"""What is compared: anything that turns a case's radiographs into a CT and labels.

A method is called with an evaluation item and returns a :class:`Reconstruction` on the grid of the
item's reference. Items are dictionaries as the validation transforms leave them: ``case``,
``image`` (MetaTensor ``(2, H, W)`` with ``projection`` in its meta), ``line_integrals``
``(2, H, W)``, ``ct``, ``structure``, ``measured`` ``(X, Y, Z)``, ``affine`` (index to case LPS mm)
and ``pose`` (case LPS mm to world LPS mm).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from spider_bundle.geometry import Grid
from spider_bundle.intensity import denormalise_hu
from spider_bundle.precision import autocast

_CHUNK = 65536

Item = Mapping[str, Any]


@dataclass(frozen=True)
class Reconstruction:
    """A CT with labels on the grid of a case.

    Attributes:
        hu: HU, float32, shape ``(X, Y, Z)``.
        labels: :class:`~spider_bundle.labels.Label` values, uint8, shape ``(X, Y, Z)``.
    """

    hu: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]


Method = Callable[[Item], Reconstruction]


def world_points(item: Item) -> torch.Tensor:
    """Where the voxels of a case are in the world of its radiographs.

    Returns:
        LPS mm, float64, shape ``(X, Y, Z, 3)``.
    """
    world = torch.as_tensor(item["pose"]).double() @ torch.as_tensor(item["affine"]).double()
    axes = [torch.arange(n, dtype=torch.float64) for n in item["ct"].shape]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return index @ world[:3, :3].T + world[:3, 3]


def sample_volume(
    volume: npt.NDArray[np.floating], grid: Grid, points: torch.Tensor, outside: float
) -> npt.NDArray[np.float32]:
    """Trilinear values of a volume at points.

    Args:
        volume: Shape ``(X, Y, Z)``, or ``(C, X, Y, Z)``.
        grid: Where its voxels are.
        points: LPS mm, shape ``(A, B, C, 3)``.
        outside: Value outside the volume.

    Returns:
        Shape ``(A, B, C)``, or ``(C, A, B, C)``.
    """
    channels = torch.from_numpy(np.asarray(volume, dtype=np.float32))
    single = channels.ndim == 3
    channels = channels[None] if single else channels
    to_index = torch.linalg.inv(torch.from_numpy(grid.affine))
    index = points @ to_index[:3, :3].T + to_index[:3, 3]
    unit = 2 * index / (torch.tensor(grid.shape) - 1) - 1
    sampled = F.grid_sample(
        channels[None] - outside, unit.flip(-1)[None].float(), align_corners=True
    )[0]
    values: npt.NDArray[np.float32] = (sampled + outside).numpy()
    return values[0] if single else values


class PointNetwork(Protocol):
    """A network that decodes points from the feature maps of radiographs."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Feature maps of radiographs ``(B, 2, H, W)``."""

    def decode(
        self, maps: torch.Tensor, projection: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        """Class logits and intensity ``(B, P, K + 1)`` at ``points`` ``(B, P, 3)``, LPS mm."""


class NetworkMethod:
    """A network with ``encode`` and ``decode``, asked for every voxel of the case.

    Args:
        network: The network; it is switched to evaluation mode.
        device: Where it runs.
        precision: See :func:`spider_bundle.precision.autocast`.
        chunk: Points decoded at a time.
    """

    def __init__(
        self,
        network: PointNetwork,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        chunk: int = _CHUNK,
    ) -> None:
        self.chunk = chunk
        self.network = network
        self.device = torch.device(device)
        self.precision = precision

    def __call__(self, item: Item) -> Reconstruction:
        """Reconstruct the case from its image."""
        image = item["image"]
        projection = torch.as_tensor(image.meta["projection"])[None].to(self.device)
        points = world_points(item).float()
        shape = points.shape[:3]
        self.network.eval()
        out = []
        with torch.no_grad(), autocast(self.device, self.precision):
            maps = self.network.encode(image.as_tensor()[None].to(self.device))
            for part in points.reshape(-1, 3).split(self.chunk):
                out.append(self.network.decode(maps, projection, part[None].to(self.device))[0])
        prediction = torch.cat(out).float().cpu()
        return Reconstruction(
            denormalise_hu(prediction[:, -1]).reshape(shape).numpy(),
            prediction[:, :-1].argmax(dim=1).reshape(shape).to(torch.uint8).numpy(),
        )
