"""Read films from their files in one call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spider_bundle.dicom.film import describe
from spider_bundle.dicom.load import Radiograph, RadiographPair, load_radiograph, load_radiographs
from spider_bundle.dicom.overrides import Overrides, PairOverrides
from spider_bundle.dicom.pair import describe_pair, judge_film


@dataclass(frozen=True)
class LoadedPair(RadiographPair):
    """Both radiographs with what their headers say about the pair."""

    study_key: str
    isocentric_assumed: bool


def read_radiograph(path: Path | str, overrides: Overrides | None = None) -> Radiograph:
    overrides = overrides or Overrides()
    frames = () if overrides.frame is None else (overrides.frame,)
    return load_radiograph(judge_film(describe(path, frames=frames), overrides))


def read_pair(
    first: Path | str, second: Path | str, overrides: PairOverrides | None = None
) -> LoadedPair:
    films = describe_pair((first, second), overrides)
    pair = load_radiographs(films)
    return LoadedPair(
        pair.frontal, pair.lateral, pair.findings, films.study_key, films.isocentric_assumed
    )
