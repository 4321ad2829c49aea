"""What a stable code is, and errors that carry one; the tables are where the codes are raised.

Conditions, actions and messages are shown to operators. They never hold a name, an identifier, a
date, a path or a UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar


@dataclass(frozen=True)
class CodeInfo:
    """What a code means.

    Attributes:
        condition: When it is raised.
        action: What the operator can do.
        limits: Numeric limits by name; the unit ends the name.
    """

    condition: str
    action: str
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class CodedError(Exception):
    """Something that cannot start or go on; the message names no patient's file.

    Attributes:
        table: What the codes of this kind of error mean.
        code: What it is.
        message: What is wrong, without code and action.
    """

    table: ClassVar[Mapping[Any, CodeInfo]]

    def __init__(self, code: StrEnum, message: str = "") -> None:
        self.code = code
        info = self.table[code]
        self.message = message or info.condition
        super().__init__(f"{code.value} {self.message}. To do: {info.action}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as what it was made of."""
        return type(self), (self.code, self.message)
