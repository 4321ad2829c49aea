"""The label map of 3D Slicer."""

from __future__ import annotations

from pathlib import Path

from spider_bundle.labels import LABEL_COLOURS, LABEL_NAMES


def test_slicer_reads_names_and_colours(bundle_root: Path) -> None:
    """Read as 3D Slicer does: comments left out, six values, underscores shown as spaces."""
    text = (bundle_root / "docs" / "labels.ctbl").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert all(len(row) == 6 for row in rows)
    assert {int(row[0]): row[1].replace("_", " ") for row in rows} == LABEL_NAMES
    assert {int(r[0]): tuple(map(int, r[2:5])) for r in rows} == LABEL_COLOURS
    assert [int(row[5]) for row in rows] == [0, 255, 255, 255, 255, 255]
