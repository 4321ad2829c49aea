"""Load the pixels of a pair of films: the network's image with its provenance."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pydicom
import torch
from monai.data import MetaTensor

from spider_bundle.dicom.checks import border_findings, isocentre_findings
from spider_bundle.dicom.field import Image, Mask
from spider_bundle.dicom.film import Film
from spider_bundle.dicom.head_centre import MINIMUM_CORRELATION, TELLING_CORRELATION, find_head
from spider_bundle.dicom.header import SECONDARY_CAPTURE, FilmStream
from spider_bundle.dicom.image import PIXEL_SIZE, SIZE, network_input
from spider_bundle.dicom.lossy import LossyCompression, combined, with_ratio
from spider_bundle.dicom.overrides import ROLES
from spider_bundle.dicom.pair import FilmPair, PairedFilm
from spider_bundle.dicom.pixels import PixelData, load_pixels
from spider_bundle.dicom.provenance import (
    OVERRIDE,
    Provenance,
    ProvenancedValue,
    ViewProvenance,
    provenanced_value,
)
from spider_bundle.errors import Code, Finding, Severity, SpiderError, finding
from spider_bundle.geometry import FIELD_OF_VIEW, Grid, View, ViewPosition
from spider_bundle.slot_view import SlotView


@dataclass(frozen=True)
class Radiograph:
    """One loaded radiograph.

    Attributes:
        pixels: Line integrals or tones, high where dense, float32 as stored, shape
            ``(rows, columns)``.
        quantity: ``line integral`` (dimensionless, 0 in air) or ``tone``.
        mask: True where a pixel is usable, same shape: False outside the collimated or shuttered
            field, in mask boxes and in constant margins.
        position: Nominal view.
        view: Geometry of ``pixels``, LPS mm, isocentre at the origin; of a localiser by itself in
            the scanner's frame.
        provenance: View, orientation, positioner_angles, sdd, sod, pitch, polarity, quantity and
            what an operator stated.
        findings: Warnings.
        lossy: Lossy compression that it went through, if any.
        burned_in: Whether the file says that text is burned in, and no box masks it.
        isocentre: Where the isocentre lies in the scanner's frame, LPS mm, once a pair of
            localisers has told it.
    """

    pixels: Image = field(repr=False)
    quantity: str
    mask: Mask = field(repr=False)
    position: ViewPosition
    view: View = field(repr=False)
    provenance: Mapping[str, ProvenancedValue]
    findings: tuple[Finding, ...]
    lossy: LossyCompression | None
    burned_in: bool
    isocentre: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class RadiographPair:
    """A frontal and a lateral radiograph of one head.

    Attributes:
        frontal: Frontal radiograph.
        lateral: Lateral radiograph.
        findings: All warnings, of both radiographs and of the pair.
    """

    frontal: Radiograph
    lateral: Radiograph
    findings: tuple[Finding, ...]

    @property
    def isocentre(self) -> tuple[float, float, float] | None:
        """Where the isocentre lies in the scanner's frame, LPS mm; None where there is none."""
        return self.frontal.isocentre

    @property
    def radiographs(self) -> tuple[Radiograph, Radiograph]:
        """Frontal and lateral, the order of the network's channels."""
        return self.frontal, self.lateral


