"""Inference task of the MONAI Label app: a radiograph study in, labels and CT out."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import torch
from fastapi import HTTPException
from monai.transforms import SaveImaged
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.transform.writer import Writer

from spider_bundle.bundle import config_text
from spider_bundle.errors import SpiderError
from spider_bundle.outputs.study import CT_FILE
from spider_bundle.outputs.transforms import WriteStudyd

CONTENTS = ("label", "ct", "all")
"""What the answer's file can be: the label map, the CT, or a zip of the whole study folder."""

MOST_VOXELS = 512**3
"""A request for a finer grid is refused: a client must not be able to exhaust the memory."""

_CONTENT = "result_content"
_log = logging.getLogger(__name__)


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
        self.dimension = 3  # of the result; MONAI Label takes it from the first input
        self.results = conf.get("results")
        self._config.update({_CONTENT: list(CONTENTS)})

    def __call__(self, request: Mapping[str, Any], callbacks: Any = None) -> tuple[Any, Any]:
        """Reconstruct.

        Returns:
            The file of the answer, and its JSON.

        Raises:
            HTTPException: 422, the study or an option cannot be used; the detail says why.
        """
        checked = {**request, **self._checked(request)}
        with TemporaryDirectory(prefix="spider-") as scratch:
            checked["output_dir"] = self.results or scratch
            try:
                file, answer = super().__call__(checked, callbacks)
            except SpiderError as error:
                _log.warning("study refused: %s", error)
                raise HTTPException(422, str(error)) from None
            if not self.results:
                answer.pop("study", None)  # about to be deleted
            elif "study" in answer:
                answer["ct"] = str(Path(answer["study"], CT_FILE))
            return file, answer

    def _checked(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a request as numbers."""
        options = {**self.displayable_configs, **request}
        content = request.get(_CONTENT, CONTENTS[0])
        content = content if isinstance(content, str) else content[0]  # clients may echo the list
        try:
            spacing, shape = float(options["spacing"]), int(options["shape"])
            chunk = int(options["chunk"])
        except (TypeError, ValueError):
            raise HTTPException(422, "spacing, shape and chunk must be numbers") from None
        if not (spacing > 0 and 0 < shape**3 <= MOST_VOXELS and chunk > 0):
            raise HTTPException(422, "spacing, shape and chunk must be positive; shape at most 512")
        if content not in CONTENTS:
            raise HTTPException(422, f"{_CONTENT} must be one of {', '.join(CONTENTS)}")
        return {"spacing": spacing, "shape": shape, "chunk": chunk, _CONTENT: content}

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
            with NamedTemporaryFile(suffix=".zip") as name:
                pass
            archive = shutil.make_archive(name.name.removesuffix(".zip"), "zip", answer["study"])
            return archive, answer
        for key in ("pred", "ct"):
            data[key] = data[key][0]  # the writer takes (X, Y, Z)
        if data[_CONTENT] == "label":
            return super().writer(data, extension, dtype)
        written: tuple[Any, Any] = Writer(label="ct", json="result")(
            {**data, "result_dtype": "int16"}
        )
        return written
