"""Fixtures of the tests of what only comparisons need."""

from __future__ import annotations

from tests.conftest import bundle_root as bundle_root
from tests.conftest import shared_data as shared_data
