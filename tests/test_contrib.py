"""The files of ``contrib/`` are what systemd, cron and the commands take, and fit each other."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.test_docs import DOCS, ROOT, options_of, spider_options

CONTRIB = ROOT / "contrib"
UNITS = sorted((CONTRIB / "systemd").iterdir())
COMPOSE = yaml.safe_load((CONTRIB / "container" / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = {name: body for name, body in COMPOSE["services"].items() if name != "orthanc"}
ORTHANC = json.loads((CONTRIB / "container" / "orthanc.json").read_text(encoding="utf-8"))


def commands() -> list[str]:
    """Every call of ``spider`` in these files, without redirections."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in UNITS)
    text += (CONTRIB / "spider.cron").read_text(encoding="utf-8")
    calls = re.findall(r"^(?:ExecStart=|[\d* ]+ )\S*/spider (.*?)(?: >>.*)?$", text, re.MULTILINE)
    for body in SERVICES.values():
        line = " ".join(map(str, body["command"]))
        calls.append(re.sub(r".*spider (send .*?);.*", r"\1", line))
    return calls


def test_commands_and_options_exist() -> None:
    calls = commands()
    assert sorted(call.split()[0] for call in calls) == sorted(
        ["batch", "batch", "listen", "send", "batch", *SERVICES]
    )
    for call in calls:
        name, *arguments = shlex.split(call)
        assert set(options_of(" ".join(arguments))) <= spider_options(name), call


@pytest.mark.integration
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in UNITS:
        # the program and the user are not on this machine
        text = unit.read_text(encoding="utf-8").replace("User=spider", "User=root")
        here = text.replace("/opt/spider/.venv/bin/spider", "/bin/true")
        (tmp_path / unit.name).write_text(here, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "spider-" in line] == []
    assert done.returncode == 0


def test_services_write_for_their_owner_only() -> None:
    services = [unit.read_text(encoding="utf-8") for unit in UNITS if unit.suffix == ".service"]
    assert len(services) == 4
    assert all("\nUMask=0077\n" in text for text in services)
    containerfile = (CONTRIB / "container" / "Containerfile").read_text(encoding="utf-8")
    assert "umask 077; exec spider" in containerfile
    assert all(
        "umask 077" in body["command"][0] for body in SERVICES.values() if "entrypoint" in body
    )


def test_containers_find_each_other() -> None:
    listen, batch, send = (SERVICES[name]["command"] for name in ("listen", "batch", "send"))
    title, host, port = ORTHANC["DicomModalities"]["SPIDER"]
    assert (title, SERVICES[host], port) == ("SPIDER", SERVICES["listen"], 11112)
    assert listen[listen.index("--allow") + 1] == ORTHANC["DicomAet"]
    assert f"--to {ORTHANC['DicomAet']}@orthanc:{ORTHANC['DicomPort']};" in send[0]
    keys = [command[command.index("--key-file") + 1] for command in (listen, batch)]
    assert keys[0] == keys[1]
    mounted = {volume.split(":")[1] for body in SERVICES.values() for volume in body["volumes"]}
    containerfile = (CONTRIB / "container" / "Containerfile").read_text(encoding="utf-8")
    assert mounted == set(re.findall(r"(?<= )/[a-z]+(?=\s)", containerfile.split("install -d")[1]))
    assert {volume.split(":")[0] for s in SERVICES.values() for volume in s["volumes"]} <= set(
        COMPOSE["volumes"]
    )
    scripts = [Path(script).name for script in ORTHANC["LuaScripts"]]
    assert all((CONTRIB / "container" / script).is_file() for script in scripts)
    route = (CONTRIB / "container" / "route.lua").read_text(encoding="utf-8")
    assert "SendToModality(instanceId, 'SPIDER')" in route


def test_pages_name_every_file_and_copy_none() -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    for path in CONTRIB.rglob("*.*"):
        name = path.relative_to(ROOT).as_posix()
        assert any(
            name in text or f"{path.parent.name}/{path.stem}." in text for text in pages.values()
        ), name
    assert not any("[Service]" in text for text in pages.values())
