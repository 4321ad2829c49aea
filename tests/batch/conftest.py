"""A spool of small studies, and what tests ask of an output folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from spider_bundle.demo import write_demo_pair

TINY = {"shape": (64, 64), "pitch": 1.8}


@pytest.fixture(autouse=True)
def no_site_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIDER_SITE_KEY", raising=False)


@pytest.fixture
def spool(tmp_path: Path) -> Callable[..., Path]:
    """Writes studies ``s0``, ``s1``... into folders of the same name below ``in``."""

    def make(studies: int, folder: str = "in") -> Path:
        root = tmp_path / folder
        for number in range(studies):
            write_demo_pair(root / f"s{number}", name=f"s{number}", **TINY)
        return root

    return make


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """SHA-256 and time of change of every file below a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def strays(output: Path) -> list[str]:
    """Names in an output folder that should not be there when no run is going on."""
    return [p.name for p in output.iterdir() if p.name.startswith(".") and p.name != ".locks"]
