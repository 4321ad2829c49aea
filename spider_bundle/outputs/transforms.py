"""MONAI transforms from the network's output to the files of a study."""

from __future__ import annotations

import json
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from spider_bundle.files import file_sha256
from spider_bundle.geometry import Grid
from spider_bundle.intensity import attenuation, denormalise_hu
from spider_bundle.outputs.report import ISOCENTRIC, NO_COMMON_FRAME, RunFacts
from spider_bundle.outputs.study import write_study
from spider_bundle.projection import project_volume


class CTAndLabelsd(Transform):
    """Split the network's output into a CT in HU and a label map.

    ``pred`` ``(K + 1, X, Y, Z)`` becomes the label map, uint8 ``(1, X, Y, Z)``; ``ct`` becomes
    int16 HU of the same shape. Both are MetaTensors with the RAS affine of the output grid.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace ``pred`` and add ``ct``."""
        out = dict(data)
        prediction = torch.as_tensor(out["pred"]).detach()
        affine = torch.as_tensor(out["image"].meta["original_affine"])
        hu = denormalise_hu(prediction[-1:].float()).round().to(torch.int16)
        labels = prediction[:-1].argmax(dim=0, keepdim=True).to(torch.uint8)
        out["pred"] = MetaTensor(labels.cpu(), affine=affine)
        out["ct"] = MetaTensor(hu.cpu(), affine=affine)
        return out


class WriteStudyd(Transform):
    """Write CT, labels, preview and report of each study into ``<output_dir>/<study_key>/``.

    Args:
        output_dir: Folder for the studies.
        weights: Weights file, whose hash goes to the report; none for an untrained network.
        device: Device of the network, for the report.
        pixel_size: Pixel size of the network's image at the isocentre, mm.
        seconds: Object whose ``seconds`` is the time of the last reconstruction (the inferer).
    """

    def __init__(
        self,
        output_dir: str | Path,
        weights: str | Path | None = None,
        device: Any = "cpu",
        pixel_size: float = 1.2,
        seconds: Any = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.weights_sha256 = file_sha256(weights) if weights and Path(weights).exists() else None
        self.device = str(device)
        self.pixel_size = pixel_size
        self.clock = seconds

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the study; ``result`` becomes the names of its files for MONAI Label."""
        out = dict(data)
        start = time.perf_counter()
        meta = out["image"].meta
        loaded = json.loads(meta["report"])
        grid = Grid.from_ras(np.asarray(meta["original_affine"]), out["ct"].shape[1:])
        hu = torch.Tensor.as_subclass(out["ct"], torch.Tensor)[0]
        image = torch.Tensor.as_subclass(out["image"], torch.Tensor).cpu()
        projected = project_volume(
            attenuation(hu.float())[None],
            torch.from_numpy(grid.affine)[None],
            torch.as_tensor(meta["projection"]).cpu()[None],
            (image.shape[-2], image.shape[-1]),
        )[0]
        timings = {"read": loaded["read_s"]}
        if self.clock is not None:
            timings["reconstruct"] = self.clock.seconds
        timings["reproject"] = time.perf_counter() - start
        facts = RunFacts(
            device=self.device,
            weights_sha256=self.weights_sha256,
            views=loaded["views"],
            assumptions=[ISOCENTRIC, NO_COMMON_FRAME]
            if loaded["isocentric_assumed"]
            else [ISOCENTRIC],
            findings=loaded["findings"],
            timings=timings,
        )
        folder = write_study(
            self.output_dir,
            meta["study_key"],
            hu=hu.numpy(),
            labels=torch.Tensor.as_subclass(out["pred"], torch.Tensor)[0].numpy(),
            grid=grid,
            image=image.numpy(),
            reprojection=projected.numpy(),
            facts=facts,
            mask=torch.as_tensor(out["mask"]).cpu().numpy(),
            pixel_size=self.pixel_size,
        )
        out["result"] = {"study": str(folder)}
        return out
