"""A MONAI dataset of the radiograph pairs below a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import Dataset

from spider_bundle.dicom.overrides import ROLES, PairOverrides
from spider_bundle.dicom.pair import FilmPair, describe_pair, pair_films
from spider_bundle.dicom.studies import PUBLIC_KEY, find_studies
from spider_bundle.errors import (
    CODES,
    Code,
    Finding,
    Severity,
    SpiderError,
    finding,
    line,
    root_cause,
)

_log = logging.getLogger(__name__)

REFUSED = "refused"
"""Key of an item that was refused: ``{"refused": {"study_key": ..., "findings": [...]}}``."""


class StudyDataset(Dataset):
    """The studies below a folder; their pixels are read when an item is asked for.

    Headers are judged when the dataset is made, so what they rule out is in :attr:`refused` before
    the network starts. A study that turns out unusable when its pixels are read, even by an
    unexpected error, takes no other one down: its item is ``{"refused": ...}`` in place of
    ``image`` and ``mask``. It may come from a loading process, so whoever runs the dataset hands it
    to :meth:`refuse`.

    Args:
        folder: Any tree of files, or several.
        transform: Reads an entry ``{"image": FilmPair}``.
        key: Secret of the site for the study key; :data:`~.studies.PUBLIC_KEY` if not given.
        overrides: See :meth:`~.overrides.PairOverrides.from_mapping`.
        keep_identity: Whether to read the identity of patient and study.
        data: Further entries for the transform; ``image`` may also name two files, as a list or
            as a mapping of ``frontal`` and ``lateral``.

    Raises:
        FileNotFoundError: A folder does not exist, or its name is empty.

    Attributes:
        refused: Study key and findings of each study or file that was refused, as plain values.
        files: Files of each study by its key, refused ones included; only for who named them.
        unusable: Number of items among them; the others were refused by their headers.
        skipped: Number of CT studies without a pair of localisers of the head, which are passed
            over unless the folder holds one study only.
    """

    def __init__(
        self,
        folder: str | Path | Iterable[str | Path] | None = None,
        transform: Callable[[Any], Any] | None = None,
        key: str | None = None,
        overrides: Mapping[str, Any] | PairOverrides | None = None,
        keep_identity: bool = False,
        data: Iterable[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__([], transform)
        self.refused: list[Mapping[str, Any]] = []
        self.files: dict[str, Sequence[Path]] = {}
        self.unusable = 0
        self.skipped = 0
        overrides = PairOverrides.from_mapping(overrides)
        key = key or PUBLIC_KEY
        if folder is not None:
            self._find(folder, key, overrides, keep_identity)
        for entry in data or ():
            self._add("", _described(entry, overrides, key, keep_identity))

    def _find(
        self,
        folder: str | Path | Iterable[str | Path],
        key: str,
        overrides: PairOverrides,
        keep_identity: bool,
    ) -> None:
        found = find_studies(
            folder,
            key=key,
            allow_secondary_capture=overrides.allow_secondary_capture,
            frames=overrides.frames,
            keep_identity=keep_identity,
            kind=overrides.kind,
        )
        for unread in found.refusals:
            self.files[unread.study_key] = unread.files
            self._note({"study_key": unread.study_key, "findings": list(unread.findings)})
        named = found.studies or (found.skipped if len(found.skipped) == 1 else ())
        for study in named:
            self.files[study.key] = [film.path for film in study.films]
            if study.pair is None or not study.is_complete:
                self._note(_refusal(study.key, study.findings))
            else:
                pair = pair_films(study.pair, overrides, key=key)
                self._add(study.key, {"image": pair})
        others = ", ".join(f"{n} {kind}" for kind, n in sorted(found.other_objects.items()))
        _log.info(
            "skipped: %d files that are not DICOM, DICOM objects that are not radiographs: %s",
            found.foreign_files,
            others or "none",
        )
        self.skipped = len(found.studies) + len(found.skipped) - len(named)
        if self.skipped:
            code = Code.NO_HEAD_LOCALISERS
            _log.info(
                "skipped: %d of these: %s %s", self.skipped, code.value, CODES[code].condition
            )
        if not named and not self.skipped and not found.refusals:
            _log.error("%s", line(Code.NOT_A_PAIR, "no radiographs found"))

    def _add(self, study_key: str, entry: Mapping[str, Any]) -> None:
        """Take an entry, or refuse it by its headers."""
        pair = entry.get("image")
        # the pixels of what is refused anyway may show more that has to be mended
        is_out = isinstance(pair, FilmPair) and pair.has_errors
        item = self._read(study_key, entry) if is_out else {}
        if REFUSED in item:
            self._note(item[REFUSED])
        else:
            self.data.append((study_key, entry))

    def refuse(self, refused: Mapping[str, Any]) -> None:
        """Note and log that an item was refused, by its value of :data:`REFUSED`."""
        self.unusable += 1
        self._note(refused)

    def _note(self, refused: Mapping[str, Any]) -> None:
        self.refused.append(refused)
        for fact in refused["findings"]:
            if fact["severity"] == Severity.ERROR.value:
                _log.error(
                    "study %s refused: %s (%s) %s. To do: %s",
                    refused["study_key"] or "-",
                    fact["code"],
                    fact["role"],
                    fact["message"],
                    fact["action"],
                )

    def read(self) -> Iterator[dict[str, Any]]:
        """Read the studies one by one; those that turn out unusable are refused."""
        for index in range(len(self)):
            item = self[index]
            if REFUSED in item:
                self.refuse(item[REFUSED])
            else:
                yield item

    def _transform(self, index: int) -> dict[str, Any]:
        return self._read(*self.data[index])

    def _read(self, study_key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        try:
            item = dict(entry if self.transform is None else self.transform(entry))
        except Exception as error:  # whatever it is, it must not take other studies down
            return {REFUSED: _refusal(study_key, _findings(error))}
        meta = getattr(item.get("image"), "meta", {})
        for found in meta["provenance"].findings if "provenance" in meta else ():
            _log.warning(
                "study %s: %s (%s) %s", meta["study_key"], found.code, found.role, found.message
            )
        return item


def _described(
    entry: Mapping[str, Any], overrides: PairOverrides, key: str, keep_identity: bool
) -> Mapping[str, Any]:
    """Return an entry with its two files described; any other is left to the transform."""
    source = entry.get("image")
    if isinstance(source, Mapping):
        source = [source[role] for role in ROLES if role in source]
    if not isinstance(source, (list, tuple)) or len(source) != len(ROLES):
        return entry
    try:
        pair = describe_pair(source, overrides, key=key, keep_identity=keep_identity)
    except Exception:  # it comes again when the transform reads the entry, and is refused there
        return entry
    return {**entry, "image": pair}


def _refusal(study_key: str, findings: Iterable[Finding]) -> dict[str, Any]:
    return {"study_key": study_key, "findings": [found.facts() for found in findings]}


def _findings(error: BaseException) -> tuple[Finding, ...]:
    """Return the findings of an error; of an unexpected one, whose text may show somebody, E01."""
    cause = root_cause(error)  # MONAI's Compose wraps what its transforms raise
    if isinstance(cause, SpiderError):
        return cause.findings
    message = f"reading the radiographs failed unexpectedly ({type(cause).__name__})"
    return (finding(Code.NOT_A_RADIOGRAPH, "pair", message),)
