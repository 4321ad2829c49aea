"""Check MONAI Label's environment, and mend it: ``python -m spider_bundle.label_app.environment``.

PyPI's torchvision cannot load its compiled operators beside a CPU build of PyTorch, and then fails
at its import because two of them are unknown. MONAI Label uses neither, so it is enough to declare
them whenever this environment's Python imports torchvision.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

MODULE = "declare_torchvision_operators"

_SOURCE = """\
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


def check() -> str:
    """Return why a new process cannot import torchvision and MONAI Label; empty if it can."""
    imports = [sys.executable, "-c", "import torchvision, monailabel.app, spider_bundle"]
    done = subprocess.run(imports, capture_output=True, text=True, check=False)
    return "".join(done.stderr.strip().splitlines()[-1:]) if done.returncode else ""


def declare_operators(packages: Path) -> None:
    """Let torchvision be imported without its compiled operators.

    Args:
        packages: The environment's ``site-packages``.

    Raises:
        OSError: It cannot be written to.
    """
    (packages / f"{MODULE}.py").write_text(_SOURCE, encoding="utf-8")
    (packages / f"{MODULE}.pth").write_text(f"import {MODULE}\n", encoding="utf-8")


def main() -> None:
    """Check, mend what can be mended, and say how it ended."""
    wrong = check()
    if "torchvision::nms" in wrong:
        declare_operators(Path(sysconfig.get_path("purelib")))
        wrong = check()
    if wrong:
        raise SystemExit(f"MONAI Label cannot start: {wrong}")
    sys.stdout.write("MONAI Label can start\n")


if __name__ == "__main__":
    main()
