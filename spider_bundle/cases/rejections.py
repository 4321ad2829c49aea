"""Why a CT scan cannot become a head case: stable codes as data.

Conditions and actions never hold a name, an identifier, a date, a path or a UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from spider_bundle.codes import CodeInfo


class Code(StrEnum):
    """Stable codes of rejections; see :data:`CODES` for what each means."""

    P01 = "P01"
    P02 = "P02"
    P03 = "P03"
    P04 = "P04"
    P05 = "P05"
    P06 = "P06"
    P07 = "P07"
    P08 = "P08"
    P09 = "P09"
    P10 = "P10"
    P11 = "P11"
    P12 = "P12"
    P13 = "P13"
    P14 = "P14"


def _limits(**values: float) -> Mapping[str, float]:
    return MappingProxyType(values)


CODES: Mapping[Code, CodeInfo] = MappingProxyType(
    {
        Code.P01: CodeInfo(
            "not a CT image (CT Image Storage, one grey value per pixel)",
            "leave other modalities out; export Enhanced CT as single frames",
        ),
        Code.P02: CodeInfo("localiser (scout) image", "none; the axial series is used instead"),
        Code.P03: CodeInfo(
            "a file cannot be read or its pixels cannot be decoded",
            "install the codecs extra, or export the series again uncompressed",
        ),
        Code.P04: CodeInfo(
            "slices lack their position, orientation or pixel spacing, or do not agree in it",
            "export the original axial series by itself",
        ),
        Code.P05: CodeInfo(
            "gantry tilt too large",
            "use a series with less tilt; smaller tilts are corrected",
            _limits(maximum_degrees=35.0),
        ),
        Code.P06: CodeInfo(
            "slices are missing, much unevenly spaced or not in line",
            "export the complete series; reconstruct it with one spacing",
            _limits(largest_gap_in_steps=1.5, astray_mm=1.0),
        ),
        Code.P07: CodeInfo(
            "several slices at one position",
            "export each reconstruction or phase as a series of its own",
            _limits(minimum_mm=0.01),
        ),
        Code.P08: CodeInfo(
            "too few slices, or the scan covers too little",
            "use a scan that covers the head",
            _limits(minimum_slices=16, minimum_extent_mm=80.0),
        ),
        Code.P09: CodeInfo(
            "voxels too coarse", "use a thinner reconstruction", _limits(maximum_mm=6.5)
        ),
        Code.P10: CodeInfo(
            "values are not HU: no rescale, no air, or nothing as dense as bone",
            "export the original CT; scale NIfTI files to HU",
            _limits(air_hu=-700.0, bone_hu=200.0, air_fraction=0.01),
        ),
        Code.P11: CodeInfo(
            "no head found",
            "use a scan of the head, or state its isocentre",
            _limits(minimum_correlation=0.5),
        ),
        Code.P12: CodeInfo(
            "the prepared head fails a quality check", "look at the checks in the report"
        ),
        Code.P13: CodeInfo(
            "NIfTI file that is not one 3D image with a known orientation",
            "convert one volume per file, with the orientation (sform or qform) set",
        ),
        Code.P14: CodeInfo(
            "preparing failed unexpectedly",
            "run again with SPIDER_DEBUG=1 to see where; the details may name files",
        ),
    }
)
"""All codes."""


class ScanRejectedError(ValueError):
    """A scan cannot become a head case.

    Attributes:
        code: The reason.
        detail: Numbers or kinds that say more; never an identity.
    """

    def __init__(self, code: Code, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__(
            f"{code.value} {CODES[code].condition}" + (f" ({detail})" if detail else "")
        )
