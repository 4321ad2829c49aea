"""Cores and memory that a process may use, in a made-up file system of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spider_bundle.resources import available_cores, available_memory

CORES, MEMORY = 16, 64 << 30
UNLIMITED = {"memory.limit_in_bytes": "9223372036854771712", "cpu.cfs_quota_us": "-1"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PHYS_PAGES": MEMORY // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)


def test_without_control_groups_all_of_the_machine(tmp_path: Path) -> None:
    assert (available_cores(tmp_path), available_memory(tmp_path)) == (CORES, MEMORY)
    listing = tmp_path / "proc" / "self" / "cgroup"
    listing.parent.mkdir(parents=True)
    listing.touch()  # nothing is mounted
    assert (available_cores(tmp_path), available_memory(tmp_path)) == (CORES, MEMORY)


@pytest.mark.parametrize(
    ("group", "files", "cores", "gib"),
    [
        # a container in a name space of its own
        ("0::/", {"memory.max": "8589934592", "cpu.max": "250000 100000"}, 2, 8),
        ("0::/", {"memory.max": "max", "cpu.max": "max 100000"}, 16, 64),
        ("0::/", {"memory.max": "68719476736000", "cpu.max": "6400000 100000"}, 16, 64),
        ("0::/", {"cpu.max": "50000 100000"}, 1, 64),
        # a systemd service; its slice has the tighter memory
        (
            "0::/system.slice/spider.service",
            {
                "system.slice/spider.service/memory.max": "17179869184",
                "system.slice/spider.service/cpu.max": "400000 100000",
                "system.slice/memory.max": "4294967296",
                "system.slice/cpu.max": "max 100000",
            },
            4,
            4,
        ),
        # of another group nothing is taken
        (
            "0::/user.slice",
            {"user.slice2/memory.max": "4096", "user.slice2/cpu.max": "1 1"},
            16,
            64,
        ),
        # a container of version 1 with the path of the host
        (
            "7:cpu,cpuacct:/docker/f00\n4:memory:/docker/f00\n1:name=systemd:/docker/f00\n0::/",
            {
                "memory/memory.limit_in_bytes": "6442450944",
                "cpu/cpu.cfs_quota_us": "300000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            3,
            6,
        ),
        (
            "7:cpu,cpuacct:/a\n4:memory:/a",
            {
                **{f"memory/{k}": v for k, v in UNLIMITED.items()},
                **{f"cpu/{k}": v for k, v in UNLIMITED.items()},
                "cpu/cpu.cfs_period_us": "100000",
                "memory/a/memory.limit_in_bytes": "3221225472",
            },
            16,
            3,
        ),
    ],
)
def test_the_tightest_limit_of_the_own_groups_counts(
    group: str, files: dict[str, str], cores: int, gib: int, tmp_path: Path
) -> None:
    own = tmp_path / "proc" / "self" / "cgroup"
    own.parent.mkdir(parents=True)
    own.write_text(f"{group}\n")
    for name, content in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    assert (available_cores(tmp_path), available_memory(tmp_path)) == (cores, gib << 30)
