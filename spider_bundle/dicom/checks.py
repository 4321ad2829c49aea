"""Check a radiograph: what its header says, and what its borders show."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spider_bundle.dicom.field import Image, Mask, percentile
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.header import EMPTY, SECONDARY_CAPTURE
from spider_bundle.dicom.overrides import Overrides
from spider_bundle.dicom.pixels import PixelData
from spider_bundle.dicom.view import wrapped
from spider_bundle.errors import Code, Finding, Severity, finding
from spider_bundle.geometry import View, orientation_vector
from spider_bundle.slot_view import SlotView

#: Largest accepted edge, frame and number of pixels in all.
MAXIMUM_EDGE, MAXIMUM_FRAME_PIXELS, MAXIMUM_PIXELS = 65535, 1e8, 2e9
#: Radius about the isocentre, mm, and the share of it that must be exposed.
ISOCENTRE_RADIUS, ISOCENTRE_USABLE = 40.0, 0.5
#: Share of a border that is not air where the head may be cut.
CUT_EDGE = 0.2
#: Width of a border strip relative to the field; level and spread of air between the image's
#: percentiles 1 and 99; number of dense sides that contradict the polarity.
STRIP, AIR_LEVEL, AIR_SPREAD, CONTRADICTING_SIDES = 0.05, 0.2, 0.08, 2

#: Modalities of plain radiographs (DICOM C.7.3.1.1.1, DR and XR being common errors); further
#: ones of secondary captures.
_MODALITIES = ("CR", "DX", "RG", "XA", "RF", "DR", "XR", "unknown")
_CAPTURED = ("OT", "SC", "XC", "ES")
_NO_SKULL_VIEWS = {"PX": "a panoramic image", "IO": "an intraoral image", "MG": "a mammogram"}
#: Positioners (PositionerType) that take no plain view of a skull.
_POSITIONERS = {"PANORAMIC": _NO_SKULL_VIEWS["PX"], "MAMMOGRAPHIC": _NO_SKULL_VIEWS["MG"]}
#: Words in the manufacturer and the model of slot scanners.
_SLOT_SCANNERS = ("EOS IMAGING", "EOS SYSTEM", "EOSEDGE", "STERNEOS", "LODOX", "STATSCAN")

_HEAD_PARTS = ("HEAD", "SKULL", "BRAIN")
_HEAD_CODES = ("89546000", "T-11100", "69536005", "T-D1100")


def refusal(film: Film, overrides: Overrides, role: str) -> Finding | None:
    """Return why a film is not looked at any further: E01, E04, E16, E33 or E34; None if it is.

    Args:
        film: Any.
        overrides: Overrides of this film.
        role: Role for the finding.
    """
    if not film.kind:
        message = f"not a radiograph (modality {film.modality})"
        return finding(Code.NOT_A_RADIOGRAPH, role, message)
    if film.kind == SECONDARY_CAPTURE and not overrides.allow_secondary_capture:
        message = "a secondary capture: geometry and pixel values are not those of a radiograph"
        return finding(Code.NOT_A_RADIOGRAPH, role, message)
    if found := _kind_finding(film, role):
        return found
    if message := _size_message(film):
        return finding(Code.INVALID_PIXEL_VALUES, role, message, attribute="Rows")
    if (fault := film.faults.get("NumberOfFrames", EMPTY)) != EMPTY:
        message = f"NumberOfFrames {fault}"
        return finding(Code.MULTIFRAME_OR_SUBTRACTED, role, message)
    frame = overrides.frame
    if frame is None and film.frames > 1:
        message = f"{film.frames} frames and none chosen"
        return finding(Code.MULTIFRAME_OR_SUBTRACTED, role, message)
    if frame is not None and not 0 <= frame < film.frames:
        message = f"frame {frame} does not exist; there are {film.frames}"
        return finding(Code.MULTIFRAME_OR_SUBTRACTED, role, message)
    return None


def _kind_finding(film: Film, role: str) -> Finding | None:
    """Return E33 or E34 for a film whose device takes no plain views of a head."""
    if film.ct is not None:
        return None  # read by its geometry as the slot scan that it is
    known = _MODALITIES + (_CAPTURED if film.kind == SECONDARY_CAPTURE else ())
    if film.modality not in known:
        what = _NO_SKULL_VIEWS.get(film.modality, "no plain radiograph")
        message = f"{what} (modality {film.modality})"
        return finding(Code.NOT_A_SKULL_VIEW, role, message)
    if film.positioner in _POSITIONERS:
        message = f"{_POSITIONERS[film.positioner]} (positioner {film.positioner.lower()})"
        return finding(Code.NOT_A_SKULL_VIEW, role, message, attribute="PositionerType")
    device = " ".join(film.equipment[k] for k in ("Manufacturer", "ManufacturerModelName"))
    if any(word in device for word in _SLOT_SCANNERS):
        return finding(Code.SLOT_SCAN, role)
    if "LOCALIZER" in film.image_type:
        message = "a CT localiser: a slot scan, which has not the perspective of a radiograph"
        return finding(Code.SLOT_SCAN, role, message, attribute="ImageType")
    return None


def _size_message(film: Film) -> str:
    """Return what is absurd about a declared size, which no decoder must see; empty if nothing."""
    edge, pixels = max(film.rows, film.columns), float(film.rows) * film.columns
    if min(film.rows, film.columns) <= 0:
        return "the image has no pixels"
    if edge > MAXIMUM_EDGE:
        return f"an edge of {edge:.3g} pixels"
    if pixels > MAXIMUM_FRAME_PIXELS:
        return f"a frame of {pixels:.3g} pixels is beyond {MAXIMUM_FRAME_PIXELS:g}"
    if pixels * film.frames > MAXIMUM_PIXELS:
        return f"{pixels * film.frames:.3g} pixels in all are beyond {MAXIMUM_PIXELS:g}"
    return ""


def acquisition_findings(film: Film, role: str) -> list[Finding]:
    """Check what needs neither pixels nor geometry: E03, E04, E17, E20, E21, E22."""
    found = []
    if (film.samples_per_pixel or 1) != 1:
        message, attribute = "a colour image", "SamplesPerPixel"
        found.append(finding(Code.NOT_MONOCHROME, role, message, attribute=attribute))
    elif film.photometric not in ("MONOCHROME1", "MONOCHROME2"):
        message = "the photometric interpretation is not greyscale"
        found.append(finding(Code.NOT_MONOCHROME, role, message))
    image_type = " ".join(film.image_type)
    if (
        "SUBTRACT" in image_type
        or "DSA" in image_type.split()
        or "113062" in film.derivations  # pixel by pixel subtraction, DCM
    ):
        message = "a subtracted image"
        found.append(finding(Code.MULTIFRAME_OR_SUBTRACTED, role, message, attribute="ImageType"))
    if set(film.mask_operations) - {"", "NONE"}:
        found.append(
            finding(
                Code.MULTIFRAME_OR_SUBTRACTED,
                role,
                "the run is meant for subtraction; the frame may show contrast medium",
                severity=Severity.WARNING,
                attribute="MaskSubtractionSequence",
            )
        )
    # localisers come from the scanner as they are, without that attribute
    if film.burned_in != "NO" and (film.ct is None or film.burned_in):
        said = "says that text is" if film.burned_in == "YES" else "does not exclude that text is"
        message = f"the file {said} burned into the image"
        found.append(finding(Code.BURNED_IN_TEXT, role, message))
    fault = film.faults.get("FieldOfViewRotation", EMPTY)
    if wrapped(film.field_of_view_rotation) != 0.0 or film.is_flipped or fault != EMPTY:
        message = f"FieldOfViewRotation {fault}" if fault != EMPTY else ""
        found.append(finding(Code.FIELD_OF_VIEW_TRANSFORMED, role, message))
    if not (set(film.body_parts) & set(_HEAD_PARTS) or set(film.regions) & set(_HEAD_CODES)):
        found.append(finding(Code.BODY_PART_NOT_HEAD, role))
    if film.has_lossy_flag:
        found.append(finding(Code.LOSSY_COMPRESSION, role))
    return found


_SIDES = ("top", "bottom", "left", "right")


def border_findings(
    data: PixelData, film: Film, view: View | None, role: str, overrides: Overrides
) -> list[Finding]:
    """Check polarity at the border (E24) and what the field cuts (E18).

    Air beside the head must come out transparent. With no air at any border only the header can
    speak, and must not contradict itself. Raw images and fluoroscopy may well show bones black.

    Args:
        data: The decoded radiograph.
        film: Its header.
        view: Its view, if known.
        role: Role for findings.
        overrides: An override of the polarity turns a contradiction into a warning.
    """
    found = []
    is_displayed = film.kind in ("CR", "DX", SECONDARY_CAPTURE) and not film.for_processing
    strips = _border_strips(data)
    air = {side: _air(strips[side]) for side in _SIDES}
    transparent = [side for side in _SIDES if air[side] == "transparent"]
    dense = [side for side in _SIDES if air[side] == "dense"]
    if not transparent and len(dense) >= CONTRADICTING_SIDES:
        message = f"the densest values lie along the {' and '.join(dense)} border"
        severity = None if overrides.dense_is_high is None else Severity.WARNING
        found.append(finding(Code.WRONG_POLARITY, role, message, severity=severity))
    elif data.contradicting and (is_displayed or not transparent):
        names = " and ".join(data.contradicting)
        source = data.provenance["polarity"].attribute
        message = f"{source} and {names} contradict each other about what is dense"
        message += ", and no air can decide" if not transparent else "; the air bears out the first"
        # The sign is made for this; how an image is displayed only tells by convention.
        is_open = source in ("PhotometricInterpretation", "PresentationLUTShape")
        severity = None if is_open and not transparent else Severity.WARNING
        found.append(
            finding(
                Code.WRONG_POLARITY,
                role,
                message,
                severity=severity,
                attribute=data.contradicting[0],
            )
        )
    if view is None:
        return found
    if not isinstance(view, SlotView):  # the isocentre of localisers is found afterwards
        found += isocentre_findings(data.mask, view, role)
    # The neck always leaves the image at the bottom.
    inferior = orientation_vector("F")
    outward = dict(
        zip(
            _SIDES,
            (-view.row_vector, view.row_vector, -view.column_vector, view.column_vector),
            strict=True,
        )
    )
    cut = [
        _direction_name(outward[side])
        for side in _SIDES
        if outward[side] @ inferior < 0.5
        and strips[side].size
        and (strips[side] > 0.5).mean() > CUT_EDGE
    ]
    if cut and not any(f.code is Code.WRONG_POLARITY for f in found):
        found.append(finding(Code.FIELD_CUTS_HEAD, role, f"the head may be cut: {', '.join(cut)}"))
    return found


def isocentre_findings(mask: Mask, view: View, role: str) -> list[Finding]:
    """Check that the surroundings of the isocentre are exposed (E18).

    Args:
        mask: True where a pixel is usable, shape ``view.shape``.
        view: Its view, the isocentre at the origin.
        role: Role for findings.
    """
    radius = ISOCENTRE_RADIUS * view.magnification
    centre = view.project(np.zeros(3))
    rows, columns = (np.arange(n) for n in view.shape)
    distance = np.hypot(
        (rows[:, None] - centre[1]) * view.spacing[0], (columns - centre[0]) * view.spacing[1]
    )
    near = mask[distance < radius]
    expected = np.pi * radius**2 / (view.spacing[0] * view.spacing[1])
    if near.sum() < ISOCENTRE_USABLE * expected:
        message = "the surroundings of the isocentre are outside the exposed field"
        return [finding(Code.FIELD_CUTS_HEAD, role, message, severity=Severity.ERROR)]
    return []


def _air(strip: Image) -> str:
    """Return the end at which a strip is flat and extreme as air is; empty if it is not."""
    if not strip.size:
        return ""
    low, middle, high = np.percentile(strip, (25, 50, 75))
    if high - low > AIR_SPREAD:
        return ""
    if middle < AIR_LEVEL:
        return "transparent"
    return "dense" if middle > 1 - AIR_LEVEL else ""


def _direction_name(vector: npt.NDArray[np.float64]) -> str:
    names = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))
    axis = int(np.abs(vector).argmax())
    return names[axis][int(vector[axis] > 0)]


def _border_strips(data: PixelData) -> dict[str, Image]:
    """Return the usable values along each side, 0 and 1 at the image's percentiles 1 and 99.

    The outermost strip is left out: blades, film edges and identification sit there.
    """
    low = percentile(data.pixels, data.mask, 1.0)
    high = percentile(data.pixels, data.mask, 99.0)
    rows = np.flatnonzero(data.mask.any(axis=1))
    columns = np.flatnonzero(data.mask.any(axis=0))
    inner = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    scaled = (data.pixels[inner] - low) / max(high - low, 1e-12)
    usable = data.mask[inner]
    strips = {}
    for side, values, keep in (
        ("top", scaled, usable),
        ("bottom", scaled[::-1], usable[::-1]),
        ("left", scaled.T, usable.T),
        ("right", scaled.T[::-1], usable.T[::-1]),
    ):
        width = max(1, round(STRIP * len(values)))
        strip = slice(width, 2 * width)
        strips[side] = values[strip][keep[strip]]
    return strips
