"""The radiographs of one study from a DICOMweb server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import HTTPException
from requests import RequestException

RADIOGRAPHY = frozenset({"CR", "DX", "XA", "RF", "RG", "PX"})
"""Modality (0008,0060) of series that may hold a radiograph. Of a study without them the
localisers of its CT series are fetched; of others nothing."""

_UID = re.compile(r"[0-9.]{1,64}")
_IMAGE_TYPE, _INSTANCE = "00080008", "00080018"
_TAGS = ("0020000D", "0020000E", "00080060")  # those of _Series


class _Series(NamedTuple):
    study: str
    series: str
    modality: str


def fetch_radiographs(client: Any, uid: str, folder: Path) -> None:
    """Fetch the radiographs, or else the localisers, that belong together.

    A radiography system may file the two views in one series or in two. A series that holds more
    than one image is taken as it is; for a series with one image, as for a study, all series of
    radiographs of the study are fetched.

    Args:
        client: A ``dicomweb_client.DICOMwebClient``.
        uid: StudyInstanceUID or SeriesInstanceUID.
        folder: Existing folder for the files, whose names say nothing.

    Raises:
        HTTPException: 404, there is no such study or series; 502, the server does not answer.
    """
    if not _UID.fullmatch(uid):
        raise HTTPException(404, "no such study: give a UID, or a folder on the server")
    try:
        images = _images(client, uid)
    except RequestException as error:
        raise HTTPException(
            502, f"the DICOMweb server did not answer as expected ({type(error).__name__})"
        ) from None
    for number, image in enumerate(images):
        image.save_as(folder / f"{number:04d}.dcm", write_like_original=False)


def _images(client: Any, uid: str) -> list[Any]:
    of_study = [s for s in _search(client, "StudyInstanceUID", uid) if s.study == uid]
    if not of_study:
        named = [s for s in _search(client, "SeriesInstanceUID", uid) if s.series == uid]
        if not named:
            raise HTTPException(404, "the DICOMweb server has no such study or series")
        study = named[0].study
        images = list(client.retrieve_series(study, uid))
        if len(images) > 1:
            return images
        of_study = [s for s in _search(client, "StudyInstanceUID", study) if s.study == study]
    wanted = [s for s in of_study if s.modality in RADIOGRAPHY]
    if wanted:
        return [image for s in wanted for image in client.retrieve_series(s.study, s.series)]
    return [image for s in of_study if s.modality == "CT" for image in _localisers(client, s)]


def _localisers(client: Any, series: _Series) -> Iterable[Any]:
    """Fetch the localisers of a CT series, whose other images may be hundreds."""
    for metadata in client.retrieve_series_metadata(series.study, series.series):
        kinds = metadata.get(_IMAGE_TYPE, {}).get("Value") or []
        instance = (metadata.get(_INSTANCE, {}).get("Value") or [""])[0]
        if "LOCALIZER" in kinds and "DERIVED" not in kinds and _UID.fullmatch(str(instance)):
            yield client.retrieve_instance(series.study, series.series, instance)


def _search(client: Any, keyword: str, uid: str) -> Iterable[_Series]:
    """Series by a UID (QIDO-RS, DICOM PS3.18 10.6); a server may ignore the filter."""
    found = client.search_for_series(
        fields=["StudyInstanceUID", "Modality"], search_filters={keyword: uid}
    )
    for one in found:
        values = [(one.get(tag, {}).get("Value") or [""])[0] for tag in _TAGS]
        yield _Series(*map(str, values))
