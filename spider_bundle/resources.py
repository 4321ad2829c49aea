"""The cores and the memory that this process may use: of the machine, or of its container."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def available_cores(root: Path = _ROOT) -> int:
    """Return the number of cores that this process may use, at least 1.

    Args:
        root: Of the file system with ``proc`` and ``sys``.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min([cores, *map(int, _limits("cpu", _quota, root))]))


def available_memory(root: Path = _ROOT) -> int:
    """Return the memory that this process may use in bytes.

    Args:
        root: As for :func:`available_cores`.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([memory, *map(int, _limits("memory", _most_memory, root))])


def _limits(controller: str, limit: Callable[[Path], float | None], root: Path) -> Iterator[float]:
    """Limits of this process's control groups and of all groups around them.

    Control groups are those of Linux, version 2 or 1. Elsewhere there are none.
    """
    mount = root / "sys" / "fs" / "cgroup"
    for line in _words(root / "proc" / "self" / "cgroup", "\n"):
        number, *rest = line.split(":", 2)
        if len(rest) != 2:  # there are no control groups
            continue
        controllers, path = rest
        if number == "0":
            top = mount
        elif controller in controllers.split(","):
            top = mount / controller
        else:
            continue
        # a container may see its own group as the top while its path is still that of the host
        own = PurePosixPath(path.lstrip("/"))
        for folder in (own, *own.parents):
            found = limit(top / folder)
            if found is not None:
                yield found


def _quota(group: Path) -> float | None:
    """CPU time per time: ``cpu.max`` of version 2, two files in version 1."""
    words = _words(group / "cpu.max") or [
        *_words(group / "cpu.cfs_quota_us"),
        *_words(group / "cpu.cfs_period_us"),
    ]
    numbers = [int(word) for word in words if word.isdecimal()]  # neither "max" nor -1
    return numbers[0] / numbers[1] if len(numbers) == 2 and numbers[1] else None


def _most_memory(group: Path) -> float | None:
    """Bytes: ``memory.max`` of version 2, ``memory.limit_in_bytes`` of version 1."""
    words = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
    return float(words[0]) if words and words[0].isdecimal() else None


def _words(path: Path, separator: str | None = None) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").strip().split(separator)
    except OSError:
        return []
