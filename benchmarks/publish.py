"""Put the results of an evaluation into the documentation and the metadata.

python benchmarks/publish.py --results eval
"""

from __future__ import annotations

import argparse
from pathlib import Path

from spider_bundle.bundle import bundle_root
from spider_bundle.evaluation.publish import publish_metadata, publish_tables


def main() -> None:
    """Replace every marked table and picture, and the scores in the metadata."""
    root = bundle_root()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=root / "eval")
    options = parser.parse_args()
    for page in publish_tables(options.results, sorted((root / "docs").glob("*.md"))):
        print(f"changed {page.relative_to(root)}")
    publish_metadata(options.results, [root / "metadata.json", root / "configs" / "metadata.json"])


if __name__ == "__main__":
    main()
