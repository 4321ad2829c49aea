"""Codes of radiographs with their limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spider_bundle.errors import CODES as ALL_CODES
from spider_bundle.errors import Code, Finding, Info, Severity, SpiderError, finding

__all__ = [
    "CODES",
    "Code",
    "CodeInfo",
    "Finding",
    "RadiographError",
    "Severity",
    "finding",
    "finding_facts",
]


@dataclass(frozen=True)
class CodeInfo(Info):
    """Meaning of a code with its numeric limits by name; the unit ends the name."""

    limits: Mapping[str, float] = field(default_factory=dict)


_LIMITS: Mapping[Code, Mapping[str, float]] = {
    Code.E07: {"warning_minutes": 30.0},
    Code.E08: {"positioner_degrees": 10.0},
    Code.E11: {"minimum_mm": 500.0, "maximum_mm": 4500.0},
    Code.E12: {"minimum_mm": 0.01, "maximum_mm": 2.0, "anisotropy": 0.01},
    Code.E13: {"relative_difference": 0.01},
    Code.E14: {"maximum_magnification": 20.0},
    Code.E16: {
        "minimum_distinct_values": 16,
        "maximum_saturated_fraction": 0.9,
        "maximum_edge": 65535,
        "maximum_frame_pixels": 1e8,
        "maximum_pixels": 2e9,
    },
    Code.E18: {
        "isocentre_radius_mm": 40.0,
        "isocentre_usable_fraction": 0.5,
        "edge_fraction": 0.2,
        "minimum_field_fraction": 0.05,
    },
    Code.E19: {"nominal_degrees": 90.0, "tolerance_degrees": 10.0},
    Code.E24: {
        "strip_fraction": 0.05,
        "air_level": 0.2,
        "air_spread": 0.08,
        "contradicting_sides": 2,
    },
}

CODES: Mapping[Code, CodeInfo] = {
    code: CodeInfo(
        info.condition, info.action, info.severity, info.attribute, _LIMITS.get(code, {})
    )
    for code, info in ALL_CODES.items()
    if code.startswith("E")
}

finding_facts = Finding.facts


RadiographError = SpiderError
