"""Distance of the isocentres that `spider prepare` finds from those of the stored heads.

python -m benchmarks.isocentre
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from spider_bundle.cases.case import load_case
from spider_bundle.cases.datalist import head_datalist
from spider_bundle.cases.localise import locate_head


def main() -> None:
    """Locate every head from its measured voxels alone and print the distances."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("SPIDER_DATA", "../shared/data"), "heads", "openkbp_4mm")
    parser.add_argument("--dataset_dir", type=Path, default=default)
    parser.add_argument("--section", default="training")
    options = parser.parse_args()
    found = []
    for entry in head_datalist(options.dataset_dir, options.section):
        case = load_case(entry)
        hu = np.where(case.measured, case.hu, -1000.0)
        found.append(locate_head(hu, case.measured, case.grid).isocentre)
    distances = np.linalg.norm(found, axis=1)
    print(
        f"{len(found)} heads: median {np.median(distances):.1f} mm, 90th percentile "
        f"{np.percentile(distances, 90):.1f} mm, most {distances.max():.1f} mm, mean offset "
        f"{np.round(np.mean(found, axis=0), 1)} mm (LPS)"
    )


if __name__ == "__main__":
    main()
