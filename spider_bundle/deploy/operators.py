"""Operators of the MONAI Deploy application.

The stock inference operator hands volumes on as 8-bit images, which would destroy the HU, and there
is no stock writer of CT series. These operators pass the volumes on as they are: int16 HU.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.deploy.core import Operator, OperatorSpec

from spider_bundle.dicom.dataset import StudyDataset
from spider_bundle.errors import SpiderError
from spider_bundle.outputs.study import write_refusals, write_study
from spider_bundle.reconstructor import Reconstructor, Result

_log = logging.getLogger(__name__)

FORMATS = frozenset({"dicom"})
STUDIES = "studies"
RESULTS = "results"


@dataclass(frozen=True, eq=False)
class LoadedStudies:
    """Studies that the loader read or refused.

    Attributes:
        items: Studies as the network will see them.
        refused: Study key and findings of each study that cannot be used.
    """

    items: Sequence[Any]
    refused: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class ReconstructedStudies:
    """Studies that the network reconstructed, and those refused before.

    Attributes:
        results: One for each study that could be used.
        refused: As in :class:`LoadedStudies`.
    """

    results: Sequence[Result]
    refused: Sequence[Mapping[str, Any]]


class RadiographLoaderOperator(Operator):
    """Find the studies below a folder and read their radiograph pairs.

    Named output ``studies``: :class:`LoadedStudies`.

    Args:
        fragment: The application.
        args: Conditions.
        input_folder: Any tree of files.
        reconstructor: Reads the radiographs.
        kwargs: Of the base class.
    """

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        input_folder: Path,
        reconstructor: Reconstructor,
        **kwargs: Any,
    ) -> None:
        self.input_folder = input_folder
        self.reconstructor = reconstructor
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the output."""
        spec.output(STUDIES)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Read every study; what cannot be used is refused with a code and logged."""
        dataset = StudyDataset(
            self.input_folder,
            transform=lambda entry: self.reconstructor.read(entry["image"]),
            key=self.reconstructor.site_key,
            overrides=self.reconstructor.overrides,
            keep_identity=self.reconstructor.keep_identity,
        )
        items = list(dataset.read())
        op_output.emit(LoadedStudies(items, dataset.refused), STUDIES)


class ReconstructionOperator(Operator):
    """Run the network; the HU stay int16.

    Named input ``studies``: :class:`LoadedStudies`. Named output ``results``:
    :class:`ReconstructedStudies`.

    Args:
        fragment: The application.
        args: Conditions.
        reconstructor: The network.
        kwargs: Of the base class.
    """

    def __init__(
        self, fragment: Any, *args: Any, reconstructor: Reconstructor, **kwargs: Any
    ) -> None:
        self.reconstructor = reconstructor
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare input and output."""
        spec.input(STUDIES)
        spec.output(RESULTS)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Reconstruct every study; one that does not agree with its radiographs is refused."""
        loaded = op_input.receive(STUDIES)
        results: list[Result] = []
        refused = list(loaded.refused)
        for item in loaded.items:
            try:
                results.append(self.reconstructor.run(item))
            except SpiderError as error:
                key, facts = item["image"].meta["study_key"], [f.facts() for f in error.findings]
                refused.append({"study_key": key, "findings": facts})
                _log.error("study %s refused: %s", key, error)
        op_output.emit(ReconstructedStudies(results, refused), RESULTS)


class DicomWriterOperator(Operator):
    """Write a CT series, a segmentation on it and the report of each study.

    They go to ``<output_folder>/<study key>/``, which appears as a whole; ``refused.json`` lists
    the studies that could not be used. Named input ``results``: :class:`ReconstructedStudies`.

    Args:
        fragment: The application.
        args: Conditions.
        output_folder: Folder for the results.
        kwargs: Of the base class.

    Attributes:
        written: Number of studies written.
        refused: Number of studies refused.
    """

    def __init__(self, fragment: Any, *args: Any, output_folder: Path, **kwargs: Any) -> None:
        self.output_folder = output_folder
        self.written = 0
        self.refused = 0
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the input."""
        spec.input(RESULTS)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write every study.

        Raises:
            StudyError: See :func:`~spider_bundle.outputs.study.write_study`.
            OSError: The disk refused.
        """
        done = op_input.receive(RESULTS)
        write_refusals(self.output_folder, done.refused)
        self.refused = len(done.refused)
        for result in done.results:
            write_study(self.output_folder, result, FORMATS)
            self.written += 1
