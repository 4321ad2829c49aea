"""The mend of MONAI Label's environment makes a torchvision without operators importable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spider_bundle.label_app import environment

#: What a torchvision beside a CPU build of torch does at its import.
TORCHVISION = """\
import torch
known = {"nms", "qnms"} <= set(torch.operators)
if not known:
    raise RuntimeError("operator torchvision::nms does not exist")
"""
TORCH = """\
operators = []


class library:
    class Library:
        def __init__(self, name, kind):
            assert (name, kind) == ("torchvision", "DEF")

        def define(self, signature):
            operators.append(signature.partition("(")[0])
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the packages, on the path of new processes as an environment's are."""
    for name, text in (("torch", TORCH), ("torchvision", TORCHVISION), ("monailabel/app", "")):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    # PYTHONPATH does not run .pth files; sitecustomize stands for what runs this one
    site = f"import site; site.addsitedir({str(tmp_path)!r})\n"
    (tmp_path / "sitecustomize.py").write_text(site, encoding="utf-8")
    root = Path(environment.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    return tmp_path


def test_mends_what_it_finds(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert environment.check() == "RuntimeError: operator torchvision::nms does not exist"
    environment.main()
    assert capsys.readouterr().out == "MONAI Label can start\n"
    done = subprocess.run([sys.executable, "-c", "import torchvision"], check=False)
    assert done.returncode == 0


def test_says_what_it_cannot_mend(packages: Path) -> None:
    (packages / "torchvision.py").write_text("import nothing_like_it\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"cannot start: .*nothing_like_it"):
        environment.main()
    assert not (packages / f"{environment.MODULE}.pth").exists()
