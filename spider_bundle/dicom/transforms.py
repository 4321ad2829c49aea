"""MONAI transform from the DICOM files of a study to the network's image."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from spider_bundle.dicom.errors import Code, RadiographError, finding
from spider_bundle.dicom.identity import read_source_identity
from spider_bundle.dicom.image import PIXEL_SIZE, SIZE, network_input
from spider_bundle.dicom.lossy import read_lossy_compression
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.pair import (
    PUBLIC_KEY,
    Study,
    find_studies,
    read_pair,
)
from spider_bundle.dicom.provenance import Provenance, ViewProvenance, provenanced_value
from spider_bundle.dicom.read import Radiograph
from spider_bundle.geometry import Grid


class BiplanarRadiographsd(Transform):
    """Read a radiograph pair into ``image``.

    ``image`` becomes a MetaTensor ``(2, H, W)`` (frontal, lateral) whose meta carries
    ``projection`` ``(2, 3, 4)``, the output grid as ``spatial_shape`` and ``original_affine``
    (RAS), ``study_key`` and ``provenance`` (:class:`~.provenance.Provenance`). ``mask`` becomes the
    exposed fields ``(2, H, W)``.

    Args:
        spacing: Voxel size of the output grid, mm.
        shape: Voxels of the output grid.
        image_size: Rows and columns of the network's image.
        pixel_size: Its pixel size at the isocentre, mm.
        overrides: See :meth:`PairOverrides.from_mapping`.
        key: Secret of the site for the study key; :data:`~.pair.PUBLIC_KEY` if not given.
        keep_identity: Whether the provenance also carries the
            :class:`~.identity.SourceIdentity`, for DICOM results of the same patient and study.
    """

    def __init__(
        self,
        spacing: float | Sequence[float] = 2.0,
        shape: int | Sequence[int] = 128,
        image_size: int = SIZE,
        pixel_size: float = PIXEL_SIZE,
        overrides: Mapping[str, Any] | None = None,
        key: str | None = None,
        keep_identity: bool = False,
    ) -> None:
        self.grid = Grid.centred(spacing, shape)
        self.image_size = image_size
        self.pixel_size = pixel_size
        self.overrides = PairOverrides.from_mapping(overrides)
        self.key = key or PUBLIC_KEY
        self.keep_identity = keep_identity

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the pair named by ``image``.

        ``image`` is a folder with one study, a list of two files, or a mapping with the files
        ``frontal`` and ``lateral``.

        Raises:
            RadiographError: The pair cannot be used; the findings say why and what to do.
        """
        out = dict(data)
        start = time.perf_counter()
        paths = self._paths(out["image"])
        pair = read_pair(*paths, self.overrides, key=self.key)
        seen = network_input(pair, self.pixel_size, self.image_size)
        lossy = read_lossy_compression(paths)
        first, second = (
            _view_provenance(role, radiograph, projection)
            for role, radiograph, projection in zip(
                ("frontal", "lateral"), pair.radiographs, seen.projection, strict=True
            )
        )
        kept = None
        if self.keep_identity:
            kept = read_source_identity(paths, pair.frontal.identifiers.instance)
        out["image"] = MetaTensor(
            seen.image,
            meta={
                "filename_or_obj": pair.study_key,
                "projection": seen.projection,
                "spatial_shape": np.array(self.grid.shape),
                "original_affine": torch.from_numpy(self.grid.ras_affine),
                "study_key": pair.study_key,
                "provenance": Provenance(
                    views=(first, second),
                    isocentric_assumed=pair.isocentric_assumed,
                    burned_in=(pair.frontal.burned_in, pair.lateral.burned_in),
                    lossy=lossy,
                    findings=pair.findings,
                    read_seconds=time.perf_counter() - start,
                    source_identity=kept,
                ),
            },
        )
        out["mask"] = seen.mask
        return out

    def _paths(self, source: Any) -> tuple[str | Path, str | Path]:
        if isinstance(source, Mapping):
            return source["frontal"], source["lateral"]
        if isinstance(source, (list, tuple)) and len(source) == 2:
            return source[0], source[1]
        study = single_study(source, self.key, self.overrides)
        assert study.frontal is not None  # single_study refuses incomplete studies
        assert study.lateral is not None
        return study.frontal.path, study.lateral.path


def single_study(
    folder: str | Path, key: str = PUBLIC_KEY, overrides: PairOverrides | None = None
) -> Study:
    """The one complete study of a folder.

    Args:
        folder: Any tree of files.
        key: Secret of the site for the study key; :data:`~.pair.PUBLIC_KEY` if not given.
        overrides: Statements of the operator.

    Raises:
        RadiographError: There is no study, more than one, or it is not one pair.
    """
    stated = overrides or PairOverrides()
    allow = stated.frontal.allow_secondary_capture or stated.lateral.allow_secondary_capture
    studies = find_studies(folder, key=key, allow_secondary_capture=allow).studies
    if len(studies) != 1:
        found = "no radiographs" if not studies else f"{len(studies)} studies"
        raise RadiographError([finding(Code.E06, "pair", f"{found} in the folder instead of one")])
    if not studies[0].is_complete:
        raise RadiographError(studies[0].findings)
    return studies[0]


def _view_provenance(role: str, radiograph: Radiograph, projection: torch.Tensor) -> ViewProvenance:
    return ViewProvenance(
        role=role,
        view_position=radiograph.position.value,
        geometry={
            name: provenanced_value(name, sourced["value"], sourced["source"])
            for name, sourced in radiograph.provenance.items()
        },
        projection=tuple(map(tuple, projection.tolist())),
    )
