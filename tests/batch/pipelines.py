"""Stand-ins for the network, which worker processes of the tests import by name."""

from __future__ import annotations

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
from spider_bundle.files import file_sha256
from spider_bundle.radiographs.errors import Code, RadiographError, finding

RESULT = "ct.nii.gz"


class StandIn:
    """Writes the hash of a study's frontal file as its result; some studies misbehave.

    ``behaviour.json`` beside the output folder tells how by study key: ``crash``, ``hang``,
    ``error`` (with a text that names somebody), ``refuse`` or ``full``, and ``seconds`` for all.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._output = Path(settings.config["output_dir"])
        told = self._output.parent / "behaviour.json"
        self._behaviour = json.loads(told.read_text()) if told.exists() else {}

    def read(self, job: Job) -> dict[str, Any]:
        if self._behaviour.get(job.study_key) == "refuse":
            raise RadiographError([finding(Code.E16, "frontal")])
        return {"key": job.study_key, "sha": file_sha256(job.frontal), "overrides": job.overrides}

    def reconstruct(self, item: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self._behaviour.get("seconds", 0.0))
        behaviour = self._behaviour.get(item["key"])
        if behaviour == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if behaviour == "hang":
            time.sleep(3600)
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


class Broken:
    """Cannot start."""

    def __init__(self, settings: WorkerSettings) -> None:
        raise RuntimeError("weights of Doe^Jane")


class StillBorn:
    """Dies while it starts."""

    def __init__(self, settings: WorkerSettings) -> None:
        os._exit(1)
