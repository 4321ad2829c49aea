"""Overrides of a site, chosen by the equipment that the headers name.

A profile is a YAML or JSON file:

.. code-block:: yaml

    version: 1
    rules:
      - match: {Manufacturer: "Acme*", ManufacturerModelName: "Ceph 3000", Modality: DX}
        overrides: {sod: 1524, lateral: {sdd: 1650}}

The first rule whose patterns fit both radiographs of a study holds for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from spider_bundle.dicom.film import EQUIPMENT
from spider_bundle.dicom.overrides import ROLES, PairOverrides, merge_overrides
from spider_bundle.errors import Code, SpiderError

VERSION = 1


@dataclass(frozen=True)
class Rule:
    """Overrides for the studies of one kind of equipment.

    Attributes:
        match: Pattern by attribute, as in file names (``*``, ``?``, ``[...]``), upper case.
        overrides: See :meth:`PairOverrides.from_mapping`.
    """

    match: Mapping[str, str]
    overrides: Mapping[str, Any]

    def fits(self, equipment: Mapping[str, str]) -> bool:
        """Whether every pattern fits."""
        return all(fnmatchcase(equipment.get(k, ""), pattern) for k, pattern in self.match.items())


@dataclass(frozen=True)
class Profile:
    """The rules of a site.

    Attributes:
        rules: In the order of their file.
        base: Overrides of every study; those of a rule win, see :func:`merge_overrides`.
    """

    rules: Sequence[Rule] = ()
    base: Mapping[str, Any] = field(default_factory=dict)

    def rule_for(self, *sides: Mapping[str, str]) -> tuple[int | None, Mapping[str, Any]]:
        """Find the rule of a study.

        Args:
            sides: ``equipment`` of each :class:`~spider_bundle.dicom.film.Film`.

        Returns:
            Number of the rule from 1, or None, and the overrides of the study.
        """
        for number, rule in enumerate(self.rules, 1):
            if all(rule.fits(side) for side in sides):
                return number, merge_overrides(self.base, rule.overrides)
        return None, self.base


def read_profile(path: Path) -> Profile:
    """Read and check a profile.

    Raises:
        SpiderError: S01, with the entry that is wrong.
    """
    from monai.bundle import ConfigParser  # heavy: most runs have no profile

    try:
        content = ConfigParser.load_config_file(str(path))
    except Exception as error:  # each parser has its own; their text quotes the file
        message = f"the profile is not readable YAML or JSON ({type(error).__name__})"
        raise SpiderError(Code.INVALID_PROFILE, message) from None
    if not isinstance(content, Mapping):
        raise SpiderError(
            Code.INVALID_PROFILE, "the profile is not a mapping with version and rules"
        )
    unknown = sorted(map(str, set(content) - {"version", "rules"}))
    if unknown or content.get("version") != VERSION:
        message = f"unknown entries {unknown}" if unknown else f"version must be {VERSION}"
        raise SpiderError(Code.INVALID_PROFILE, message)
    rules = content.get("rules")
    if not isinstance(rules, Sequence) or isinstance(rules, str):
        raise SpiderError(Code.INVALID_PROFILE, "rules must be a list")
    return Profile(tuple(_rule(number, entry) for number, entry in enumerate(rules, 1)))


def _rule(number: int, entry: Any) -> Rule:
    try:
        if not isinstance(entry, Mapping) or set(entry) != {"match", "overrides"}:
            raise ValueError("it must have match and overrides, and nothing else")
        match, overrides = entry["match"], entry["overrides"]
        if not isinstance(match, Mapping) or not isinstance(overrides, Mapping):
            raise ValueError("match and overrides must be mappings")
        unknown = sorted(map(str, set(match) - set(EQUIPMENT)))
        if unknown:
            raise ValueError(f"match takes {', '.join(EQUIPMENT)}; not {', '.join(unknown)}")
        PairOverrides.from_mapping(overrides)
        both = [overrides, *(overrides.get(role) or {} for role in ROLES)]
        if any("allow_secondary_capture" in side for side in both):
            # which files are radiographs at all is decided before any rule can be chosen
            raise ValueError("allow_secondary_capture cannot be stated in a profile")
    except ValueError as error:
        raise SpiderError(Code.INVALID_PROFILE, f"rule {number} of the profile: {error}") from None
    return Rule({name: str(pattern).upper() for name, pattern in match.items()}, dict(overrides))
