"""The labels as a colour table that 3D Slicer reads."""

from __future__ import annotations

from spider_bundle.labels import LABEL_COLOURS, LABEL_NAMES

COLOUR_TABLE_FILE = "labels.ctbl"
"""Name of the file in the bundle's ``configs``."""


def slicer_colour_table() -> str:
    """Names and colours of all labels in 3D Slicer's text format.

    One line per label: value, name, red, green, blue, opacity (0 to 255). Slicer splits the lines
    at spaces and shows an underscore in a name as a space.
    """
    lines = ["# Color table file labels.ctbl", f"# {len(LABEL_NAMES)} values"]
    for value, name in sorted(LABEL_NAMES.items()):
        red, green, blue = LABEL_COLOURS[value]
        lines.append(f"{value} {name.replace(' ', '_')} {red} {green} {blue} {255 if value else 0}")
    return "\n".join(lines) + "\n"
