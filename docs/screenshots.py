"""Make the pictures of real runs that the documentation shows: ``python docs/screenshots.py``.

A night of three synthetic studies is run through ``spider batch``: the demo, another head phantom,
and one without its lateral, which is refused. The preview of the demo, its page and the index page
of the night go to ``docs/images``; the pages are opened in Chromium, without a window and without
network. Everything comes from head phantoms: no patient is involved.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from pydicom import dcmread

from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.studies import study_key
from spider_bundle.outputs.html_report import HTML_FILE, INDEX_FILE
from spider_bundle.outputs.preview import PREVIEW_FILE
from spider_bundle.phantom import HeadPhantom

IMAGES = Path(__file__).resolve().parent / "images"


def run_night(folder: Path) -> tuple[Path, Path]:
    """Reconstruct the night's studies.

    Args:
        folder: Empty folder to work in.

    Returns:
        Folder of the results and, in it, the folder of the demo's study.
    """
    spool, results = folder / "spool", folder / "results"
    frontal, _ = write_demo_pair(spool / "1")
    write_demo_pair(spool / "2", HeadPhantom.random(7), name="second")
    _, lateral = write_demo_pair(spool / "3", name="third")
    lateral.unlink()
    command = [sys.executable, "-m", "spider_bundle.cli", "batch", str(spool), str(results)]
    public = {name: value for name, value in os.environ.items() if name != "SPIDER_SITE_KEY"}
    done = subprocess.run([*command, "--html"], check=False, env=public)
    if done.returncode != 3:  # one study of three is refused
        raise SystemExit(f"spider batch ended with {done.returncode}")
    key = study_key(dcmread(frontal, stop_before_pixels=True).StudyInstanceUID)
    return results, results / key


def photograph(page: Path, picture: Path, size: tuple[int, int], browser: str) -> None:
    """Open a page and save what a window of a size shows.

    Args:
        page: HTML file.
        picture: PNG file to write.
        size: Width and height of the window, pixels.
        browser: Program of Chromium.
    """
    width, height = size
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={width},{height}", f"--screenshot={raw}"]
        subprocess.run(
            [browser, *options, page.as_uri()], check=True, capture_output=True, timeout=120
        )
        with Image.open(raw) as image:
            save_small(image, picture)


def save_small(image: Image.Image, picture: Path) -> None:
    """Save as PNG with 256 colours, a third of the size.

    Of the ways to choose the colours this keeps the rare ones, those of a legend.
    """
    small = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    small.save(picture, optimize=True)


def main() -> None:
    """Run the night and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", default="chromium", help="program of Chromium")
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder for the pictures")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results, study = run_night(Path(folder))
        with Image.open(study / PREVIEW_FILE) as preview:
            save_small(preview, arguments.output / PREVIEW_FILE)
        photograph(
            study / HTML_FILE, arguments.output / "report.png", (1240, 1500), arguments.browser
        )
        photograph(
            results / INDEX_FILE, arguments.output / "batch.png", (1240, 830), arguments.browser
        )


if __name__ == "__main__":
    main()
