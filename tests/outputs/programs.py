"""Debian programs that judge DICOM objects, for tests that skip where they are absent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def program(name: str, package: str) -> str:
    """Path of a program; skips the test if it is not installed."""
    # not pynetdicom's programs of the same names, which an activated environment has on the path
    own = str(Path(sys.executable).parent)
    folders = [folder for folder in os.get_exec_path() if folder != own]
    found = shutil.which(name, path=os.pathsep.join([*folders, "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian package {package})")
    return found


def conformance_errors(path: Path) -> list[str]:
    """Errors that dciodvfy finds."""
    command = [program("dciodvfy", "dicom3tools"), "-new", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines[-1:] != [], "dciodvfy names the object it recognised"
    return [line for line in lines if line.strip().startswith("Error")]


class Orthanc:
    """A running Orthanc on this machine, spoken to by its REST API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def request(self, path: str, data: bytes | None = None) -> bytes:
        with urllib.request.urlopen(self.url + path, data=data, timeout=20) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def store(self, path: Path, status: str = "Success") -> str:
        """Store a file, which must end as stated; returns Orthanc's name of the instance."""
        answer = json.loads(self.request("/instances", path.read_bytes()))
        assert answer["Status"] == status
        return str(answer["ID"])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_orthanc(folder: Path, **more: Any) -> Iterator[Orthanc]:
    """An empty Orthanc that keeps everything below a folder and listens on loopback only.

    Further settings can be named.
    """
    command = program("Orthanc", "orthanc")
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [],
        **more,
    }
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings))
    with (folder / "orthanc.log").open("w") as log:
        process = subprocess.Popen([command, str(config)], stdout=log, stderr=log)
    server = Orthanc(port)
    try:
        for _ in range(300):
            try:
                server.get("/system")
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "orthanc.log").read_text()[-2000:]
                time.sleep(0.1)
        else:
            pytest.fail("Orthanc did not start within 30 s")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
