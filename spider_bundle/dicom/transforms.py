"""MONAI transform from the DICOM files of a study to the network's image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Transform

from spider_bundle.dicom.image import PIXEL_SIZE, SIZE
from spider_bundle.dicom.load import load
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.pair import FilmPair, describe_pair, pair_films
from spider_bundle.dicom.studies import PUBLIC_KEY, find_studies, require_path
from spider_bundle.errors import Code, SpiderError
from spider_bundle.geometry import Grid


class BiplanarRadiographsd(Transform):
    """Read a radiograph pair into ``image``.

    ``image`` becomes a MetaTensor ``(2, H, W)`` (frontal, lateral) whose meta carries
    ``projection`` ``(2, 4, 4)``, the output grid as ``spatial_shape`` and ``original_affine``
    (RAS), ``study_key`` and ``provenance`` (:class:`~.provenance.Provenance`). ``mask`` becomes the
    exposed fields ``(2, H, W)``.

    Args:
        spacing: Voxel size of the output grid, mm.
        shape: Voxels of the output grid; see :meth:`~.grid.Grid.centred` if not given.
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
        shape: int | Sequence[int] | None = None,
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

        ``image`` is a folder with one study, a list of two files, a mapping with the files
        ``frontal`` and ``lateral``, or a pair of films.

        Raises:
            SpiderError: The pair cannot be used; the findings say why and what to do.
        """
        pair = self.pair(data["image"])
        item = load(pair, grid=self.grid, image_size=self.image_size, pixel_size=self.pixel_size)
        return {**data, "image": item["image"], "mask": item["mask"]}

    def pair(self, source: Any) -> FilmPair:
        """Return the pair that ``image`` names; no pixels are read.

        Raises:
            FileNotFoundError: A file or folder does not exist, or its name is empty.
            SpiderError: E06 or others, a folder does not hold one complete study.
        """
        if isinstance(source, FilmPair):
            return source
        if isinstance(source, Mapping):
            source = source["frontal"], source["lateral"]
        for path in source if isinstance(source, (list, tuple)) else [source]:
            require_path(path)
        if isinstance(source, (list, tuple)) and len(source) == 2:
            return describe_pair(
                source, self.overrides, key=self.key, keep_identity=self.keep_identity
            )
        return single_pair(source, self.overrides, key=self.key, keep_identity=self.keep_identity)


def single_pair(
    folder: str | Path,
    overrides: PairOverrides | None = None,
    *,
    key: str = PUBLIC_KEY,
    keep_identity: bool = False,
) -> FilmPair:
    """Return the pair of the one complete study of a folder.

    Args:
        folder: Any tree of files.
        overrides: Overrides by view.
        key: Secret of the site for the study key.
        keep_identity: Whether to read the identity of patient and study.

    Raises:
        FileNotFoundError: The folder does not exist, or its name is empty.
        SpiderError: There is no study, more than one, it is not one pair, or a file that may be a
            radiograph cannot be read; the error's notes tell which.
    """
    overrides = overrides or PairOverrides()
    found = find_studies(
        folder,
        key=key,
        allow_secondary_capture=overrides.allow_secondary_capture,
        frames=overrides.frames,
        keep_identity=keep_identity,
        kind=overrides.kind,
    )
    if found.refusals:  # what cannot be read may be of another study, or of this one
        codes = ", ".join(sorted({code for refusal in found.refusals for code in refusal.codes}))
        message = f"{len(found.refusals)} files that may be radiographs cannot be read ({codes})"
        error = SpiderError(Code.INPUT_UNREADABLE, message, role="pair")
        for refusal in found.refusals:  # notes are in the traceback only
            error.add_note(f"{', '.join(refusal.codes)}: {', '.join(map(str, refusal.files))}")
        raise error
    studies = found.studies or found.skipped
    if len(studies) != 1:
        number = f"{len(studies)} studies" if studies else "no radiographs"
        message = f"{number} in the folder instead of one"
        raise SpiderError(Code.NOT_A_PAIR, message, role="pair")
    (study,) = studies
    if study.pair is None or not study.is_complete:
        raise SpiderError(study.findings)
    return pair_films(study.pair, overrides, key=key)
