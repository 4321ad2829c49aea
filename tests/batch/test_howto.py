"""The units on the pages are what systemd takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def units(page: str) -> dict[str, str]:
    """The unit files of a page by name."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"`/etc/systemd/system/([\w.-]+)`:\n\n```ini\n(.*?)```", text, re.DOTALL)
    return dict(found)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("howto_batch.md", {"spider-batch.service", "spider-batch.timer"}),
        ("howto_pacs.md", {"spider-listen.service"}),
    ],
)
def test_systemd_takes_the_units(page: str, names: set[str], tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    found = units(page)
    assert set(found) == names
    for name, text in found.items():
        # the program and the user of the page are not on this machine
        here = text.replace("/opt/spider/.venv/bin/spider", "/bin/true").replace(
            "User=spider", "User=root"
        )
        (tmp_path / name).write_text(here, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in found)],
        capture_output=True,
        text=True,
        check=False,
    )
    mine = [line for line in done.stderr.splitlines() if "spider-" in line]
    assert mine == []
    assert done.returncode == 0
