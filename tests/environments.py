"""Virtual environments beside the clone's own, for platforms that need other versions.

Each is some GB, so nobody gets one by surprise: it is built where ``CI`` or
``SPIDER_ENVIRONMENTS`` is set, or by ``python -m tests.label.environment`` and its like. Only the
standard library is used here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WANTED = "SPIDER_ENVIRONMENTS"


class NoEnvironmentError(RuntimeError):
    """The environment is not there and cannot be built; the message says why."""


def environment_python(
    name: str,
    requirements: Path,
    check: str,
    *,
    is_wanted: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Python of an environment, which is built first if it is absent or outdated.

    It is in ``SPIDER_<NAME>_VENV``, or ``.venv-<name>`` in the clone.

    Args:
        name: What it is for.
        requirements: All of its packages, each with its version.
        check: Statement that must run in it.
        is_wanted: Whether to build it whatever the variables say.
        finish: Called with its folder after the installation.

    Raises:
        NoEnvironmentError: It is absent and not wanted, or a package cannot be installed, or the
            check fails.
    """
    folder = Path(os.environ.get(f"SPIDER_{name.upper()}_VENV", ROOT / f".venv-{name}"))
    python = folder / "bin" / "python"
    stamp = folder / ".built"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not (is_wanted or os.environ.get("CI") or os.environ.get(WANTED)):
        raise NoEnvironmentError(f"set {WANTED}=1 to have it built; it takes some GB")
    run([sys.executable, "-m", "venv", "--clear", str(folder)])
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([str(python), *install, "-r", str(requirements)])
    if finish is not None:
        finish(folder)
    run([str(python), "-c", check])
    stamp.write_text(wanted)
    return python


def run(command: list[str]) -> None:
    """Run a command that must succeed.

    Raises:
        NoEnvironmentError: It does not; with its last line.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NoEnvironmentError(f"{' '.join(command[1:4])}: {''.join(last)}")
