"""MONAI transforms from the network's output to the files of a study."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from spider_bundle.files import file_sha256
from spider_bundle.intensity import denormalise_hu
from spider_bundle.outputs.dicom import write_dicom
from spider_bundle.outputs.mesh import write_meshes
from spider_bundle.outputs.optional_dependencies import require_extra
from spider_bundle.outputs.result import StudyResult, study_result
from spider_bundle.outputs.study import StudyError, write_study

_log = logging.getLogger(__name__)


class CTAndLabelsd(Transform):
    """Split the network's output into a CT in HU and a label map.

    ``pred`` ``(K + 1, X, Y, Z)`` becomes the label map, uint8 ``(1, X, Y, Z)``; ``ct`` becomes
    int16 HU of the same shape. Both are MetaTensors with the RAS affine of the output grid.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace ``pred`` and add ``ct``.

        Raises:
            ValueError: The prediction holds NaN or infinity, which no integer can show.
        """
        out = dict(data)
        prediction = torch.as_tensor(out["pred"]).detach()
        # a sum is finite only if all values are, and takes no memory
        if not torch.isfinite(prediction.sum()):
            raise ValueError("the network's output is not finite")
        affine = torch.as_tensor(out["image"].meta["original_affine"])
        hu = denormalise_hu(prediction[-1:].float()).round().to(torch.int16)
        labels = _most_likely(prediction[:-1])[None]
        out["pred"] = MetaTensor(labels.cpu(), affine=affine)
        out["ct"] = MetaTensor(hu.cpu(), affine=affine)
        return out


def _most_likely(logits: torch.Tensor) -> torch.Tensor:
    """Return the number of the largest of the first dimension, the first one if several are: uint8.

    On a CPU ``argmax`` across the slow dimension takes several times as long as comparing.
    """
    best = logits[0].clone()
    labels = torch.zeros_like(best, dtype=torch.uint8)
    for number, logit in enumerate(logits[1:], start=1):
        labels.masked_fill_(logit > best, number)
        torch.maximum(best, logit, out=best)
    return labels


class WriteStudyd(Transform):
    """Write CT, labels, preview, report and optional files into ``<output_dir>/<study_key>/``.

    Args:
        output_dir: Folder for the studies.
        weights: Weights file, whose hash goes to the report; none for an untrained network.
        device: Device of the network, for the report.
        pixel_size: Pixel size of the network's image at the isocentre, mm.
        seconds: Object whose ``seconds`` is the time of the last reconstruction (the inferer).
        keep_going: Go on with the next study when one cannot be written; otherwise that error ends
            the run.
        dicom: Also write a DICOM CT series and a segmentation on it.
        mesh: Also write surfaces of bone and mandible.
        html: Also write the report as a page.
        keep_identity: Let the DICOM objects belong to the patient and study of the radiographs,
            which the loader must have been asked to keep; otherwise they are pseudonymous.

    Attributes:
        failed: Why each study that could not be written was not, by study key, if ``keep_going``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        weights: str | Path | None = None,
        device: Any = "cpu",
        pixel_size: float = 1.2,
        seconds: Any = None,
        keep_going: bool = False,
        dicom: bool = False,
        mesh: bool = False,
        html: bool = False,
        keep_identity: bool = False,
    ) -> None:
        for wanted, extra in ((dicom, "dicom"), (mesh, "mesh")):
            if wanted:
                require_extra(extra)  # before the first study, not after it
        self.output_dir = Path(output_dir)
        self.weights_sha256 = file_sha256(weights) if weights and Path(weights).exists() else None
        self.device = str(device)
        self.pixel_size = pixel_size
        self.clock = seconds
        self.keep_going = keep_going
        self.dicom = dicom
        self.mesh = mesh
        self.html = html
        self.keep_identity = keep_identity
        self.failed: dict[str, str] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the study; ``result`` names its folder under ``study``.

        Raises:
            StudyError: See :func:`~spider_bundle.outputs.study.write_study`, as for the others.
            OSError: The disk refused.
            ValueError: The volumes do not fit the grid.
        """
        out = dict(data)
        study = study_result(
            out,
            device=self.device,
            weights_sha256=self.weights_sha256,
            seconds=None if self.clock is None else self.clock.seconds,
            keep_identity=self.keep_identity,
        )
        try:
            folder = write_study(
                self.output_dir,
                study.study_key,
                hu=study.hu,
                labels=study.labels,
                grid=study.grid,
                image=study.image,
                reprojection=study.reprojection,
                facts=study.facts,
                mask=study.mask,
                pixel_size=self.pixel_size,
                hidden=study.burned_in,
                extras=partial(self._write_extras, study=study),
                html=self.html,
            )
        except (StudyError, OSError) as error:
            if not self.keep_going:
                raise
            # the text of an OSError names the file
            why = str(error) if isinstance(error, StudyError) else error.strerror
            self.failed[study.study_key] = why = why or type(error).__name__
            _log.error(
                "study %s: R01 its result could not be written: %s. To do: see to the space and "
                "the rights of the output folder and run again",
                study.study_key,
                why,
            )
            return out
        out["result"] = {"study": str(folder)}
        return out

    def _write_extras(self, folder: Path, *, study: StudyResult) -> None:
        """Write the optional files.

        Raises:
            StudyError: One of them cannot express this study.
        """
        try:
            if self.dicom:
                write_dicom(folder, study)
            if self.mesh:
                write_meshes(folder, study.labels, study.grid)
        except (ValueError, TypeError) as error:
            # its text may quote a value of the patient's
            raise StudyError(
                f"an optional output cannot express this study ({type(error).__name__})"
            ) from error
