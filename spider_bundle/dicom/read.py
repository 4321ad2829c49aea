"""Read one radiograph: a dense-is-high image, its pinhole view, and what is known about both."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spider_bundle.dicom.errors import Code, Finding, RadiographError, Severity, finding
from spider_bundle.dicom.evidence import (
    OVERRIDE,
    Sourced,
    acquisition_findings,
    geometry_evidence,
    view_evidence,
)
from spider_bundle.dicom.exposure import Image, Mask, border_findings, expose
from spider_bundle.dicom.header import (
    SECONDARY_CAPTURE,
    Header,
    Identifiers,
    open_dataset,
)
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.geometry import View, ViewPosition


@dataclass(frozen=True)
class Radiograph:
    """One radiograph.

    Attributes:
        pixels: Dense-is-high float32 image as stored, shape ``(rows, columns)``.
        quantity: ``line integral`` (dimensionless, 0 in air) or ``tone``.
        mask: True where a pixel is usable, same shape: False outside the collimated or shuttered
            field, in mask boxes and in constant margins.
        position: Nominal view.
        view: Pinhole geometry of ``pixels``, LPS mm, isocentre at the origin.
        provenance: Value and source (attribute, override) of view, orientation, positioner
            angles, sdd, sod, pitch, polarity and quantity.
        findings: Warnings.
        identifiers: For pairing only; hidden in the repr.
        kind: CR, DX, XA, XRF, Enhanced XA, Enhanced XRF or SC.
        overridden: Whether the operator stated the view.
        laterality: L or R if stated, else empty.
        burned_in: Whether the file says that text is burned in, and no box was stated to mask it.
    """

    pixels: Image = field(repr=False)
    quantity: str
    mask: Mask = field(repr=False)
    position: ViewPosition
    view: View = field(repr=False)
    provenance: dict[str, Sourced]
    findings: tuple[Finding, ...]
    identifiers: Identifiers
    kind: str
    overridden: bool
    laterality: str
    burned_in: bool


def open_header(path: Path | str, role: str, overrides: Overrides) -> Header:
    """Header of an accepted radiograph, without its pixel data.

    Raises:
        RadiographError: E01 if it is no radiograph, E04 if no valid frame is chosen, E16 if its
            declared size is absurd.
    """
    header = Header(open_dataset(Path(path), role, pixels=False))
    if not header.kind:
        message = f"not a radiograph (modality {header.modality})"
        raise RadiographError([finding(Code.E01, role, message)])
    if header.kind == SECONDARY_CAPTURE and not overrides.allow_secondary_capture:
        message = "a secondary capture: geometry and pixel values are not those of a radiograph"
        raise RadiographError([finding(Code.E01, role, message)])
    header.check_size(role)
    frame = overrides.frame
    if frame is None and header.frames > 1:
        message = f"{header.frames} frames and none chosen"
        raise RadiographError([finding(Code.E04, role, message)])
    if frame is not None and not 0 <= frame < header.frames:
        message = f"frame {frame} does not exist; there are {header.frames}"
        raise RadiographError([finding(Code.E04, role, message)])
    return Header(header.dataset, frame or 0)


def read_radiograph(path: Path | str, overrides: Overrides | None = None) -> Radiograph:
    """Read a radiograph from a DICOM file.

    Args:
        path: CR, DX, XA, XRF, Enhanced XA or Enhanced XRF file.
        overrides: Statements of the operator.

    Raises:
        RadiographError: Anything that makes it unusable; all that was found is in it, so that an
            operator can mend everything at once.
    """
    stated = overrides or Overrides()
    header = open_header(path, "radiograph", stated)
    evidence = view_evidence(header, stated)
    role = evidence.role
    found = acquisition_findings(header, role)
    geometry = geometry_evidence(header, evidence, stated)
    found += geometry.findings
    exposure = None
    if not any(f.code in (Code.E03, Code.E04) and _is_error(f) for f in found):
        dataset = open_dataset(Path(path), role, pixels=True)
        try:
            exposure = expose(dataset, header, stated, role)
        except RadiographError as error:
            found += error.findings
        else:
            found += exposure.findings
            found += border_findings(exposure, geometry.view, role, stated)
    if any(map(_is_error, found)):
        raise RadiographError(found)
    # Without an error finding all three are known; the assertion is for the type checker.
    assert exposure is not None
    assert geometry.view is not None
    assert evidence.position is not None
    provenance = {**geometry.provenance, **exposure.provenance}
    if stated.frame is not None:
        provenance["frame"] = {"value": stated.frame, "source": OVERRIDE}
    if stated.mask_boxes:
        boxes = [list(box) for box in stated.mask_boxes]
        provenance["mask_boxes"] = {"value": boxes, "source": OVERRIDE}
    if header.kind == SECONDARY_CAPTURE:
        provenance["secondary_capture"] = {"value": "accepted", "source": OVERRIDE}
    return Radiograph(
        pixels=exposure.pixels,
        quantity=exposure.quantity,
        mask=exposure.mask,
        position=evidence.position,
        view=geometry.view,
        provenance=provenance,
        findings=tuple(found),
        identifiers=header.identifiers(),
        kind=header.kind,
        overridden=stated.view is not None,
        laterality=header.laterality,
        burned_in=header.text("BurnedInAnnotation") == "YES" and not stated.mask_boxes,
    )


def _is_error(found: Finding) -> bool:
    return found.severity is Severity.ERROR
