"""The anatomical labels: the one place that names the classes and their colours."""

from __future__ import annotations

from enum import IntEnum


class Label(IntEnum):
    """Value of a voxel in a label map."""

    BACKGROUND = 0
    SOFT_TISSUE = 1
    BONE = 2
    INTRACRANIAL = 3
    INTERNAL_AIR = 4
    MANDIBLE = 5


LABEL_NAMES: dict[int, str] = {label.value: label.name.lower().replace("_", " ") for label in Label}
"""Readable name of each label value, background included."""

LABEL_COLOURS: dict[int, tuple[int, int, int]] = {
    Label.BACKGROUND: (0, 0, 0),
    Label.SOFT_TISSUE: (216, 160, 140),
    Label.BONE: (241, 214, 145),
    Label.INTRACRANIAL: (150, 170, 230),
    Label.INTERNAL_AIR: (111, 184, 210),
    Label.MANDIBLE: (230, 120, 60),
}
"""Display colour (red, green, blue, 0-255) of each label value."""

BONES: tuple[int, ...] = (Label.BONE, Label.MANDIBLE)
"""Labels that count as bone when bone is scored against the CT threshold."""
