"""Settings of the MONAI Deploy application: the section ``reconstruction`` of ``app.yaml``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spider_bundle.errors import validation_message

CONFIG_VARIABLE = "HOLOSCAN_CONFIG_PATH"
"""Names the settings file inside a container that ``monai-deploy package`` made."""

SECTION = "reconstruction"


class Settings(BaseModel):
    """How the application reconstructs.

    Attributes:
        spacing: Voxel size, mm.
        shape: Voxels along each axis; as many as span 256 mm if not given.
        device: cpu, cuda or cuda:N; the best available if empty.
        precision: auto, float32 or bfloat16.
        exact: Decode every voxel; see :class:`spider_bundle.inferers.VolumeInferer`.
        keep_identity: Write the results for the patient and study of the radiographs, not for a new
            pseudonymous patient.
        overrides: Values that replace those of the radiographs, see
            :meth:`~spider_bundle.dicom.overrides.PairOverrides.from_mapping`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    spacing: float = Field(default=2.0, gt=0)
    shape: int | None = Field(default=None, gt=0)
    device: str = ""
    precision: str = "auto"
    exact: bool = False
    keep_identity: bool = False
    overrides: dict[str, Any] = Field(default_factory=dict)


def read_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: The YAML file; if not given, the one that ``HOLOSCAN_CONFIG_PATH`` names, then the one
            of the package.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no YAML mapping, or a setting is unknown or not valid.
    """
    named = path or os.environ.get(CONFIG_VARIABLE) or Path(__file__).with_name("app.yaml")
    try:
        content = ConfigParser.load_config_file(str(named))
    except OSError:
        raise
    except Exception as error:  # each parser has its own
        raise ValueError("the settings file is no YAML") from error
    if not isinstance(content, Mapping):
        raise ValueError("the settings file is no mapping")
    values = content.get(SECTION) or {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{SECTION} is no mapping")
    try:
        # an entry that is left blank has the default
        return Settings.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        raise ValueError(f"{SECTION}: {validation_message(error)}") from None


def find_bundle(model_path: str | os.PathLike[str]) -> Path:
    """Return the bundle in the model folder of the application.

    Args:
        model_path: The bundle's folder, or a folder with the bundle as a subfolder, which is how
            ``monai-deploy package`` places models.

    Raises:
        FileNotFoundError: There is none, or more than one.
    """
    folder = Path(model_path)
    found = [
        place
        for place in (folder, *sorted(folder.glob("*")))
        if (place / "configs" / "inference.json").is_file()
    ]
    if len(found) != 1:
        raise FileNotFoundError(f"{len(found)} bundles in the model folder instead of one")
    return found[0]
