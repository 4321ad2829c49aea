"""Stand-ins for the network, which worker processes of the tests import by name."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from spider_bundle.batch.job import Job
from spider_bundle.batch.worker import WorkerSettings
from spider_bundle.errors import Code, SpiderError
from spider_bundle.files import file_sha256

RESULT = "ct.nii.gz"


class StandIn:
    """Writes the hash of a study's frontal file as its result; some studies misbehave.

    ``behaviour.json`` beside the output folder tells how by study key: ``crash``, ``hang``,
    ``hold`` (the interpreter, in C code), ``error`` (with a text that names somebody), ``refuse``
    or ``full``, and ``seconds`` for all.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._output = Path(settings.config["output_dir"])
        told = self._output.parent / "behaviour.json"
        self._behaviour = json.loads(told.read_text()) if told.exists() else {}

    def read(self, job: Job) -> dict[str, Any]:
        if self._behaviour.get(job.study_key) == "refuse":
            raise SpiderError(Code.INVALID_PIXEL_VALUES, role="frontal")
        return {"key": job.study_key, "sha": file_sha256(job.paths[0]), "overrides": job.overrides}

    def reconstruct(self, item: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self._behaviour.get("seconds", 0.0))
        behaviour = self._behaviour.get(item["key"])
        if behaviour == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if behaviour == "hang":
            time.sleep(3600)
        if behaviour == "hold":
            (self._output.parent / f"held-{os.getpid()}").touch()
            ctypes.PyDLL(None).sleep(60)
        if behaviour == "error":
            raise ValueError("Doe^Jane cannot be reconstructed")
        return item

    def write(self, item: dict[str, Any]) -> None:
        if self._behaviour.get(item["key"]) == "full":
            self._fill(item["key"])
        partial = self._output / f".{item['key']}.partial-{secrets.token_hex(8)}"
        partial.mkdir()
        (partial / RESULT).write_text(item["sha"])
        report = {
            "files": [{"name": RESULT, "sha256": file_sha256(partial / RESULT)}],
            "overrides": dict(item["overrides"]),
        }
        (partial / "report.json").write_text(json.dumps(report))
        final = self._output / item["key"]
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)

    def _fill(self, key: str) -> None:
        from spider_bundle.outputs.study import study_folder

        with study_folder(self._output, key) as folder:
            (folder / RESULT).write_text("a half")
            raise OSError(errno.ENOSPC, "No space left on device", "/spool/Doe_Jane")


class Announcing(StandIn):
    """Leaves a file in the output folder while the network works."""

    def reconstruct(self, item: dict[str, Any]) -> dict[str, Any]:
        (self._output / "reading").touch()
        return super().reconstruct(item)


class Careful(StandIn):
    """Refuses films that have been touched since they were checked, as the real reader does."""

    def read(self, job: Job) -> dict[str, Any]:
        for path, stamp in zip(job.paths, job.stamps, strict=True):
            with path.open("rb") as stream:
                if not stamp.fits(stream):
                    raise SpiderError(Code.NOT_A_RADIOGRAPH, role="frontal")
        (self._output / f"read-{job.study_key}").touch()
        return super().read(job)


class Fragile(StandIn):
    """Its second start fails, and some studies spoil the process for all that come later.

    As those do that break a CUDA context: ``spoil`` whenever it is reconstructed, ``once`` the
    first time, ``late`` the first time but not before it is written.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._is_spoiled = False
        if self._count("start") == 2:
            raise MemoryError("Doe^Jane")

    def reconstruct(self, item: dict[str, Any]) -> dict[str, Any]:
        behaviour = self._behaviour.get(item["key"])
        is_first = self._count(item["key"]) == 1
        self._is_spoiled |= behaviour == "spoil" or (behaviour == "once" and is_first)
        self._check()
        return super().reconstruct(item) | {"is_first": is_first}

    def write(self, item: dict[str, Any]) -> None:
        self._is_spoiled |= self._behaviour.get(item["key"]) == "late" and item["is_first"]
        self._check()
        super().write(item)

    def _check(self) -> None:
        if self._is_spoiled:
            raise RuntimeError("CUDA error: device-side assert triggered by Doe^Jane")

    def _count(self, what: str) -> int:
        """How often something has happened, this time included, in all processes."""
        path = self._output.parent / f"count-{what}"
        with path.open("a") as stream:
            stream.write(".")
        return path.stat().st_size


class Broken:
    """Cannot start."""

    def __init__(self, settings: WorkerSettings) -> None:
        raise RuntimeError("weights of Doe^Jane")


class StillBorn:
    """Dies while it starts."""

    def __init__(self, settings: WorkerSettings) -> None:
        os._exit(1)
