"""A stand-in that takes its actor of a cluster with it; the nodes import it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.batch.pipelines import StandIn

SEEN = "seen"


class Lossy(StandIn):
    """Also kills its actor the first time that it takes a study whose behaviour is ``lose``.

    Tells in the folder ``seen`` beside the output folder which actor took a study, on which node.
    """

    def reconstruct(self, item: dict[str, Any]) -> dict[str, Any]:
        folder = self._output.parent / SEEN
        is_first = not list(folder.glob(f"{item['key']}.*"))
        node, actor = os.environ["RAY_RAYLET_PID"], os.getpid()
        (folder / f"{item['key']}.{node}.{actor}").touch()
        if is_first and self._behaviour.get(item["key"]) == "lose":
            os.kill(actor, signal.SIGKILL)
            time.sleep(60)
        return super().reconstruct(item)


def seen(root: Path, key: str = "*") -> list[list[int]]:
    """Process numbers of node and actor of each time that a study was taken."""
    return [[int(n) for n in p.name.split(".")[1:]] for p in (root / SEEN).glob(f"{key}.*")]
