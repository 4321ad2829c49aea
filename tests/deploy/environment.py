"""The virtual environment of MONAI Deploy; ``python -m tests.deploy.environment`` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.environments import ROOT, environment_python


def deploy_python(is_wanted: bool = False) -> Path:
    """Its Python, see :func:`tests.environments.environment_python`."""
    return environment_python(
        "deploy",
        ROOT / "spider_bundle" / "deploy" / "requirements.txt",
        "import monai.deploy.core",
        is_wanted=is_wanted,
    )


if __name__ == "__main__":
    sys.stdout.write(f"{deploy_python(is_wanted=True)}\n")
