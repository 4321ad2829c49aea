"""Write what the package knows into the pages: ``python docs/tables.py``, run by ``make docs``.

A table of codes stands between ``<!-- codes FAMILIES -->`` and ``<!-- end -->``, the limits behind
the codes of radiographs between ``<!-- limits -->`` and ``<!-- end -->``, the scores of the weights
in one sentence between ``<!-- accuracy -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from spider_bundle.dicom import (
    acquisition_geometry,
    checks,
    field,
    likeness,
    pair,
    pixels,
    studies,
    view,
)
from spider_bundle.errors import CODES, Code, Info

DOCS = Path(__file__).resolve().parent
PAGES = (
    "../README.md",
    "reference_errors.md",
    "howto_batch.md",
    "howto_pacs.md",
    "howto_prepare.md",
)

LIMITS = {
    "E07": f"{studies.MAXIMUM_GAP:g} minutes between the two radiographs. The warning also comes "
    "when the time is not known.",
    "E08": f"{view.MAXIMUM_DEVIATION:g} degrees between the positioner angles and the nearest "
    "plain view.",
    "E11": f"SDD from {acquisition_geometry.MINIMUM_SDD:g} to {acquisition_geometry.MAXIMUM_SDD:g} "
    "mm.",
    "E12": f"Pixel pitch from {acquisition_geometry.MINIMUM_PITCH:g} to "
    f"{acquisition_geometry.MAXIMUM_PITCH:g} mm; that of rows and that of columns differ by at "
    f"most {acquisition_geometry.ANISOTROPY:.0%}. The image is "
    f"{acquisition_geometry.MINIMUM_FIELD:g} to {acquisition_geometry.MAXIMUM_FIELD:g} mm wide and "
    "high at the detector.",
    "E13": f"More than {acquisition_geometry.SPACING_DIFFERENCE:.0%} between PixelSpacing and "
    "ImagerPixelSpacing.",
    "E14": "Half a small head along the beam "
    f"({acquisition_geometry.HALF_HEAD_FRONTAL:g} mm frontal, "
    f"{acquisition_geometry.HALF_HEAD_LATERAL:g} mm lateral) fits between isocentre and detector, "
    f"and leaves {acquisition_geometry.SOURCE_TO_SKIN:g} mm to the source.",
    "E16": f"At least {pixels.MINIMUM_DISTINCT_VALUES} distinct values, at most "
    f"{pixels.MAXIMUM_SATURATED:.0%} of the pixels at the two extreme values; neighbours correlate "
    f"by at least {likeness.MINIMUM_CORRELATION:g}; edges up to "
    f"{checks.MAXIMUM_EDGE} pixels, {checks.MAXIMUM_FRAME_PIXELS:g} pixels in a frame and "
    f"{checks.MAXIMUM_PIXELS:g} in a file.",
    "E18": f"At least {checks.ISOCENTRE_USABLE:.0%} of the disc of {checks.ISOCENTRE_RADIUS:g} mm "
    "about the isocentre is exposed. The head counts as cut where more than "
    f"{checks.CUT_EDGE:.0%} of the pixels along a border are dense; the inferior border does "
    "not count, because the neck always leaves there. A declared shutter or collimator that leaves "
    f"less than {field.MINIMUM_FIELD:.0%} of the image is ignored.",
    "E19": f"The angle between the two beams is {pair.NOMINAL_ANGLE:g} degrees, give or take "
    f"{pair.ANGLE_TOLERANCE:g}.",
    "E24": f"Strips along the borders, {checks.STRIP:.0%} of the image wide, count as air when "
    f"their values spread over at most {checks.AIR_SPREAD:g} and lie within {checks.AIR_LEVEL:g}"
    f" of an end of the scale from 0 to 1; {checks.CONTRADICTING_SIDES} of them must contradict.",
}
"""What is compared with what, by the code."""

_TABLE = re.compile(r"(<!-- (?:codes ([A-Z]+)|limits|accuracy) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(text: str) -> str:
    """Return a page with its tables as the package has them."""
    return _TABLE.sub(lambda found: found[1] + _content(found[1], found[2]) + found[3], text)


def _content(mark: str, families: str | None) -> str:
    if "accuracy" in mark:
        return accuracy()
    if families is None:
        return "".join(f"- **{code}**: {limit}\n" for code, limit in LIMITS.items())
    infos = [(code, info) for code, info in CODES.items() if code[0] in families]
    rows = _radiograph_rows(infos) if families == "E" else _rows(infos)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def accuracy() -> str:
    """Return the scores in the bundle's metadata as a sentence."""
    metadata = json.loads((DOCS.parent / "metadata.json").read_text(encoding="utf-8"))
    scores, mean = (metadata["eval_metrics"][name] for name in ("spider", "training_mean_ct"))
    return (
        "On 11 held-out patients (simulated radiographs, known geometry, 4 mm voxels): "
        f"PSNR {scores['psnr_db']:.1f} dB,\nmean error {scores['mae_hu']:.0f} HU, Dice of bone "
        f"{scores['dice_bone']:.2f}. The mean CT of the training patients has "
        f"{mean['psnr_db']:.1f} dB, {mean['mae_hu']:.0f} HU and\n{mean['dice_bone']:.2f} "
        "([results](docs/results.md)).\n"
    )


def _radiograph_rows(infos: Sequence[tuple[Code, Info]]) -> Iterator[Sequence[str]]:
    yield "code", "severity", "condition", "attribute", "what to do"
    yield ["---"] * 5
    for code, info in infos:
        yield code, info.severity, info.condition, info.attribute or "", info.action


def _rows(infos: Sequence[tuple[Code, Info]]) -> Iterator[Sequence[str]]:
    yield "code", "condition", "what to do"
    yield ["---"] * 3
    for code, info in infos:
        yield code, info.condition, info.action


def main() -> None:
    """Update all pages."""
    for name in PAGES:
        path = DOCS / name
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
