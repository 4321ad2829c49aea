"""The MONAI Label app: reconstruct radiograph studies, train on CTs with edited labels."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from spider_bundle import __version__
from spider_bundle.bundle import bundle_root
from spider_bundle.label_app.infer import RadiographInferTask
from spider_bundle.label_app.studies import fetch_radiographs
from spider_bundle.label_app.train import EditedHeadTrainTask

MODEL = "spider"
"""Name of the model in requests."""
_NOT_FOUND = "no such folder, image or session on this server"


class SpiderApp(MONAILabelApp):
    """One model for inference and training.

    Settings of the server's ``--conf``: ``bundle``, folder of the bundle (see
    :func:`~spider_bundle.bundle.bundle_root`); ``results``, folder that keeps the study folders,
    which are otherwise deleted after the answer; ``training``, folder for checkpoints and new
    weights (``runs/label`` in the bundle); ``images``, folders whose studies clients may name,
    apart from the datastore and uploads, separated as in ``PATH``.

    Args:
        app_dir: Folder of the app's main.py.
        studies: Folder of CTs and labels, or address of a DICOMweb server.
        conf: Settings of the server.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundle = bundle_root(conf.get("bundle"))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="SPIDER",
            description="Head CT and labels from two radiographs. Research use only.",
            version=__version__,
        )
        uploads = self.sessions().store_path if self.sessions() else ""
        named = [*conf.get("images", "").split(os.pathsep), uploads, studies]
        self._roots = [Path(root).resolve() for root in named if root]

    def init_infers(self) -> dict[str, RadiographInferTask]:
        """Return the task for radiograph pairs."""
        return {MODEL: RadiographInferTask(self.bundle, self.conf)}

    def init_trainers(self) -> dict[str, EditedHeadTrainTask]:
        """Return the task for CTs with edited labels."""
        return {MODEL: EditedHeadTrainTask(self.bundle, self.conf)}

    def init_strategies(self) -> dict[str, Any]:
        """Which CT to label next."""
        return {"first": First(), "random": Random()}

    def _download_dcmqi_tools(self) -> None:
        """Nothing: this app makes no DICOM SEG, and a server must not download programs."""

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Reconstruct the study that ``image`` names.

        ``image`` is a folder of this machine below one of the folders that clients may name, an
        image of the datastore, or with a DICOMweb server a StudyInstanceUID or SeriesInstanceUID;
        the radiographs of that examination are then fetched and deleted afterwards.

        Raises:
            HTTPException: 404, there is no such study; 422, the study or an option cannot be used.
        """
        store = datastore or self.datastore()
        image = request.get("image")
        with ExitStack() as cleanup:
            place = self._local(image)
            if place is not None:
                request = {**request, "image": place}
            elif not isinstance(image, str):
                raise HTTPException(404, _NOT_FOUND)
            elif isinstance(store, DICOMWebDatastore):
                folder = Path(cleanup.enter_context(TemporaryDirectory(prefix="spider-")))
                fetch_radiographs(store._client, image, folder)
                request = {**request, "image": str(folder)}
            elif not store.get_image_uri(image):
                # MONAI Label would take the folder that it was started in
                raise HTTPException(404, _NOT_FOUND)
            answer: dict[str, Any] = super().infer(request, datastore)
            return answer

    def _local(self, image: Any) -> str | None:
        """Return the whole path of what a client may name on this machine, None if it may not."""
        try:
            place = Path(image).resolve(strict=True)
        except (OSError, RuntimeError, TypeError, ValueError):
            return None
        is_allowed = image and any(place.is_relative_to(root) for root in self._roots)
        return str(place) if is_allowed else None
