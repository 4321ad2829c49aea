"""The MONAI Deploy application and its start."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, RuntimeEnv, parse_args

from spider_bundle.deploy.operators import (
    RESULTS,
    STUDIES,
    DicomWriterOperator,
    RadiographLoaderOperator,
    ReconstructionOperator,
)
from spider_bundle.deploy.settings import Settings, find_bundle, read_settings
from spider_bundle.errors import Code, SpiderError, line, root_cause
from spider_bundle.exit_status import EXIT_FAILED, EXIT_REFUSED
from spider_bundle.logs import is_debugging
from spider_bundle.reconstructor import Reconstructor

_RUN_AGAIN = (
    "run again with SPIDER_DEBUG=1 to see where; the details may name files. Results that are "
    "complete stay"
)

_log = logging.getLogger(__name__)


class SpiderApplication(Application):
    """Radiographs in, DICOM CT series and segmentation out.

    Args:
        input_folder: Any tree of files.
        output_folder: Folder for the results.
        reconstructor: The bundle's network, with the settings.

    Attributes:
        writer: The last operator, once the application is composed.
    """

    def __init__(
        self,
        input_folder: Path,
        output_folder: Path,
        reconstructor: Reconstructor,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self.input_folder = input_folder
        self.output_folder = output_folder
        self.reconstructor = reconstructor
        self.writer: DicomWriterOperator | None = None
        super().__init__(*args, **kwargs)

    def compose(self) -> None:
        """Chain the operators."""
        loader = RadiographLoaderOperator(
            self,
            CountCondition(self, 1),
            input_folder=self.input_folder,
            reconstructor=self.reconstructor,
            name="radiograph_loader",
        )
        reconstruction = ReconstructionOperator(
            self, reconstructor=self.reconstructor, name="reconstruction"
        )
        self.writer = DicomWriterOperator(
            self, output_folder=self.output_folder, name="dicom_writer"
        )
        self.add_flow(loader, reconstruction, {(STUDIES, STUDIES)})
        self.add_flow(reconstruction, self.writer, {(RESULTS, RESULTS)})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the application as its environment or its arguments say.

    Args:
        argv: Program and arguments (``-i``, ``-o``, ``-m``), which come before the variables
            ``HOLOSCAN_INPUT_PATH``, ``HOLOSCAN_OUTPUT_PATH`` and ``HOLOSCAN_MODEL_PATH``.

    Returns:
        Exit code: 0 all done, 1 unexpected failure, 3 a study was refused or there was none.
    """
    given, environment = parse_args(list(argv or sys.argv)), RuntimeEnv()
    # not the SDK's own set-up, which logs paths, and a folder is often named after its patient
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    warnings.simplefilter("ignore")
    try:
        application = SpiderApplication(
            Path(given.input or environment.input),
            Path(given.output or environment.output),
            _reconstructor(find_bundle(given.model or environment.model), read_settings()),
        )
        application.run()
    except Exception as error:
        if is_debugging():
            raise
        # its text may quote a path or an attribute: name its kind only
        cause = root_cause(error)
        message = f"the run failed ({type(cause).__name__})"
        coded = isinstance(cause, SpiderError)
        _log.error("%s", cause if coded else line(Code.RUN_FAILED, message, action=_RUN_AGAIN))
        return EXIT_FAILED
    assert application.writer is not None  # composed by now
    written, refused = application.writer.written, application.writer.refused
    _log.info("%d reconstructed, %d refused", written, refused)
    return EXIT_REFUSED if refused or not written else 0


def _reconstructor(bundle: Path, settings: Settings) -> Reconstructor:
    values = vars(settings)
    if not settings.device:
        values = {name: value for name, value in values.items() if name != "device"}
    return Reconstructor.from_config(bundle, **values)
