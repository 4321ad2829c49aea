"""A MONAI dataset of the radiograph pairs below a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from monai.data import Dataset

from spider_bundle.dicom.errors import (
    CODES,
    Code,
    Finding,
    RadiographError,
    finding,
    finding_facts,
)
from spider_bundle.dicom.overrides import PairOverrides
from spider_bundle.dicom.pair import pair_films
from spider_bundle.dicom.studies import PUBLIC_KEY, find_studies

_log = logging.getLogger(__name__)


class StudyDataset(Dataset):
    """The studies below a folder that can be reconstructed.

    Every study is read when the dataset is made, so that one that cannot be used is refused before
    the network starts and takes no other study down, even where reading it fails unexpectedly. A
    study that was read is kept as the network will see it (about one megabyte). Refusals are logged
    and kept in :attr:`refused`.

    Args:
        folder: Any tree of files, or several; or entries for the transform, which are then not
            searched for.
        transform: Reads an entry ``{"image": FilmPair}``.
        key: Secret of the site for the study key; :data:`~.pair.PUBLIC_KEY` if not given.
        overrides: See :meth:`~.overrides.PairOverrides.from_mapping`.
        keep_identity: Whether to read the identity of patient and study.
    """

    def __init__(
        self,
        folder: str | Path | Iterable[str | Path] | None = None,
        transform: Callable[[Any], Any] | None = None,
        key: str | None = None,
        overrides: Mapping[str, Any] | PairOverrides | None = None,
        keep_identity: bool = False,
        data: Iterable[dict[str, Any]] | None = None,
    ) -> None:
        self.refused: list[dict[str, Any]] = []
        entries: list[tuple[str, dict[str, Any]]] = []
        if folder is not None:
            pair_overrides = PairOverrides.from_mapping(overrides)
            key = key or PUBLIC_KEY
            found = find_studies(
                folder,
                key=key,
                allow_secondary_capture=pair_overrides.allow_secondary_capture,
                frames=pair_overrides.frames,
                keep_identity=keep_identity,
            )
            for study in found.studies:
                if study.pair and study.is_complete:
                    pair = pair_films(study.pair, pair_overrides, key=key)
                    entries.append((study.key, {"image": pair}))
                else:
                    self._refuse(study.key, study.findings)
            others = ", ".join(f"{n} {kind}" for kind, n in sorted(found.other_objects.items()))
            _log.info(
                "left out: %d files that are not DICOM, DICOM objects that are not radiographs: %s",
                found.foreign_files,
                others or "none",
            )
            if not found.studies:
                info = CODES[Code.E06]
                _log.error("%s no radiographs found. To do: %s", Code.E06.value, info.action)
        entries += [("", entry) for entry in data or ()]
        read = []
        for study_key, entry in entries:
            try:
                item = entry if transform is None else transform(entry)
            except Exception as error:  # whatever it is, it must not take other studies down
                self._refuse(study_key, _findings(error))
            else:
                read.append(item)
                _log_warnings(item)
        super().__init__(read)

    def _refuse(self, study_key: str, findings: Iterable[Finding]) -> None:
        facts = [finding_facts(found) for found in findings]
        self.refused.append({"study_key": study_key, "findings": facts})
        for fact in facts:
            if fact["severity"] == "error":
                _log.error(
                    "study %s refused: %s (%s) %s. To do: %s",
                    study_key or "-",
                    fact["code"],
                    fact["role"],
                    fact["message"],
                    fact["action"],
                )


def _log_warnings(item: Mapping[str, Any]) -> None:
    """Name what was noticed about a study that was read."""
    meta = getattr(item.get("image"), "meta", {})
    for found in meta["provenance"].findings if "provenance" in meta else ():
        _log.warning(
            "study %s: %s (%s) %s", meta["study_key"], found.code.value, found.role, found.message
        )


def _findings(error: BaseException) -> tuple[Finding, ...]:
    """The findings of a refusal, or one for an unexpected error, whose text may show somebody."""
    # MONAI's Compose wraps what its transforms raise.
    while not isinstance(error, RadiographError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, RadiographError):
        return error.findings
    message = f"reading the radiographs failed unexpectedly ({type(error).__name__})"
    return (finding(Code.E01, "pair", message),)
