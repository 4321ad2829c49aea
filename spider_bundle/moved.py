"""Say where modules are that configs of earlier releases name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import MappingProxyType

#: Present place of each module of release 0.5 that has moved; what is inside moved with it.
MOVED: Mapping[str, str] = MappingProxyType(
    {
        "spider_bundle.batch.codes": "spider_bundle.errors",
        "spider_bundle.batch.machine": "spider_bundle.resources",
        "spider_bundle.cases.rejections": "spider_bundle.errors",
        "spider_bundle.cases.sheet": "spider_bundle.cases.contact_sheet",
        "spider_bundle.evaluation.back_projection": "spider_bundle.evaluation.baselines",
        "spider_bundle.evaluation.examples": "spider_bundle.evaluation.baselines.training_examples",
        "spider_bundle.evaluation.films": "benchmarks.case_films",
        "spider_bundle.evaluation.publish": "benchmarks.publish",
        "spider_bundle.evaluation.regression": "spider_bundle.evaluation.baselines",
        "spider_bundle.evaluation.retrieval": "spider_bundle.evaluation.baselines",
        "spider_bundle.evaluation.statistics": "spider_bundle.evaluation.bootstrap",
        "spider_bundle.losses": "spider_bundle.training.losses",
        "spider_bundle.monitoring": "spider_bundle.training.monitoring",
        "spider_bundle.networks.back_projection": "benchmarks.peers.back_projection",
        "spider_bundle.networks.biplanar": "spider_bundle.networks.spider",
        "spider_bundle.networks.codes": "spider_bundle.networks.positional_encoding",
        "spider_bundle.networks.lifting": "benchmarks.peers.lifting",
        "spider_bundle.networks.volume": "benchmarks.peers.volume",
        "spider_bundle.outputs.extras": "spider_bundle.outputs.optional_dependencies",
        "spider_bundle.outputs.html": "spider_bundle.outputs.html_report",
        "spider_bundle.outputs.refusals": "spider_bundle.outputs.study",
        "spider_bundle.outputs.result": "spider_bundle.reconstructor",
        "spider_bundle.outputs.schema": "spider_bundle.outputs.report",
        "spider_bundle.pacs.codes": "spider_bundle.errors",
        "spider_bundle.radiographs": "spider_bundle.dicom",
        "spider_bundle.schedules": "spider_bundle.training.schedules",
    }
)


class MovedModuleFinder:
    """A finder of modules, asked last, that names the new place of a module."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return None for all other modules.

        Raises:
            ImportError: The module has moved.
        """
        if name in MOVED:
            raise ImportError(f"{name} is {MOVED[name]} since release 0.6 (see CHANGELOG.md)")
        return None


def announce_moved_modules() -> None:
    """Let imports of moved modules fail with their new place."""
    if MovedModuleFinder not in sys.meta_path:
        sys.meta_path.append(MovedModuleFinder)
