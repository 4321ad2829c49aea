"""Training task of the MONAI Label app: CTs with edited labels in, new weights out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.tasks.train.bundle import BundleTrainTask

from spider_bundle.label_app.heads import LoadEditedHeadd, check_prepared

VALIDATION_INTERVAL = 5
"""Epochs from one validation to the next, at most."""


class EditedHeadTrainTask(BundleTrainTask):
    """The bundle's training config on the CTs of the datastore that have a final label map.

    The radiographs are simulated, as always in training. MONAI Label would insert a checkpoint
    loader before the config's handlers, after the average of the weights was set up, and would go
    on from the checkpoints of other trainings; so the weights are named to the config instead, and
    the training has a folder of its own.

    Args:
        bundle: Folder of the bundle.
        conf: Settings of the server; ``training`` names the folder for checkpoints and weights.
    """

    def __init__(self, bundle: Path, conf: Mapping[str, str]) -> None:
        super().__init__(str(bundle), conf)
        self.folder = Path(conf.get("training") or bundle / "runs" / "label").resolve()

    def config(self) -> dict[str, Any]:
        """Options of a request; several GPUs are for the command line."""
        options: dict[str, Any] = super().config()
        for name in ("multi_gpu", "gpus", "run_id"):
            options.pop(name)
        return {**options, "iterations_per_epoch": 100, "batch_size": 4, "continue": False}

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Train.

        Raises:
            ValueError: There is no CT with a final label map, or one cannot be used.
        """
        done: dict[str, Any] = super().__call__({**request, "multi_gpu": False}, datastore)
        return done

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Any) -> list[dict[str, str]]:
        entries = [{"image": e["image"], "label": e["label"]} for e in datastore.datalist() if e]
        if not entries:
            raise ValueError("no CT in the datastore has a final label map")
        for number, entry in enumerate(entries, start=1):
            check_prepared(entry["image"], f"CT {number} of {len(entries)}")
        return entries

    def _load_checkpoint(self, *_: Any) -> None:
        """Nothing: :meth:`run_single_gpu` names the weights to the config."""

    def run_single_gpu(self, request: Mapping[str, Any], overrides: dict[str, Any]) -> None:
        """Run the config with what the request asks for."""
        epochs = int(request.get("max_epochs", 50))
        if not request.get("continue", False):
            for name in ("checkpoint.pt", "model.pt"):
                (self.folder / name).unlink(missing_ok=True)
        weights = Path(self.bundle_path, "models", self.const.model_pytorch())
        validated = bool(overrides.get(self.const.key_validate_dataset_data()))
        loader = {"_target_": f"{LoadEditedHeadd.__module__}.{LoadEditedHeadd.__name__}"}
        del overrides[self.const.key_train_handlers()]  # those of the config
        super().run_single_gpu(
            request,
            {
                **overrides,
                "epochs": epochs,
                "restarts": [],
                "initial_weights": str(weights) if request.get("pretrained", True) else None,
                "iterations_per_epoch": int(request.get("iterations_per_epoch", 100)),
                "batch_size": int(request.get("batch_size", 4)),
                "val_interval": min(VALIDATION_INTERVAL, epochs) if validated else epochs + 1,
                "ckpt_dir": str(self.folder),
                "train#preprocessing#transforms#0": loader,
                "validate#preprocessing#transforms#0": loader,
            },
        )
