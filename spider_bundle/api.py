"""From two radiographs to NumPy arrays.

::

    from spider_bundle.api import reconstruct

    head = reconstruct(["frontal.dcm", "lateral.dcm"])
    head.ct, head.labels, head.affine, head.report

The pipeline is that of ``configs/inference.json``, so the arrays are those that ``spider infer``
writes. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spider_bundle import reconstructor
from spider_bundle.geometry import FloatArray, Grid
from spider_bundle.reconstructor import PathLike, Result, Source


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


class Reconstructor(reconstructor.Reconstructor):
    """The bundle's network, loaded once for any number of studies.

    What is not given is as in ``configs/inference.json``.

    Args:
        spacing: Voxel size of the output, mm: one value, or x, y, z.
        shape: Its voxels: one value, or x, y, z; if not given, the grid spans 256 mm.
        device: Device of the network; the first GPU, or the CPU where there is none.
        precision: See :func:`spider_bundle.precision.autocast`.
        exact: Decode every voxel, instead of interpolating where the answer does not change.
        weights: Weights file instead of the bundle's.
        overrides: Statements about the radiographs, see
            :meth:`~spider_bundle.dicom.overrides.PairOverrides.from_mapping`.
        keep_identity: Whether results of :meth:`study` carry the patient and the study.
        root: Folder with ``configs`` and ``models``; see
            :func:`spider_bundle.bundle.bundle_root`.

    Raises:
        FileNotFoundError: There is no bundle, or no such weights file.
        SpiderError: M01 to M03, the weights cannot be used.
        RuntimeError: There is no such device.
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        *,
        spacing: float | Sequence[float] | None = None,
        shape: int | Sequence[int] | None = None,
        device: str | torch.device | None = None,
        precision: str | None = None,
        exact: bool | None = None,
        weights: PathLike | None = None,
        overrides: Mapping[str, Any] | None = None,
        keep_identity: bool | None = None,
        root: PathLike | None = None,
    ) -> None:
        values: dict[str, Any] = {
            "spacing": spacing,
            "shape": shape,
            "device": device,
            "precision": precision,
            "exact": exact,
            "weights": weights,
            "overrides": overrides,
            "keep_identity": keep_identity,
        }
        given = {name: value for name, value in values.items() if value is not None}
        super().__init__(reconstructor.inference_config(root, **given))

    def __call__(
        self, radiographs: Source, overrides: Mapping[str, Any] | None = None
    ) -> Reconstruction:
        """Reconstruct one study; arguments and errors are those of :meth:`read`."""
        result = self.study(self.read(radiographs, overrides))
        report = result.report().to_json()
        return Reconstruction(result.hu, result.labels, result.grid.ras_affine, report)

    def study(self, item: Mapping[Any, Any]) -> Result:
        """Reconstruct what :meth:`read` returned."""
        return self.run(item)


def reconstruct(
    radiographs: Source,
    *,
    overrides: Mapping[str, Any] | None = None,
    spacing: float | Sequence[float] | None = None,
    shape: int | Sequence[int] | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    exact: bool | None = None,
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
        exact: Decode every voxel.
        weights: Weights file instead of the bundle's.
        root: Folder of the bundle.

    Raises:
        SpiderError: The radiographs, or the weights, cannot be used; its findings carry code and
            action.
        FileNotFoundError: There is no bundle, or no such weights file.
        RuntimeError: There is no such device.
        ValueError: A value is out of range, or the overrides are not valid.
    """
    reconstructor = Reconstructor(
        spacing=spacing,
        shape=shape,
        device=device,
        precision=precision,
        exact=exact,
        weights=weights,
        overrides=overrides,
        root=root,
    )
    return reconstructor(radiographs)
