"""From two radiographs to NumPy arrays.

::

    from spider_bundle.api import reconstruct

    head = reconstruct(["frontal.dcm", "lateral.dcm"])
    head.ct, head.labels, head.affine, head.report

The pipeline is that of ``configs/inference.json``, so the arrays are those that ``spider infer``
writes. Nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from spider_bundle.bundle import bundle_root
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.pair import FilmPair
from spider_bundle.dicom.transforms import BiplanarRadiographsd
from spider_bundle.geometry import FloatArray, Grid
from spider_bundle.networks import SPIDER
from spider_bundle.outputs.result import StudyResult, study_result
from spider_bundle.outputs.transforms import CTAndLabelsd
from spider_bundle.precision import autocast
from spider_bundle.weights import load_weights

PathLike = str | os.PathLike[str]
Radiographs = PathLike | Sequence[PathLike] | Mapping[str, PathLike] | FilmPair
"""A folder with one study, two files in any order, a mapping of ``frontal`` and ``lateral``, or
films that are paired already."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """An estimated head CT with labels; research use only, never for diagnosis.

    Attributes:
        ct: HU, int16, shape ``(X, Y, Z)``, the axes running as those of ``affine``.
        labels: Values of :class:`~spider_bundle.labels.Label`, uint8, of the same shape.
        affine: Voxel index to RAS mm, shape ``(4, 4)``, as NIfTI has it.
        report: The content of ``report.json``, see :class:`~spider_bundle.outputs.report.Report`;
            it lists no files, since none were written.
    """

    ct: npt.NDArray[np.int16] = field(repr=False)
    labels: npt.NDArray[np.uint8] = field(repr=False)
    affine: FloatArray
    report: dict[str, Any] = field(repr=False)

    @property
    def study_key(self) -> str:
        """Keyed hash of the study, which names its results everywhere."""
        return str(self.report["study_key"])

    @property
    def grid(self) -> Grid:
        """The voxel grid in LPS mm."""
        return Grid.from_ras(self.affine, self.ct.shape)


class Reconstructor:
    """The bundle's network, loaded once for any number of studies.

    Args:
        spacing: Voxel size of the output, mm: one value, or x, y, z.
        shape: Its voxels: one value, or x, y, z.
        device: Device of the network; the first GPU, or the CPU where there is none.
        precision: See :func:`spider_bundle.precision.autocast`.
        weights: Weights file instead of the bundle's.
        overrides: Statements about the radiographs, see
            :meth:`~spider_bundle.dicom.overrides.PairOverrides.from_mapping`.
        keep_identity: Whether results of :meth:`study` carry the patient and the study.
        root: Folder with ``configs`` and ``models``; see
            :func:`spider_bundle.bundle.bundle_root`.

    Attributes:
        network: The network with its weights, on its device.
        device: That device.
        weights_sha256: Hash of the weights file.
        image_size: Rows and columns of the network's image.
        overrides: Statements about the radiographs.
        site_key: Secret of the site for study keys, if ``SPIDER_SITE_KEY`` names one.

    Raises:
        FileNotFoundError: There is no bundle, or no such weights file.
        RuntimeError: The weights do not fit the network, or there is no such device.
        ValueError: A value is out of range.
    """

    network: SPIDER

    def __init__(
        self,
        *,
        spacing: float | Sequence[float] = 2.0,
        shape: int | Sequence[int] = 128,
        device: str | torch.device | None = None,
        precision: str = "auto",
        weights: PathLike | None = None,
        overrides: Mapping[str, Any] | None = None,
        keep_identity: bool = False,
        root: PathLike | None = None,
    ) -> None:
        self.overrides = PairOverrides.from_mapping(overrides)
        folder = bundle_root(root)
        # the config would name the error of its transform instead
        Grid.centred(spacing, shape)
        parser = ConfigParser()
        parser.read_config(str(folder / "configs" / "inference.json"))
        values: dict[str, Any] = {
            "bundle_root": str(folder),
            "spacing": spacing,
            "shape": shape,
            "precision": precision,
            "keep_identity": keep_identity,
        }
        if weights is not None:
            values["weights"] = str(Path(weights).absolute())
        if device is not None:
            values["device"] = f"$torch.device({str(torch.device(device))!r})"
        parser.update(values)
        self.site_key: str | None = parser.get_parsed_content("site_key")
        self.image_size: int = parser.get_parsed_content("image_size")
        self.device: torch.device = parser.get_parsed_content("device")
        autocast(self.device, precision)
        self.network = parser.get_parsed_content("network")
        self.weights_sha256 = load_weights(self.network, parser.get_parsed_content("weights"))
        self.network.eval()
        self._inferer = parser.get_parsed_content("inferer")
        self._preprocessing = parser.get_parsed_content("preprocessing").transforms
        self._split = CTAndLabelsd()
        self.keep_identity = keep_identity

    def __call__(
        self, radiographs: Radiographs, overrides: Mapping[str, Any] | None = None
    ) -> Reconstruction:
        """Reconstruct one study; arguments and errors are those of :meth:`read`."""
        study = self.study(self.read(radiographs, overrides))
        return Reconstruction(
            study.hu, study.labels, study.grid.ras_affine, study.report().to_json()
        )

    def read(
        self, radiographs: Radiographs, overrides: Mapping[str, Any] | None = None
    ) -> dict[Hashable, Any]:
        """Read one study as the network will see it.

        Args:
            radiographs: The DICOM files.
            overrides: Statements about the radiographs instead of those of the reconstructor.

        Returns:
            The item of :class:`~spider_bundle.dicom.transforms.BiplanarRadiographsd`.

        Raises:
            SpiderError: The radiographs cannot be used; its findings carry code and action.
            ValueError: The overrides are not valid, or not one folder or two files were named.
        """
        item: dict[Hashable, Any] = {"image": _source(radiographs)}
        stated = self.overrides if overrides is None else PairOverrides.from_mapping(overrides)
        for transform in self._preprocessing:
            if isinstance(transform, BiplanarRadiographsd):
                transform = copy(transform)
                transform.overrides = stated
            item = transform(item)
        return item

    def study(self, item: Mapping[Hashable, Any]) -> StudyResult:
        """Run the network on what :meth:`read` returned."""
        image = item["image"]
        batch = MetaTensor(image.as_tensor()[None].to(self.device), meta=image.meta)
        prediction = self._inferer(batch, self.network)[0]
        return study_result(
            self._split({**item, "pred": prediction}),
            device=str(self.device),
            weights_sha256=self.weights_sha256,
            seconds=self._inferer.seconds,
            keep_identity=self.keep_identity,
        )


def reconstruct(
    radiographs: Radiographs,
    *,
    overrides: Mapping[str, Any] | None = None,
    spacing: float | Sequence[float] = 2.0,
    shape: int | Sequence[int] = 128,
    device: str | torch.device | None = None,
    precision: str = "auto",
    weights: PathLike | None = None,
    root: PathLike | None = None,
) -> Reconstruction:
    """Reconstruct one study; for several, a :class:`Reconstructor` loads the network once.

    Args:
        radiographs: A folder with one study, two DICOM files in any order, or a mapping of
            ``frontal`` and ``lateral``.
        overrides: Statements about the radiographs, e.g. ``{"frontal": {"sod": 1000.0}}``.
        spacing: See :class:`Reconstructor`, as for the others.
        shape: Voxels of the output.
        device: Device of the network.
        precision: Its precision.
        weights: Weights file instead of the bundle's.
        root: Folder of the bundle.

    Raises:
        SpiderError: The radiographs cannot be used; its findings carry code and action.
        FileNotFoundError: There is no bundle, or no such weights file.
        RuntimeError: The weights do not fit the network, or there is no such device.
        ValueError: A value is out of range, or the overrides are not valid.
    """
    reconstructor = Reconstructor(
        spacing=spacing,
        shape=shape,
        device=device,
        precision=precision,
        weights=weights,
        overrides=overrides,
        root=root,
    )
    return reconstructor(radiographs)


def _source(radiographs: Radiographs) -> str | list[str] | dict[str, str] | FilmPair:
    """Return the radiographs in the words of the reading transform.

    Raises:
        ValueError: They are not one folder or two files.
    """
    if isinstance(radiographs, FilmPair):
        return radiographs
    if isinstance(radiographs, (str, os.PathLike)):
        return os.fspath(radiographs)
    if isinstance(radiographs, Mapping):
        if set(radiographs) == {"frontal", "lateral"}:
            return {role: os.fspath(path) for role, path in radiographs.items()}
    elif len(radiographs) == 2:
        return [os.fspath(path) for path in radiographs]
    raise ValueError("name one folder, two files, or the files frontal and lateral")
