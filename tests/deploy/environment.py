"""The virtual environment of MONAI Deploy, built once beside the clone's own.

    python -m tests.deploy.environment

builds it in ``.venv-deploy`` and prints its Python. Only the standard library is used here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "spider_bundle" / "deploy" / "requirements.txt"
FOLDER_VARIABLE = "SPIDER_DEPLOY_VENV"


class NoEnvironmentError(RuntimeError):
    """The environment cannot be built; the message says why."""


def deploy_python() -> Path:
    """Python of the environment, which is built first if it is absent or outdated.

    It is in ``SPIDER_DEPLOY_VENV``, or ``.venv-deploy`` in the clone.

    Raises:
        NoEnvironmentError: A package cannot be installed, or the App SDK does not start.
    """
    folder = Path(os.environ.get(FOLDER_VARIABLE, ROOT / ".venv-deploy"))
    python = folder / "bin" / "python"
    stamp = folder / ".built"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([str(python), *install, "-r", str(REQUIREMENTS)])
    _run([str(python), "-c", "import monai.deploy.core"])
    stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NoEnvironmentError(f"{' '.join(command[1:4])}: {''.join(last)}")


if __name__ == "__main__":
    sys.stdout.write(f"{deploy_python()}\n")