def load(
    pair: FilmPair, *, grid: Grid, image_size: int = SIZE, pixel_size: float = PIXEL_SIZE
) -> dict[str, Any]:
    """Load a pair as the network will see it; each file is opened once.

    Args:
        pair: The films.
        grid: Grid of the output (LPS mm).
        image_size: Rows and columns of the image.
        pixel_size: Its pixel size at the isocentre, mm.

    Returns:
        ``image``, a MetaTensor ``(2, H, W)`` (frontal, lateral) whose meta carries ``projection``
        ``(2, 4, 4)`` about the isocentre, ``isocentre`` (LPS mm of the scanner's frame, or 0), the
        grid in that frame as ``spatial_shape`` and ``original_affine`` (RAS), ``study_key`` and
        ``provenance`` (:class:`~.provenance.Provenance`), and ``mask``, the exposed fields
        ``(2, H, W)``.

    Raises:
        SpiderError: The pair cannot be used; the findings say why and what to do.
    """
    start = time.perf_counter()
    loaded = load_radiographs(pair)
    seen = network_input(loaded, pixel_size, image_size)
    first, second = (
        ViewProvenance(
            role=role,
            view_position=radiograph.position.value,
            geometry=radiograph.provenance,
            # a pinhole repeats the rest
            projection=tuple(map(tuple, projection[: 4 if loaded.isocentre else 3].tolist())),
        )
        for role, radiograph, projection in zip(
            ROLES, loaded.radiographs, seen.projection, strict=True
        )
    )
    frontal, lateral = (side.film and side.film.identity for side in pair.sides)
    found = list(loaded.findings)
    if min(grid.extent) <= FIELD_OF_VIEW - max(grid.spacing):  # more than rounding
        message = f"the output grid spans only {min(grid.extent):.0f} mm and may cut the head"
        found.append(finding(Code.GRID_CUTS_HEAD, "pair", message))
    provenance = Provenance(
        views=(first, second),
        isocentric_assumed=pair.isocentric_assumed,
        burned_in=(loaded.frontal.burned_in, loaded.lateral.burned_in),
        lossy=combined(radiograph.lossy for radiograph in loaded.radiographs),
        findings=tuple(found),
        read_seconds=time.perf_counter() - start,
        source_identity=frontal.with_lateral(lateral) if frontal and lateral else None,
        isocentre=loaded.isocentre,
    )
    isocentre = np.array(loaded.isocentre or (0.0, 0.0, 0.0))
    image = MetaTensor(
        seen.image,
        meta={
            "filename_or_obj": pair.study_key,
            "projection": seen.projection,
            "spatial_shape": np.array(grid.shape),
            "original_affine": torch.from_numpy(grid.moved(isocentre).ras_affine),
            "isocentre": isocentre,
            "study_key": pair.study_key,
            "provenance": provenance,
        },
    )
    return {"image": image, "mask": seen.mask}


def load_radiographs(pair: FilmPair) -> RadiographPair:
    """Load the pixels of both films.

    Raises:
        SpiderError: All findings of headers and pixels, so that an operator can mend everything at
            once.
    """
    loaded: list[Radiograph] = []
    found: list[Finding] = []
    for role, side in zip(ROLES, pair.sides, strict=True):
        try:
            loaded.append(load_radiograph(side))
            found += loaded[-1].findings
        except SpiderError as error:
            # Which of the two files it is helps, whatever its header says.
            found += [replace(one, role=role) for one in error.findings]
    if len(loaded) == len(pair.sides):
        found += pair.pair_findings
    if any(map(_is_error, found)):
        raise SpiderError(found)
    if isinstance(loaded[0].view, SlotView) and isinstance(loaded[1].view, SlotView):
        _centre_on_head(loaded, found)
    return RadiographPair(loaded[0], loaded[1], tuple(found))


def _centre_on_head(loaded: list[Radiograph], found: list[Finding]) -> None:
    """Move localisers so that the head's centre is the origin, and note where it was.

    Args:
        loaded: Frontal and lateral localiser in the scanner's frame, replaced.
        found: All findings, added to.

    Raises:
        SpiderError: E30, there is no head; E18, it lies outside a field.
    """
    views = [one.view for one in loaded if isinstance(one.view, SlotView)]
    head = find_head([one.pixels for one in loaded], [one.mask for one in loaded], views)
    is_stated = not any(one.code is Code.BODY_PART_NOT_HEAD for one in found)
    if head.correlation < (MINIMUM_CORRELATION if is_stated else TELLING_CORRELATION):
        message = f"the images do not look like a head (correlation {head.correlation:.2f})"
        found.append(finding(Code.HEAD_NOT_FOUND, "pair", message))
        raise SpiderError(found)
    x, y, z = (float(v) for v in head.position)
    for index, (one, view, role) in enumerate(zip(loaded, views, ROLES, strict=True)):
        moved = replace(
            view, source=view.source - head.position, centre=view.centre - head.position
        )
        loaded[index] = replace(one, view=moved, isocentre=(x, y, z))
        found += isocentre_findings(one.mask, moved, role)
    if any(map(_is_error, found)):
        raise SpiderError(found)


