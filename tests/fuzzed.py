"""Lines of JSON that were damaged at random, but are valid JSON more often than not."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, -1, 10**400, float("nan"), float("inf"), 1e308),
    *("", "\0", "\ud800", "a\nb", "../..", "x" * 300, "\u202e"),
    *([], {}, [[]], {"": None}, [1, "a", None], {"code": [], "message": {}}),
)
"""Values that hardly any field may have."""


def fuzzed_line(generator: random.Random, record: Mapping[str, Any]) -> bytes:
    """Return the record as JSON with one to three things wrong, without the end of the line."""
    damaged: Any = json.loads(json.dumps(record))
    for _ in range(generator.randint(1, 3)):
        name = generator.choice([*record, "more"])
        match generator.randrange(4):
            case 0:
                damaged.pop(name, None)
            case 1:
                damaged[name] = {"deep": [damaged.get(name), generator.choice(ODD)]}
            case _:
                damaged[name] = generator.choice(ODD)
    line = bytearray(json.dumps(damaged).encode())
    match generator.randrange(6):
        case 0:
            line[generator.randrange(len(line))] = generator.randrange(256)
        case 1:
            del line[generator.randrange(len(line)) :]
        case 2:
            depth = generator.choice([100, 2000, 100_000])
            line = bytearray(b"[" * depth + b"]" * depth)
    return bytes(line).replace(b"\n", b" ")
