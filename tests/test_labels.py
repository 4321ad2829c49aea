"""The anatomical labels, which files and trained weights depend on."""

from __future__ import annotations

from pathlib import Path

from spider_bundle.labels import BONES, LABEL_COLOURS, LABEL_NAMES, Label


def test_values_are_those_of_written_files() -> None:
    assert {label.name: int(label) for label in Label} == {
        "BACKGROUND": 0,
        "SOFT_TISSUE": 1,
        "BONE": 2,
        "INTRACRANIAL": 3,
        "INTERNAL_AIR": 4,
        "MANDIBLE": 5,
    }


def test_values_index_the_channels_of_the_network() -> None:
    assert [int(label) for label in Label] == list(range(len(Label)))


def test_every_label_has_its_own_name_and_colour() -> None:
    assert set(LABEL_NAMES) == set(LABEL_COLOURS) == {int(label) for label in Label}
    assert len(set(LABEL_NAMES.values())) == len(set(LABEL_COLOURS.values())) == len(Label)
    assert LABEL_NAMES[Label.INTERNAL_AIR] == "internal air"
    assert all(0 <= part <= 255 for colour in LABEL_COLOURS.values() for part in colour)


def test_bone_is_scored_with_the_mandible() -> None:
    assert set(BONES) == {Label.BONE, Label.MANDIBLE}


def test_slicer_reads_names_and_colours(bundle_root: Path) -> None:
    """Read as 3D Slicer does: comments left out, six values, underscores shown as spaces."""
    text = (bundle_root / "configs" / "labels.ctbl").read_text(encoding="ascii")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert all(len(row) == 6 for row in rows)
    assert {int(row[0]): row[1].replace("_", " ") for row in rows} == LABEL_NAMES
    assert {int(r[0]): tuple(map(int, r[2:5])) for r in rows} == LABEL_COLOURS
    assert [int(row[5]) for row in rows] == [0, 255, 255, 255, 255, 255]
