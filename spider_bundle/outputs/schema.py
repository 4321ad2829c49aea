"""JSON Schema (2020-12) of ``report.json``."""

from __future__ import annotations

from typing import Any

from spider_bundle.outputs.report import INTENDED_USE, SCHEMA_VERSION

_TEXT = {"type": "string", "minLength": 1}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}


def _closed(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _array(items: dict[str, Any], length: int | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": items}
    if length is not None:
        schema |= {"minItems": length, "maxItems": length}
    return schema


_MATRIX_ROW = _array({"type": "number"}, 4)

_SOURCED_VALUE = _closed(
    {
        "value": {
            "anyOf": [{"type": ["number", "string", "null"]}, _array({"type": ["number", "null"]})]
        },
        "source": {"enum": ["attribute", "default", "override", "derived"]},
        "attribute": _TEXT_OR_NULL,
        "unit": _TEXT_OR_NULL,
    },
    optional=("attribute", "unit"),
)

_VIEW = _closed(
    {
        "role": {"enum": ["frontal", "lateral"]},
        "view_position": {"enum": ["AP", "PA", "LL", "RL"]},
        "geometry": {"type": "object", "additionalProperties": _SOURCED_VALUE},
        "projection": {"anyOf": [{"type": "null"}, _array(_MATRIX_ROW, 3)]},
    },
    optional=("projection",),
)

_FINDING = _closed(
    {
        "code": _TEXT,
        "severity": {"enum": ["info", "warning", "error"]},
        "message": _TEXT,
        "role": _TEXT_OR_NULL,
        "attribute": _TEXT_OR_NULL,
        "action": _TEXT_OR_NULL,
    },
    optional=("role", "attribute", "action"),
)

_CORRELATION = {"type": ["number", "null"], "minimum": -1.000001, "maximum": 1.000001}

_CONSISTENCY = _closed(
    {
        "pearson": _CORRELATION,
        "spearman": _CORRELATION,
        "gradient_correlation": _CORRELATION,
        "exposed_fraction": {"type": "number", "minimum": 0, "maximum": 1},
    }
)

REPORT_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "SPIDER reconstruction report",
    **_closed(
        {
            "schema_version": {"const": SCHEMA_VERSION},
            "intended_use": {"const": INTENDED_USE},
            "study_key": {"type": "string", "pattern": "^[0-9A-Za-z][0-9A-Za-z_-]*$"},
            "software": {
                "type": "object",
                "required": ["spider_bundle", "python", "torch", "monai", "pydicom", "numpy"],
                "additionalProperties": _TEXT_OR_NULL,
            },
            "weights_sha256": {"anyOf": [{"type": "null"}, _SHA256]},
            "device": _TEXT,
            "views": _array(_VIEW, 2),
            "assumptions": _array(_TEXT),
            "findings": _array(_FINDING),
            "grid": _closed(
                {
                    "shape": _array({"type": "integer", "minimum": 1}, 3),
                    "spacing_mm": _array(_POSITIVE, 3),
                    "affine_ras": _array(_MATRIX_ROW, 4),
                }
            ),
            "intensity": _closed(
                {
                    "unit": {"const": "HU"},
                    "window": _array({"type": "number"}, 2),
                    "file_range": _array({"type": "integer"}, 2),
                    "note": _TEXT,
                }
            ),
            "labels": _array(
                _closed(
                    {
                        "value": {"type": "integer", "minimum": 0, "maximum": 255},
                        "name": _TEXT,
                        "colour": _array({"type": "integer", "minimum": 0, "maximum": 255}, 3),
                    }
                )
            ),
            "reprojection": {
                "anyOf": [
                    {"type": "null"},
                    _closed({"frontal": _CONSISTENCY, "lateral": _CONSISTENCY}),
                ]
            },
            "timings_s": {
                "type": "object",
                "additionalProperties": {"type": ["number", "null"], "minimum": 0},
            },
            "files": _array(
                _closed(
                    {
                        "name": {"type": "string", "pattern": "^[^/\\\\.][^\\\\]*$"},
                        "bytes": {"type": "integer", "minimum": 0},
                        "sha256": _SHA256,
                    }
                )
            ),
        }
    ),
}
"""Every report that :func:`~spider_bundle.outputs.report.build_report` makes satisfies it."""
