"""Fixtures of the tests of what only comparisons need."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    """Top folder of the repository, which is the bundle."""
    return ROOT