def load_radiograph(side: PairedFilm) -> Radiograph:
    """Load the pixels of one film.

    Raises:
        SpiderError: Anything that makes it unusable; all that was found is in it. E01 if the file
            has been exchanged since it was described.
    """
    film, overrides, role = side.film, side.overrides, side.info.role
    found = list(side.findings)
    if film is None or side.geometry is None:
        raise SpiderError(found)
    data: PixelData | None = None
    lossy = film.lossy
    unusable = (Code.NOT_MONOCHROME, Code.MULTIFRAME_OR_SUBTRACTED)
    if not any(one.code in unusable and _is_error(one) for one in found):
        dataset = _read(film, role)
        lossy = lossy_compression(film, dataset)
        try:
            data = load_pixels(dataset, film, overrides, role)
        except SpiderError as error:
            found += error.findings
        else:
            found += data.findings
            found += border_findings(data, film, side.geometry.view, role, overrides)
    if any(map(_is_error, found)):
        raise SpiderError(found)
    # Without an error finding all three are known; the assertions are for the type checker.
    assert data is not None
    assert side.geometry.view is not None
    assert side.info.position is not None
    return Radiograph(
        pixels=data.pixels,
        quantity=data.quantity,
        mask=data.mask,
        position=side.info.position,
        view=side.geometry.view,
        provenance={**side.geometry.provenance, **data.provenance, **_overridden(side, film)},
        findings=tuple(found),
        lossy=lossy,
        burned_in=film.burned_in == "YES" and not overrides.mask_boxes,
    )


def lossy_compression(film: Film, dataset: pydicom.Dataset) -> LossyCompression | None:
    """Return the lossy compression of a film, with the ratio that its pixel data have."""
    if film.lossy is None or not film.is_lossy_syntax:
        return film.lossy
    try:
        encoded = dataset.get("PixelData")
    except Exception:  # malformed, which is found when it is decoded
        return film.lossy
    length = len(encoded) if isinstance(encoded, bytes) else 0
    return with_ratio(film.lossy, film.decoded_bytes, length)


def _read(film: Film, role: str) -> pydicom.Dataset:
    """Read a file with its pixel data.

    Raises:
        SpiderError: E01 if it cannot be read any more or has been exchanged.
    """
    try:
        with FilmStream(film.path) as stream:
            if film.stamp.fits(stream):
                return stream.parse(role, pixels=True)
    except OSError as error:
        message = f"not a readable DICOM file ({type(error).__name__})"
        raise SpiderError(Code.NOT_A_RADIOGRAPH, message, role=role) from None
    raise SpiderError(
        Code.NOT_A_RADIOGRAPH,
        "the file was changed after it was checked",
        role=role,
        action="run again once the file does not change any more",
    )


def _overridden(side: PairedFilm, film: Film) -> dict[str, ProvenancedValue]:
    """Return what the operator stated beyond the geometry."""
    overrides = side.overrides
    values: dict[str, object] = {}
    if overrides.frame is not None:
        values["frame"] = overrides.frame
    if overrides.mask_boxes:
        values["mask_boxes"] = [list(box) for box in overrides.mask_boxes]
    if film.kind == SECONDARY_CAPTURE:
        values["secondary_capture"] = "accepted"
    return {name: provenanced_value(name, value, OVERRIDE) for name, value in values.items()}


def _is_error(found: Finding) -> bool:
    return found.severity is Severity.ERROR
