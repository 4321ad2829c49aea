"""Score the bundle from files on disk: cases to DX pairs to NIfTI, against the cases.

python -m benchmarks.from_files --output_dir eval/from_files
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from benchmarks.case_films import case_grid_overrides, score_files, write_case_films
from spider_bundle.bundle import inference_workflow
from spider_bundle.cases.case import load_case
from spider_bundle.cases.datalist import head_datalist
from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.evaluation.baselines.mean_head import MeanHead
from spider_bundle.evaluation.comparison import score_method
from spider_bundle.evaluation.tables import (
    comparison_table,
    mean_scores,
    write_scores,
    write_text,
)


def main() -> None:
    """Run over a list of cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("SPIDER_DATA", "../shared/data"), "heads", "openkbp_4mm")
    parser.add_argument("--dataset_dir", type=Path, default=default)
    parser.add_argument("--section", default="validation")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many cases")
    parser.add_argument("--output_dir", type=Path, default=Path("eval", "from_files"))
    options = parser.parse_args()
    entries = head_datalist(options.dataset_dir, options.section)[: options.limit]
    rows = []
    for entry in entries:
        case = load_case(entry)
        work = options.output_dir / entry["case"]
        shutil.rmtree(work, ignore_errors=True)
        kinds = write_case_films(case, entry["case"], work / "dicom")
        overrides = {
            "dataset_dir": str(work / "dicom"),
            "output_dir": str(work / "study"),
            **case_grid_overrides(case),
        }
        workflow = inference_workflow(overrides)
        workflow.run()
        (report,) = (work / "study").glob("*/report.json")
        rows.append({"case": entry["case"], **score_files(report.parent, case)})
        print(f"{entry['case']}: PSNR {rows[-1]['psnr_db']:.2f} dB; {kinds}")
    write_scores(options.output_dir, "from_files", rows, mean_scores(rows))
    mean_head = MeanHead(head_datalist(options.dataset_dir, "training"))
    heads = [LoadHeadCased()(entry) for entry in entries]
    columns = {
        "training-mean CT": score_method(mean_head, heads),
        "SPIDER, from DICOM files": rows,
    }
    table = comparison_table(columns)
    write_text(options.output_dir / "from_files.md", table)
    print(table)


if __name__ == "__main__":
    main()
