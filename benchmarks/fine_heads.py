"""Score the bundle at 2 mm on two heads that it was never trained on.

python -m benchmarks.fine_heads --output_dir eval/fine

The heads are prepared from their source files, so this tries `spider prepare` as well.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from spider_bundle.bundle import evaluation_workflow
from spider_bundle.cases.datalist import head_datalist
from spider_bundle.cases.folder import PrepareOptions, prepare_folder
from spider_bundle.cases.resampling import block_means
from spider_bundle.evaluation.baselines.mean_head import MeanHead
from spider_bundle.evaluation.comparison import score_method
from spider_bundle.evaluation.methods import (
    Item,
    NetworkMethod,
    Reconstruction,
    sample_volume,
    world_points,
)
from spider_bundle.evaluation.protocols import v1_items
from spider_bundle.evaluation.tables import (
    comparison_table,
    file_stem,
    mean_scores,
    write_scores,
    write_text,
)
from spider_bundle.geometry import Grid

SOURCES = {"invesalius_0051": "invesalius_0051_dicom", "vtk_fullhead": "vtk_fullhead.nii.gz"}
MANDIBLES = {"vtk_fullhead": "vtk_fullhead_mandible.nii.gz"}


class Coarse:
    """The true CT and labels at 4 mm, brought back to the grid of the case."""

    def __call__(self, item: Item) -> Reconstruction:
        """Average, then interpolate."""
        grid = Grid(affine=item["affine"].numpy(), shape=tuple(item["ct"].shape))
        hu, coarse = block_means(item["ct"].numpy(), grid, 4.0)
        shares = [
            block_means((item["structure"].numpy() == label).astype(np.float32), grid, 4.0)[0]
            for label in range(6)
        ]
        points = world_points(item)
        labels = sample_volume(np.stack(shares), coarse, points, 0.0).argmax(axis=0)
        return Reconstruction(sample_volume(hu, coarse, points, -1000.0), labels.astype(np.uint8))


def prepared(name: str, heads: Path, folder: Path) -> dict[str, Any]:
    """Datalist entry of a head at 2 mm."""
    source = folder / name / "source"
    source.mkdir(parents=True)
    for file in (SOURCES[name], MANDIBLES.get(name)):
        if file:
            (source / file).symlink_to((heads / file).resolve())
    prepare_folder(source, folder / name / "out", PrepareOptions(spacing=2.0))
    (entry,) = [
        e for s in ("training", "validation") for e in head_datalist(folder / name / "out", s)
    ]
    return {**entry, "case": name}


def main() -> None:
    """Prepare, reconstruct, score, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("SPIDER_DATA", "../shared/data"))
    parser.add_argument("--data_dir", type=Path, default=default)
    parser.add_argument("--output_dir", type=Path, default=Path("eval", "fine"))
    parser.add_argument("--weights", type=Path, help="other weights than the bundle's")
    options = parser.parse_args()
    overrides: dict[str, Any] = {"data_dir": str(options.data_dir.resolve())}
    if options.weights:
        overrides["weights"] = str(options.weights.resolve())
    content = evaluation_workflow(overrides).parser.get_parsed_content
    patients = head_datalist(content("dataset_dir"), "training")
    methods = {
        "SPIDER": NetworkMethod(content("network"), content("device"), content("precision")),
        "training-mean CT": MeanHead(patients),
        "the truth at 4 mm": Coarse(),
    }
    columns = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            entry = prepared(name, options.data_dir / "heads", Path(folder))
            items = v1_items([entry], content("image_size"), content("pixel_size"))
            for title, method in methods.items():
                columns[f"{name}: {title}"] = score_method(method, items)
    for title, rows in columns.items():
        write_scores(options.output_dir, file_stem(title), rows, mean_scores(rows))
    table = comparison_table(columns)
    write_text(options.output_dir / "comparison.md", table)
    print(table)


if __name__ == "__main__":
    main()
