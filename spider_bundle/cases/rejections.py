"""Codes of scans that cannot become a head case, with their limits."""

from __future__ import annotations

from collections.abc import Mapping

from spider_bundle.dicom.errors import CodeInfo
from spider_bundle.errors import CODES as ALL_CODES
from spider_bundle.errors import Code, SpiderError

__all__ = ["CODES", "Code", "ScanRejectedError"]

_LIMITS: Mapping[Code, Mapping[str, float]] = {
    Code.P05: {"maximum_degrees": 35.0},
    Code.P06: {"largest_gap_in_steps": 1.5, "astray_mm": 1.0},
    Code.P07: {"minimum_mm": 0.01},
    Code.P08: {"minimum_slices": 16, "minimum_extent_mm": 80.0},
    Code.P09: {"maximum_mm": 6.5},
    Code.P10: {"air_hu": -700.0, "bone_hu": 200.0, "air_fraction": 0.01},
    Code.P11: {"minimum_correlation": 0.5},
}

CODES: Mapping[Code, CodeInfo] = {
    code: CodeInfo(info.condition, info.action, limits=_LIMITS.get(code, {}))
    for code, info in ALL_CODES.items()
    if code.startswith("P")
}


class ScanRejectedError(SpiderError, ValueError):
    """A scan cannot become a head case."""
