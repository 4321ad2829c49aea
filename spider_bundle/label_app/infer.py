"""Inference task of the MONAI Label app: a radiograph study in, labels and CT out."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from typing import Any, Literal, get_args

import torch
from fastapi import HTTPException
from monai.transforms import SaveImaged
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.transform.writer import Writer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spider_bundle.bundle import config_text
from spider_bundle.errors import SpiderError, validation_message
from spider_bundle.files import reason
from spider_bundle.outputs.study import CT_FILE
from spider_bundle.outputs.transforms import WriteStudyd

Content = Literal["label", "ct", "all"]
_CONTENT = "result_content"
_log = logging.getLogger(__name__)


class InferOptions(BaseModel):
    """What counts of the options of a request; clients can add anything, and echo choices.

    Its limits keep clients from exhausting the memory.

    Attributes:
        spacing: Voxel size, mm.
        shape: Voxels along each axis; None spans the field of view.
        chunk: Points decoded at a time.
        result_content: What the answer's file is: the label map, the CT, or a zip of the whole
            study folder.
        result_extension: Format of a label map or CT.
        device: PyTorch's name of a device.

    Raises:
        ValueError: An option cannot be used.
    """

    model_config = ConfigDict(hide_input_in_errors=True, allow_inf_nan=False)

    spacing: float = Field(ge=0.1, le=100)
    shape: int | None = Field(default=None, ge=1, le=512)
    chunk: int = Field(ge=1, le=1 << 18)
    result_content: Content = "label"
    result_extension: Literal[".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha"] = ".nii.gz"
    device: str = Field(default="", pattern=r"^(cpu|cuda(:[0-9]{1,2})?)?$")

    @model_validator(mode="before")
    @classmethod
    def _first_choices(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v[0] if isinstance(v, list) and v else v for k, v in values.items()}


class RadiographInferTask(BundleInferTask):
    """The bundle's inference config, with the CT in the answer and errors that say what to do.

    Args:
        bundle: Folder of the bundle.
        conf: Settings of the server; ``results`` names a folder that keeps the study folders.
    """

    def __init__(self, bundle: Path, conf: Mapping[str, str]) -> None:
        super().__init__(
            str(bundle),
            conf,
            type=InferType.SEGMENTATION,
            add_post_restore=False,
            load_strict=True,
        )
        self.bundle_config["bundle_root"] = config_text(bundle)
        self.dimension = 3  # of the result; MONAI Label takes it from the first input
        self.results = conf.get("results")
        self._config.update({_CONTENT: list(get_args(Content))})

    def __call__(self, request: Mapping[str, Any], callbacks: Any = None) -> tuple[Any, Any]:
        """Reconstruct.

        Returns:
            The file of the answer, and its JSON.

        Raises:
            HTTPException: 422, the study or an option cannot be used, or 507, there is no room for
                the result; the detail says why.
        """
        checked = self._checked(request)
        with TemporaryDirectory(prefix="spider-") as scratch:
            checked |= {"output_dir": self.results or scratch, "scratch": scratch}
            try:
                file, answer = super().__call__(checked, callbacks)
            except SpiderError as error:
                _log.warning("study refused: %s", error)
                raise HTTPException(422, str(error)) from None
            except FileNotFoundError:  # its text names the path; MONAI Label makes "" of no image
                raise HTTPException(404, "no such folder, image or session here") from None
            if not self.results:
                answer.pop("study", None)  # about to be deleted
            elif "study" in answer:
                answer["ct"] = str(Path(answer["study"], CT_FILE))
            if isinstance(file, str) and Path(file).parent == Path(scratch):
                # only now, when nothing can fail any more, does it outlive the folder
                descriptor, kept = mkstemp(suffix=Path(file).suffix)
                os.close(descriptor)
                os.replace(file, kept)
                file = kept
            return file, answer

    def _checked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what counts of a request, its options checked."""
        given = {key: value for key, value in request.items() if value not in (None, "")}
        try:
            options = InferOptions.model_validate({**self.displayable_configs, **given})
        except ValidationError as error:
            raise HTTPException(422, validation_message(error)) from None
        passed = {key: request[key] for key in ("model", "image", "description") if key in request}
        return passed | options.model_dump()

    def pre_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        """Return the bundle's reader, for the grid that the request asks for."""
        self.bundle_config["output_dir"] = config_text(data["output_dir"])
        transforms: Sequence[Callable[..., Any]] = super().pre_transforms(data)
        return transforms

    def run_inferer(
        self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cuda"
    ) -> dict[str, Any]:
        """Run the network and note the time it took, for the report."""
        start = time.perf_counter()
        done: dict[str, Any] = super().run_inferer(data, convert_to_batch, device)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        done["image"].meta["network_seconds"] = time.perf_counter() - start
        return done

    def post_transforms(self, data: Any = None) -> Sequence[Callable[..., Any]]:
        """Return the bundle's postprocessing; the study folder is written only on request."""
        wanted = self.results or data[_CONTENT] == "all"
        self.post_filter = [SaveImaged] if wanted else [SaveImaged, WriteStudyd]
        transforms: Sequence[Callable[..., Any]] = super().post_transforms(data)
        return transforms

    def writer(self, data: Any, extension: Any = None, dtype: Any = None) -> tuple[Any, Any]:
        """Write the file of the answer, which MONAI Label deletes once it is sent."""
        if data[_CONTENT] == "all":
            answer = data.get("result")
            if not answer:
                raise HTTPException(507, "the result could not be written; see the server's log")
            archive = Path(data["scratch"], "study")
            try:
                return shutil.make_archive(str(archive), "zip", answer["study"]), answer
            except OSError as error:
                raise HTTPException(
                    507, f"the result could not be zipped ({reason(error)})"
                ) from None
        for key in ("pred", "ct"):
            data[key] = data[key][0]  # the writer takes (X, Y, Z)
        if data[_CONTENT] == "label":
            return super().writer(data, extension, dtype)
        written: tuple[Any, Any] = Writer(label="ct", json="result")(
            {**data, "result_dtype": "int16"}
        )
        return written
