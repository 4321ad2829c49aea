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

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from spider_bundle.dicom.film import EQUIPMENT
from spider_bundle.dicom.overrides import ROLES, PairOverrides, merge_overrides
from spider_bundle.errors import Code, SpiderError, validation_message


class Rule(BaseModel):
    """Overrides for the studies of one kind of equipment.

    Attributes:
        match: Pattern by attribute, as in file names (``*``, ``?``, ``[...]``); case is ignored.
        overrides: See :meth:`PairOverrides.from_mapping`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, hide_input_in_errors=True
    )

    match: dict[str, str]
    overrides: dict[str, Any]

    @field_validator("match")
    @classmethod
    def _check_match(cls, match: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(match) - set(EQUIPMENT)):
            raise ValueError(f"match takes {', '.join(EQUIPMENT)}; not {', '.join(unknown)}")
        return {name: pattern.upper() for name, pattern in match.items()}

    @field_validator("overrides")
    @classmethod
    def _check_overrides(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        PairOverrides.from_mapping(overrides)
        both = [overrides, *(overrides.get(role) or {} for role in ROLES)]
        for name in ("allow_secondary_capture", "kind"):
            # which files are radiographs at all is decided before any rule can be chosen
            if any(name in side for side in both):
                raise ValueError(f"{name} cannot be stated in a profile")
        return overrides

    def fits(self, equipment: Mapping[str, str]) -> bool:
        """Return whether every pattern fits."""
        return all(fnmatchcase(equipment.get(k, ""), pattern) for k, pattern in self.match.items())


class _File(BaseModel):
    """What a profile's file holds."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    version: Literal[1]
    rules: list[Rule]


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
        return Profile(_File.model_validate(content).rules)
    except ValidationError as error:
        # rules count from 1 where people count them
        words = re.sub(
            r"\brules\.(\d+)", lambda n: f"rule {int(n[1]) + 1}", validation_message(error)
        )
        message = f"the profile is wrong: {words}"
    except Exception as error:  # each parser has its own; their text quotes the file
        message = f"the profile is not readable YAML or JSON ({type(error).__name__})"
    raise SpiderError(Code.INVALID_PROFILE, message)
