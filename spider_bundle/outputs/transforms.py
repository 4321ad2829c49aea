"""MONAI transforms from the network's output to the files of a study."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from spider_bundle.errors import Code, line
from spider_bundle.files import file_sha256
from spider_bundle.inferers import ct_and_labels
from spider_bundle.outputs.study import StudyError, check_formats, write_study
from spider_bundle.reconstructor import Result

_log = logging.getLogger(__name__)


class CTAndLabelsd(Transform):
    """Split the network's output into a CT in HU and a label map.

    ``pred``, the inferer's output, becomes the label map, uint8 ``(1, X, Y, Z)``; ``ct`` becomes
    int16 HU of the same shape. Both are MetaTensors with the RAS affine of the output grid.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace ``pred`` and add ``ct``.

        Raises:
            ValueError: The prediction holds NaN or infinity.
        """
        affine = torch.as_tensor(data["image"].meta["original_affine"])
        prediction = torch.Tensor.as_subclass(torch.as_tensor(data["pred"]), torch.Tensor)
        hu, labels = (part.cpu() for part in ct_and_labels(prediction.detach()))
        pred, ct = MetaTensor(labels, affine=affine), MetaTensor(hu, affine=affine)
        return {**data, "pred": pred, "ct": ct}


class CollectResultd(Transform):
    """Project the reconstruction back and collect what is written of a study.

    Args:
        weights: Weights file, whose hash goes to the report; none for an untrained network.
        device: Device of the network, for the report.
        pixel_size: Pixel size of the network's image at the isocentre, mm.
        minimum_agreement: See :meth:`~spider_bundle.reconstructor.Result.from_item`.
    """

    def __init__(
        self,
        weights: str | Path | None,
        device: str | torch.device,
        pixel_size: float,
        minimum_agreement: float | None,
    ) -> None:
        self.weights_sha256 = file_sha256(weights) if weights and Path(weights).exists() else None
        self.device = str(device)
        self.pixel_size = pixel_size
        self.minimum_agreement = minimum_agreement

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``reconstruction``, a :class:`~spider_bundle.reconstructor.Result`.

        Raises:
            SpiderError: E32, the reconstruction does not agree with the radiographs.
        """
        result = Result.from_item(
            data,
            device=self.device,
            weights_sha256=self.weights_sha256,
            pixel_size=self.pixel_size,
            minimum_agreement=self.minimum_agreement,
        )
        return {**data, "reconstruction": result}


class WriteStudyd(Transform):
    """Write a study into ``<output_dir>/<study_key>/``.

    Args:
        output_dir: Folder for the studies.
        formats: See :func:`~spider_bundle.outputs.study.write_study`.

    Attributes:
        failed: Why each study that could not be written was not, by study key.
    """

    def __init__(self, output_dir: str | Path, formats: Collection[str]) -> None:
        self.formats = check_formats(formats)  # before the first study, not after it
        self.output_dir = Path(output_dir)
        self.failed: dict[str, str] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the ``reconstruction``; ``result`` names the study's folder under ``study``.

        A study that cannot be written is logged (R01) and has no ``result``; the run continues.

        Raises:
            ValueError: The volumes do not fit the grid.
        """
        result: Result = data["reconstruction"]
        try:
            folder = write_study(self.output_dir, result, self.formats)
        except (StudyError, OSError) as error:
            # the text of an OSError names the file
            why = str(error) if isinstance(error, StudyError) else error.strerror
            why = why or type(error).__name__
            self.failed[result.study_key] = why
            text = line(Code.WRITE_FAILED, f"its result could not be written: {why}")
            _log.error("study %s: %s", result.study_key, text)
            return dict(data)
        return {**data, "result": {"study": str(folder)}}
