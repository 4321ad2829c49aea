"""The virtual environment of MONAI Label; ``python -m tests.label.environment`` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.environments import ROOT, environment_python, run


def label_python(is_wanted: bool = False) -> Path:
    """Its Python, see :func:`tests.environments.environment_python`."""
    return environment_python(
        "label",
        ROOT / "spider_bundle" / "label_app" / "requirements.txt",
        "import torchvision, monailabel.app, spider_bundle",
        is_wanted=is_wanted,
        finish=_finish,
    )


def _finish(folder: Path) -> None:
    python = str(folder / "bin" / "python")
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", "-e", str(ROOT)])
    run([python, "-m", "spider_bundle.label_app.environment"])


if __name__ == "__main__":
    sys.stdout.write(f"{label_python(is_wanted=True)}\n")
