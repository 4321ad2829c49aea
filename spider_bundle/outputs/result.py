"""A reconstructed study in memory: what its files and its report are made of."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spider_bundle.dicom.identity import SourceIdentity
from spider_bundle.dicom.lossy import LossyCompression
from spider_bundle.dicom.provenance import Provenance
from spider_bundle.geometry import Grid
from spider_bundle.intensity import attenuation
from spider_bundle.outputs.consistency import reprojection_consistency
from spider_bundle.outputs.dicom_ct import DicomIdentity
from spider_bundle.outputs.report import ISOCENTRIC, NO_COMMON_FRAME, Report, build_report
from spider_bundle.outputs.study import RunFacts
from spider_bundle.projection import project_volume


@dataclass(frozen=True, eq=False)
class StudyResult:
    """One study after the network, with the reconstruction projected back into its views.

    Attributes:
        study_key: Keyed hash of the study.
        hu: HU, int16, shape ``(X, Y, Z)``.
        labels: Label map, uint8, of the same shape.
        grid: Grid of both (LPS mm).
        image: Network images, shape ``(2, H, W)``: frontal, lateral.
        mask: Their exposed fields, shape ``(2, H, W)``.
        reprojection: The reconstruction projected in the same views, shape ``(2, H, W)``.
        burned_in: Whether each radiograph says that text is burned in.
        facts: What the run knows, for the report.
        source: Patient and study of the DICOM results; none for pseudonymous ones.
        lossy: Lossy compression that the radiographs went through, if any.
    """

    study_key: str
    hu: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    grid: Grid
    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    reprojection: npt.NDArray[np.float32]
    burned_in: tuple[bool, ...]
    facts: RunFacts
    source: SourceIdentity | None = None
    lossy: LossyCompression | None = None

    @property
    def consistency(self) -> dict[str, dict[str, float]]:
        """How well the reconstruction explains its radiographs, by view role."""
        return {
            role: reprojection_consistency(image, projected, mask)
            for role, image, projected, mask in zip(
                ("frontal", "lateral"), self.image, self.reprojection, self.mask, strict=True
            )
        }

    @property
    def identity(self) -> DicomIdentity:
        """Whose DICOM results these are."""
        return DicomIdentity(self.study_key, self.source, self.facts.weights_sha256)

    def report(self) -> Report:
        """Return the report, without the files."""
        known = {item.name: getattr(self.facts, item.name) for item in fields(self.facts)}
        return build_report(self.study_key, grid=self.grid, reprojection=self.consistency, **known)


def study_result(
    item: Mapping[Hashable, Any],
    *,
    device: str,
    weights_sha256: str | None,
    seconds: float | None = None,
    keep_identity: bool = False,
) -> StudyResult:
    """Collect a study's result from the item that went through the transforms.

    Args:
        item: As :class:`~spider_bundle.dicom.transforms.BiplanarRadiographsd` and
            :class:`~spider_bundle.outputs.transforms.CTAndLabelsd` leave it.
        device: Device of the network.
        weights_sha256: Hash of the weights file; None for untrained weights.
        seconds: Time that the network took.
        keep_identity: Whether DICOM results belong to the patient and study of the radiographs,
            which the reader must have been asked to keep.
    """
    start = time.perf_counter()
    meta = item["image"].meta
    loaded: Provenance = meta["provenance"]
    grid = Grid.from_ras(np.asarray(meta["original_affine"]), item["ct"].shape[1:])
    hu = torch.Tensor.as_subclass(item["ct"], torch.Tensor)[0]
    image = torch.Tensor.as_subclass(item["image"], torch.Tensor).cpu()
    reprojection = project_volume(
        attenuation(hu.float())[None],
        torch.from_numpy(grid.affine)[None],
        torch.as_tensor(meta["projection"]).cpu()[None],
        (image.shape[-2], image.shape[-1]),
    )[0]
    timings = {"read": loaded.read_seconds}
    if seconds is not None:
        timings["reconstruct"] = seconds
    timings["reproject"] = time.perf_counter() - start
    assumptions = [ISOCENTRIC]
    if loaded.isocentric_assumed:
        assumptions.append(NO_COMMON_FRAME)
    return StudyResult(
        study_key=meta["study_key"],
        hu=hu.numpy(),
        labels=torch.Tensor.as_subclass(item["pred"], torch.Tensor)[0].numpy(),
        grid=grid,
        image=image.numpy(),
        mask=torch.as_tensor(item["mask"]).cpu().numpy(),
        reprojection=reprojection.numpy(),
        burned_in=loaded.burned_in,
        facts=RunFacts(
            device=device,
            weights_sha256=weights_sha256,
            views=loaded.views,
            assumptions=assumptions,
            findings=[found.facts() for found in loaded.findings],
            timings=timings,
        ),
        source=loaded.source_identity if keep_identity else None,
        lossy=loaded.lossy,
    )
