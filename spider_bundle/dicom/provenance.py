"""Where the image of a study came from, as one object that travels with it.

It holds no identifier but in :attr:`Provenance.source_identity`, which is read only when the
operator asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spider_bundle.dicom.identity import SourceIdentity
from spider_bundle.dicom.lossy import LossyCompression
from spider_bundle.errors import Finding

OVERRIDE = "override"
"""Source of what an operator stated."""

_UNITS = {
    **dict.fromkeys(("sdd", "sod", "oid", "pitch", "axis"), "mm"),
    "positioner_angles": "deg",
    "scale_uncertainty": "%",
}


@dataclass(frozen=True)
class ProvenancedValue:
    """A value and where it came from.

    Attributes:
        value: The value.
        source: ``attribute`` (read from the file), ``default``, ``override`` (set by the user) or
            ``derived`` (computed from others).
        attribute: DICOM keyword it came from, or why it was chosen.
        unit: Unit, ``mm``, ``deg`` or ``%``.
    """

    value: float | str | Sequence[float] | None
    source: Literal["attribute", "default", "override", "derived"]
    attribute: str | None = None
    unit: str | None = None


@dataclass(frozen=True)
class ViewProvenance:
    """One radiograph as it was used.

    Attributes:
        role: ``frontal`` or ``lateral``.
        view_position: AP, PA, LL or RL.
        geometry: Values by name: view, orientation, positioner_angles, sdd, sod, pitch, polarity,
            quantity and what an operator stated.
        projection: LPS mm to (column, row) of the network's image, homogeneous, row by row.
    """

    role: str
    view_position: str
    geometry: Mapping[str, ProvenancedValue]
    projection: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class Provenance:
    """Provenance of the image of a study; ``meta["provenance"]`` of its MetaTensor.

    MONAI's collation and decollation refuse objects in the meta, so a data loader hands items on
    with ``monai.data.utils.no_collation``.

    Attributes:
        views: Frontal and lateral radiograph.
        isocentric_assumed: Whether the two central rays were taken to meet, for want of a common
            FrameOfReferenceUID.
        burned_in: Whether each radiograph says that text is burned in, and no box was stated to
            mask it.
        lossy: Lossy compression that the radiographs went through, if any.
        findings: Warnings, of both radiographs and of the pair.
        read_seconds: Time that reading took.
        source_identity: Patient and study, if the operator asked to keep them.
        isocentre: Where the isocentre lies in the scanner's frame, LPS mm; None where the images
            carry no such frame, and its origin is the isocentre.
    """

    views: tuple[ViewProvenance, ViewProvenance]
    isocentric_assumed: bool
    burned_in: tuple[bool, bool]
    lossy: LossyCompression | None
    findings: tuple[Finding, ...]
    read_seconds: float
    source_identity: SourceIdentity | None = None
    isocentre: tuple[float, float, float] | None = None


def provenanced_value(name: str, value: object, source: str) -> ProvenancedValue:
    """Return a value of a radiograph with its provenance.

    Args:
        name: Its name in :attr:`ViewProvenance.geometry`.
        value: A number, text or sequence; a sequence of anything but floats becomes text.
        source: ``override``, ``default``, a DICOM keyword, or the reason in words.
    """
    if isinstance(value, (list, tuple)) and not all(isinstance(v, float) for v in value):
        value = " ".join(map(str, value))
    unit = _UNITS.get(name)
    if source == "override" or source == "default":
        return ProvenancedValue(value, source, None, unit)  # type: ignore[arg-type]
    kind: Literal["attribute", "derived"] = "derived" if " " in source else "attribute"
    return ProvenancedValue(value, kind, source, unit)  # type: ignore[arg-type]
