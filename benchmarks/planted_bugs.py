"""Plant bugs one by one in a copy of the package and tell which of them the tests catch.

Every bug is one replaced text; the tests that should see it are named beside it. A text that the
package does not hold exactly once ends the run, so that the list stays true. One JSON line per bug.

Run ``python -m benchmarks.planted_bugs``; it takes about half an hour on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from spider_bundle.bundle import bundle_root

_COPIED = ("spider_bundle", "tests", "benchmarks", "configs", "models", "docs")
_FILES = ("pyproject.toml", "metadata.json", "README.md", "CHANGELOG.md", "LICENSE", "Makefile")


@dataclass(frozen=True)
class Bug:
    """A bug to plant.

    Attributes:
        name: What is wrong, in words.
        module: File below ``spider_bundle/``.
        right: Text of the file, found once.
        wrong: What it becomes.
        tests: Tests that should fail, separated by blanks.
    """

    name: str
    module: str
    right: str
    wrong: str
    tests: str


BUGS = (
    Bug(
        "x axis of NIfTI files mirrored",
        "grid.py",
        "np.diag([-1.0, -1.0, 1.0, 1.0])",
        "np.diag([1.0, -1.0, 1.0, 1.0])",
        "tests/test_geometry.py tests/outputs/test_nifti.py",
    ),
    Bug(
        "isocentre half a voxel off",
        "grid.py",
        "-step * (counts - 1) / 2",
        "-step * counts / 2",
        "tests/test_geometry.py",
    ),
    Bug(
        "rotations left-handed",
        "geometry.py",
        "rotation[i, j], rotation[j, i] = -s, s",
        "rotation[i, j], rotation[j, i] = s, -s",
        "tests/test_geometry.py",
    ),
    Bug(
        "secondary positioner angle with the wrong sign",
        "geometry.py",
        "rotation_about(0, -secondary)",
        "rotation_about(0, secondary)",
        "tests/test_geometry.py",
    ),
    Bug(
        "row and column pitch swapped",
        "geometry.py",
        "self.spacing[1] * self.column_vector,\n                self.spacing[0] * self.row_vector,",
        "self.spacing[0] * self.column_vector,\n                self.spacing[1] * self.row_vector,",
        "tests/test_geometry.py",
    ),
    Bug(
        "crop off by one",
        "geometry.py",
        "top + (shape[0] - 1) / 2)",
        "top + shape[0] / 2)",
        "tests/test_geometry.py",
    ),
    Bug(
        "a rolled detector is not turned back",
        "geometry.py",
        "return seen.levelled()",
        "return seen",
        "tests/test_geometry.py",
    ),
    Bug(
        "principal point on the wrong side",
        "geometry.py",
        "(middle[0] - principal_point[0])",
        "(principal_point[0] - middle[0])",
        "tests/test_geometry.py",
    ),
    Bug(
        "slot scans perspective along the travel",
        "slot_view.py",
        "turned[3] = [0.0, 0.0, 0.0, 1.0]",
        "turned[3] = turned[2]",
        "tests/test_slot_view.py",
    ),
    Bug(
        "pitch of slot scans measured at the axis",
        "slot_view.py",
        "(spacing[0], spacing[1] * sdd / sod)",
        "spacing",
        "tests/test_slot_view.py",
    ),
    Bug(
        "line integrals without the length of the step",
        "projection.py",
        "return total * length",
        "return total",
        "tests/test_projection.py",
    ),
    Bug(
        "points behind the source are seen",
        "projection_matrix.py",
        "torch.where(depth > 1e-6, pixels, torch.full_like(pixels, -1e6))",
        "pixels",
        "tests/test_projection.py tests/test_geometry.py tests/networks",
    ),
    Bug(
        "maps read half a pixel off",
        "networks/sampling.py",
        "shift = (stride - 1) / 2",
        "shift = stride / 2",
        "tests/networks",
    ),
    Bug(
        "views swapped in folded decoding",
        "networks/spider.py",
        "[self._folded_maps(maps), self._folded",
        "[self._folded_maps(maps.flip(0)), self._folded",
        "tests/networks",
    ),
    Bug(
        "the views exchange the wrong rows",
        "networks/encoder.py",
        "rows.flip(1)",
        "rows",
        "tests/networks",
    ),
    Bug(
        "HU window of the network wrong",
        "intensity.py",
        "HU_WINDOW: tuple[float, float] = (-1000.0, 2000.0)",
        "HU_WINDOW: tuple[float, float] = (-1024.0, 2000.0)",
        "tests/test_intensity.py",
    ),
    Bug(
        "ambiguous points favour one label",
        "training/losses.py",
        "(known + (1 - known) * (1 - allowed))",
        "torch.ones_like(allowed)",
        "tests/training/test_losses.py",
    ),
    Bug(
        "completed voxels weigh like measured ones",
        "cases/transforms.py",
        "weight = weight + self.completed_weight * (1 - weight)",
        "weight = weight + (1 - weight)",
        "tests/cases/test_transforms.py",
    ),
    Bug(
        "drawn points not weighted by their density",
        "cases/transforms.py",
        "self.count / len(structure) / density[structure[chosen]]",
        "np.ones(self.count)",
        "tests/cases/test_transforms.py",
    ),
    Bug(
        "deformed points move the wrong way",
        "cases/transforms.py",
        'points = points + out["displacement"]',
        'points = points - out["displacement"]',
        "tests/cases/test_transforms.py",
    ),
    Bug(
        "PSNR over unclipped HU",
        "evaluation/metrics.py",
        "error = np.clip(prediction[mask], low, high) - np.clip(reference[mask], low, high)",
        "error = prediction[mask] - reference[mask]",
        "tests/evaluation/test_metrics.py",
    ),
    Bug(
        "Dice over the whole volume",
        "evaluation/metrics.py",
        "size = int(reference[mask].sum())",
        "size = int(reference.sum())",
        "tests/evaluation/test_metrics.py",
    ),
    Bug(
        "the control is shuffled to itself",
        "evaluation/controls.py",
        "[*items[1:], *items[:1]]",
        "list(items)",
        "tests/evaluation/test_controls.py",
    ),
    Bug(
        "polarity of LIN images the wrong way",
        "dicom/pixels.py",
        "(sign == -1.0) != decreasing",
        "(sign == 1.0) != decreasing",
        "tests/dicom",
    ),
    Bug(
        "usable pixels with less than half a pixel kept",
        "dicom/image.py",
        "usable = coverage >= 0.5",
        "usable = coverage >= 0.05",
        "tests/dicom/test_image.py",
    ),
    Bug(
        "frontal and lateral not put in order",
        "dicom/pair.py",
        'if kinds == ["lateral", "frontal"]:\n        return True',
        'if kinds == ["lateral", "frontal"]:\n        return False',
        "tests/dicom/test_pair.py",
    ),
    Bug(
        "views of any angle accepted",
        "dicom/pair.py",
        "abs(angle - NOMINAL_ANGLE) > ANGLE_TOLERANCE",
        "abs(angle - NOMINAL_ANGLE) > 180.0",
        "tests/dicom",
    ),
    Bug(
        "study key without the secret",
        "pseudonym.py",
        "hmac.new(key.encode(), data, hashlib.sha256)",
        "hashlib.sha256(data)",
        "tests/test_pseudonym.py",
    ),
    Bug(
        "files written in place",
        "files.py",
        "temporary = target.with_name(",
        "temporary = target\n    target.with_name(",
        "tests/test_files.py",
    ),
    Bug(
        "NIfTI files with the time of writing",
        "outputs/nifti.py",
        "raw, mtime=0",
        "raw",
        "tests/outputs/test_nifti.py",
    ),
    Bug(
        "HTML of findings unescaped",
        "outputs/templates/findings.html",
        '{{ finding.get("message") or "" }}',
        '{{ (finding.get("message") or "") | safe }}',
        "tests/outputs",
    ),
    Bug(
        "slices of the DICOM CT in reverse order",
        "outputs/dicom_ct.py",
        "[0.0, 0.0, number - 1.0, 1.0]",
        "[0.0, 0.0, 1.0 - number, 1.0]",
        "tests/outputs",
    ),
    Bug(
        "patient not marked as pseudonymous",
        "outputs/dicom_ct.py",
        'dataset.PatientIdentityRemoved = "YES"',
        'dataset.PatientIdentityRemoved = "NO"',
        "tests/outputs",
    ),
    Bug(
        "a lost study is not tried again",
        "batch/pool.py",
        "self._waiting.appendleft(study)",
        "self._waiting.clear()",
        "tests/batch/test_pool.py",
    ),
)


def with_bug(bug: Bug, text: str) -> str:
    """Return the text of a module with the bug in it.

    Raises:
        ValueError: The text to replace is not there exactly once.
    """
    if text.count(bug.right) != 1:
        raise ValueError(f"{bug.name}: {text.count(bug.right)} places in {bug.module}")
    return text.replace(bug.right, bug.wrong)


def copy_bundle(source: Path, copy: Path) -> None:
    """Copy what the tests need of a bundle, over what the folder ``copy`` holds."""
    for name in _COPIED:
        shutil.rmtree(copy / name, ignore_errors=True)
        shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(source / name, copy / name)


def do_fail(tests: str, copy: Path) -> bool:
    """Return whether one of these tests fails in a copy.

    Raises:
        RuntimeError: The tests did not run.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m"]
    done = subprocess.run(
        [*command, "not slow", *tests.split()],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )
    # 1: a test failed; 2: a module under test could not even be imported
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"{tests}: pytest ended with {done.returncode}")
    return done.returncode != 0


def main(arguments: list[str] | None = None) -> None:
    """Check that the tests pass without a bug, then plant all bugs, or the numbers named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--only", type=int, nargs="+", help="numbers from 1")
    options = parser.parse_args(arguments)
    chosen = [bug for number, bug in enumerate(BUGS, 1) if number in (options.only or [number])]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder)
        copy_bundle(bundle_root(), copy)
        if do_fail(" ".join(sorted({test for bug in chosen for test in bug.tests.split()})), copy):
            raise SystemExit("tests fail without a bug")
        for bug in chosen:
            module = copy / "spider_bundle" / bug.module
            text = module.read_text(encoding="utf-8")
            module.write_text(with_bug(bug, text), encoding="utf-8")
            caught = do_fail(bug.tests, copy)
            module.write_text(text, encoding="utf-8")
            missed += not caught
            print(json.dumps({"caught": caught, **asdict(bug)}), flush=True)
    print(json.dumps({"planted": len(chosen), "missed": missed}))
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
