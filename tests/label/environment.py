"""The virtual environment of MONAI Label; ``python -m tests.label.environment`` builds it."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from tests.environments import ROOT, NoEnvironmentError, environment_python, run

# PyPI's torchvision cannot load its compiled operators beside a CPU build of torch, and then fails
# at its import because two of them are unknown. MONAI Label uses neither.
_OPERATORS = """\
import sys


class _DeclareOperators:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            _DeclareOperators.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                self.library.define(operator + signature)


sys.meta_path.insert(0, _DeclareOperators())
"""


def label_python(is_wanted: bool = False) -> Path:
    """Its Python, see :func:`tests.environments.environment_python`."""
    return environment_python(
        "label",
        ROOT / "spider_bundle" / "label_app" / "requirements.txt",
        "import monailabel.app, spider_bundle",
        is_wanted=is_wanted,
        finish=_finish,
    )


def _finish(folder: Path) -> None:
    python = str(folder / "bin" / "python")
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", "-e", str(ROOT)])
    try:
        run([python, "-c", "import torchvision"])
    except NoEnvironmentError:
        packages = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (packages / "declare_torchvision_operators.py").write_text(_OPERATORS)
        (packages / "declare_torchvision_operators.pth").write_text(
            "import declare_torchvision_operators\n"
        )


if __name__ == "__main__":
    sys.stdout.write(f"{label_python(is_wanted=True)}\n")
