"""Exit statuses of all commands."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spider_bundle.errors import Code

EXIT_DONE = 0
#: Something failed.
EXIT_FAILED = 1
#: Bad usage.
EXIT_USAGE = 2
#: A study or scan was refused, or there was none.
EXIT_REFUSED = 3
#: Stopped before the end.
EXIT_UNFINISHED = 4

#: Statuses of errors that end a command; all others are failures.
EXIT_STATUS: Mapping[Code, int] = MappingProxyType(
    {
        Code.INVALID_KEY_FILE: EXIT_USAGE,
        Code.INVALID_PROFILE: EXIT_USAGE,
        Code.CONFIG_WRITABLE_BY_OTHERS: EXIT_USAGE,
        Code.INVALID_OPTION: EXIT_USAGE,
        Code.INPUT_UNREADABLE: EXIT_USAGE,
        Code.INVALID_ADDRESS: EXIT_USAGE,
        Code.MISSING_PACKAGE: EXIT_USAGE,
        Code.INVALID_WEIGHTS: EXIT_USAGE,
        Code.OTHER_NETWORK: EXIT_USAGE,
        Code.INVALID_DESCRIPTION: EXIT_USAGE,
        Code.NO_HEADS: EXIT_USAGE,
        Code.OUTPUT_IN_USE: EXIT_UNFINISHED,
    }
)
