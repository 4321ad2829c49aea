"""ONNX exports of the network, with the geometry as inputs.

A model that is traced with one image alone would have the nominal geometry built in. Here the
projection matrices and the points to decode are inputs of the graph, so one file serves every
apparatus and every grid. TorchScript has them too: ``python -m monai.bundle ckpt_export`` keeps the
signature of :meth:`~spider_bundle.networks.spider.SPIDER.forward`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import nn

from spider_bundle import __version__
from spider_bundle.api import Reconstructor
from spider_bundle.files import atomic_path
from spider_bundle.intensity import HU_WINDOW
from spider_bundle.labels import LABEL_NAMES
from spider_bundle.logs import silenced
from spider_bundle.networks import SPIDER
from spider_bundle.outputs.optional_dependencies import require_extra
from spider_bundle.outputs.report import INTENDED_USE
from spider_bundle.projection_matrix import both_cameras as both_cameras

TOLERANCE: float = 1e-3
"""Largest absolute difference from PyTorch in float32 on CPUs: logits, and intensity where 1 is the
width of the HU window. Feature maps are held to it as well."""


class Part(StrEnum):
    """What a file holds.

    ``network`` maps ``image``, ``projection`` and ``points`` to ``pred``. ``encoder`` maps
    ``image`` to ``maps``, and ``decoder`` maps ``maps``, ``projection`` and ``points`` to ``pred``:
    with the two of them a head is encoded once and decoded in as many portions as memory asks for.
    """

    NETWORK = "network"
    ENCODER = "encoder"
    DECODER = "decoder"


class _Encoder(nn.Module):
    """The network's encoder as a module; export follows ``forward`` only."""

    def __init__(self, network: SPIDER) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.network.encode(image)
        return maps


class _Decoder(nn.Module):
    """The network's decoder as a module."""

    def __init__(self, network: SPIDER) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, maps: torch.Tensor, projection: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        values: torch.Tensor = self.network.decode(maps, projection, points)
        return values


class _Network(nn.Module):
    """The whole network as a module beside its parts."""

    def __init__(self, network: SPIDER) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: torch.Tensor, projection: torch.Tensor, points: torch.Tensor
    ) -> torch.Tensor:
        values: torch.Tensor = self.network(image, projection, points)
        return values


@dataclass(frozen=True)
class _Graph:
    """A part with its signature.

    Attributes:
        module: What is exported.
        inputs: Example inputs by name.
        output: Name of the output.
    """

    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    output: str


def export_onnx(
    network: SPIDER,
    path: str | os.PathLike[str],
    part: Part = Part.NETWORK,
    *,
    image_size: int = 256,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network, or a part of it, as an ONNX file.

    Inputs and outputs are float32: ``image`` ``(B, 2, H, W)``, ``projection`` ``(B, 2, 4, 4)`` (LPS
    mm to pixels of ``image``), ``points`` ``(B, P, 3)`` (LPS mm), ``pred`` ``(B, P, K + 1)`` (label
    logits, then the normalised intensity). B and P are free, H and W are not.

    Args:
        network: The network with its weights; it is put into evaluation mode.
        path: File to write, atomically.
        part: What to write.
        image_size: H and W.
        metadata: Further entries of the file's metadata.

    Raises:
        SpiderError: R03, onnx or onnxscript is not installed.
        OSError: The file cannot be written.
    """
    require_extra("onnx")
    network.eval()
    graph = _graph(network, part, image_size)
    batch, count = torch.export.Dim("batch"), torch.export.Dim("points")
    shapes = {n: {0: batch, 1: count} if n == "points" else {0: batch} for n in graph.inputs}
    noisy = ("torch.onnx", "onnxscript", "onnx_ir")
    with torch.no_grad(), ExitStack() as quiet:
        for name in noisy:
            quiet.enter_context(silenced(name, logging.ERROR))
        program = torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=[graph.output],
            dynamic_shapes=tuple(shapes.values()),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # of the exporter that is based on torch.export
    program.model.metadata_props.update({**_description(part), **(metadata or {})})
    with atomic_path(path) as temporary:
        program.save(str(temporary), external_data=False)


def export_bundle(
    path: str | os.PathLike[str],
    part: Part = Part.NETWORK,
    *,
    weights: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> None:
    """Write the bundle's network with its weights as an ONNX file.

    Args:
        path: File to write, atomically.
        part: What to write.
        weights: Weights file instead of the bundle's.
        root: See :func:`spider_bundle.bundle.bundle_root`.

    Raises:
        FileNotFoundError: There is no bundle, or no such weights file.
        SpiderError: R03, onnx or onnxscript is not installed; M01 to M03, the weights cannot be
            used.
        OSError: The file cannot be written.
    """
    loaded = Reconstructor(device="cpu", weights=weights, root=root)
    export_onnx(
        loaded.network,
        Path(path),
        part,
        image_size=loaded.image_size,
        metadata={"weights_sha256": loaded.weights_sha256},
    )


def _graph(network: SPIDER, part: Part, image_size: int) -> _Graph:
    # two cases and more than one point, so that no dimension looks constant
    weight = next(network.parameters())
    image = torch.zeros(2, 2, image_size, image_size, device=weight.device)
    projection = network.nominal_projection.to(weight)[None].repeat(2, 1, 1, 1)
    points = torch.zeros(2, 16, 3, device=weight.device)
    if part is Part.NETWORK:
        inputs = {"image": image, "projection": projection, "points": points}
        return _Graph(_Network(network), inputs, "pred")
    if part is Part.ENCODER:
        return _Graph(_Encoder(network), {"image": image}, "maps")
    with torch.no_grad():
        maps = network.encode(image)
    inputs = {"maps": maps, "projection": projection, "points": points}
    return _Graph(_Decoder(network), inputs, "pred")


def _description(part: Part) -> dict[str, str]:
    """Return what a file says about itself: meaning of channels, version, intended use."""
    return {
        "part": part.value,
        "spider_bundle": __version__,
        "labels": json.dumps(LABEL_NAMES),
        "hu_window": json.dumps(HU_WINDOW),
        "intended_use": INTENDED_USE,
    }
