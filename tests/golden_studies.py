"""Studies of all kinds, good and refused, for the golden test."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from spider_bundle.dicom.write import SyntheticIdentity, reorient, write_cr, write_dx
from spider_bundle.geometry import View, ViewPosition, isocentric_view, positioner_rotation
from spider_bundle.phantom import HeadPhantom

SOD, SDD, PITCH, SHAPE = 1000.0, 1200.0, 1.9, (190, 160)
NOMINAL_PRIMARY = {"PA": 0.0, "LL": 90.0}
#: Displaced along every axis, so that no image is symmetric.
SHIFT = (9.0, -14.0, 11.0)

Edit = Callable[[Dataset], None]


def sets(**values: Any) -> Edit:
    """Set attributes, or delete those of value None."""

    def edit(dataset: Dataset) -> None:
        for keyword, value in values.items():
            if value is None:
                dataset.pop(keyword, None)
            else:
                setattr(dataset, keyword, value)

    return edit


def compressed(syntax: str) -> Edit:
    """Compress the pixels."""
    return lambda dataset: dataset.compress(syntax)


def as_run(dataset: Dataset) -> None:
    """Turn a DX image into an XA run of three frames."""
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.12.1"
    dataset.Modality, dataset.NumberOfFrames = "XA", "3"
    dataset.PixelData = dataset.PixelData * 3
    dataset.PositionerPrimaryAngle = {"PA": "0", "LL": "90"}[dataset.ViewPosition]
    dataset.PositionerSecondaryAngle = "0"
    dataset.DistanceSourceToPatient = "1000"
    del dataset.ViewPosition


def as_secondary_capture(dataset: Dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.Modality, dataset.ConversionType = "OT", "DF"


def constant(dataset: Dataset) -> None:
    dataset.PixelData = bytes(len(dataset.PixelData))


def without(*keywords: str) -> Edit:
    return sets(**dict.fromkeys(keywords))


@dataclass(frozen=True)
class Recipe:
    """How a study is written.

    Attributes:
        views: Frontal and lateral view.
        cr: Whether to write CR instead of DX.
        options: Of :func:`write_dx` or :func:`write_cr`.
        orientations: PatientOrientation of each film; the canonical one if None.
        angles: Primary and secondary angle of each film, degrees.
        edits: Changes to each film, then to both.
        files: What else is done to the folder.
        overrides: What must be stated for the study to be read.
    """

    views: tuple[str, str] = ("PA", "LL")
    cr: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    orientations: tuple[tuple[str, str] | None, tuple[str, str] | None] = (None, None)
    angles: tuple[tuple[float, float], tuple[float, float]] | None = None
    edits: tuple[Edit | None, Edit | None, Edit | None] = (None, None, None)
    files: Callable[[Path], None] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


def both(edit: Edit) -> tuple[None, None, Edit]:
    return (None, None, edit)


def third_film(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "a.dcm")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.33"
    dataset.save_as(folder / "c.dcm")


def copy_of_a(folder: Path) -> None:
    data = (folder / "a.dcm").read_bytes()
    (folder / "copy.dcm").write_bytes(b"other" + data[5:])  # a preamble is no content


def truncated(folder: Path) -> None:
    path = folder / "b.dcm"
    path.write_bytes(path.read_bytes()[:-5000])


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.dcm", "b.dcm"):
            archive.write(folder / name, f"deep/{name}")
            (folder / name).unlink()


_DISTANCES = ("DistanceSourceToDetector", "EstimatedRadiographicMagnificationFactor")
_JOINED = {"AccessionNumber": "ACC", "PatientID": "P"}
_COLLIMATOR: dict[str, Any] = {
    "CollimatorShape": "RECTANGULAR",
    "CollimatorLeftVerticalEdge": 45,
    "CollimatorRightVerticalEdge": 140,
    "CollimatorUpperHorizontalEdge": 16,
    "CollimatorLowerHorizontalEdge": 175,
    "FieldOfViewHorizontalFlip": "YES",
}

GOOD: Mapping[str, Recipe] = {
    "dx": Recipe(),
    "dx log": Recipe(("AP", "RL"), options={"relationship": "LOG", "sign": -1}),
    "dx presentation": Recipe(options={"for_processing": False, "bits": 12}),
    "cr": Recipe(("AP", "LL"), cr=True),
    "cr monochrome2": Recipe(("PA", "RL"), cr=True, options={"photometric": "MONOCHROME2"}),
    "mirrored": Recipe(orientations=(("R", "F"), ("P", "H"))),
    "rotated": Recipe(("AP", "RL"), orientations=(("F", "L"), ("H", "A"))),
    "oblique": Recipe(angles=((4.0, -2.0), (93.0, 1.5))),
    "jpeg-ls": Recipe(edits=both(compressed(JPEGLSLossless))),
    "jpeg 2000": Recipe(edits=both(compressed(JPEG2000Lossless))),
    "rle": Recipe(cr=True, edits=both(compressed(RLELossless))),
    "lossy": Recipe(
        options={"for_processing": False},
        edits=both(sets(LossyImageCompression="01", LossyImageCompressionRatio="12")),
    ),
    "warnings": Recipe(
        cr=True,
        edits=both(
            sets(PixelSpacing=["1", "1"], BodyPartExamined="KNEE", BurnedInAnnotation="YES")
        ),
    ),
    "time between": Recipe(edits=(None, sets(AcquisitionTime="124500"), None)),
    "joined": Recipe(edits=(sets(**_JOINED), sets(**_JOINED, StudyInstanceUID="1.2.3.16"), None)),
    "duplicate": Recipe(files=copy_of_a),
    "laterality": Recipe(edits=(None, sets(ViewPosition=None, ImageLaterality="L"), None)),
    "collimated": Recipe(edits=both(sets(**_COLLIMATOR))),
    "common frame": Recipe(edits=both(sets(FrameOfReferenceUID="1.2.3.20"))),
    "zip": Recipe(cr=True, files=zipped),
}
"""Studies that are reconstructed without a word of the operator."""

STATED: Mapping[str, Recipe] = {
    "no distances": Recipe(
        edits=both(without(*_DISTANCES, "ImagerPixelSpacing")),
        overrides={"sod": SOD, "sdd": SDD, "pitch": PITCH},
    ),
    "run": Recipe(edits=both(as_run), overrides={"frame": 1}),
    "wrong sign": Recipe(
        edits=both(sets(PixelIntensityRelationshipSign=-1)), overrides={"dense_is_high": False}
    ),
    "secondary capture": Recipe(
        edits=both(as_secondary_capture),
        overrides={
            "allow_secondary_capture": True,
            **{"sod": SOD, "sdd": SDD, "pitch": PITCH, "dense_is_high": False},
        },
    ),
}
"""Studies that are refused unless something is stated."""

REFUSED: Mapping[str, Recipe] = {
    "no distance": Recipe(edits=both(without("DistanceSourceToDetector"))),
    "no orientation": Recipe(edits=(without("PatientOrientation"), None, None)),
    "three films": Recipe(files=third_film),
    "truncated": Recipe(files=truncated),
    "not a head": Recipe(
        edits=(
            without("ViewPosition", "ViewCodeSequence"),
            None,
            sets(BodyPartExamined="FOOT", AnatomicRegionSequence=None),
        )
    ),
    "two patients": Recipe(edits=(sets(PatientID="A"), sets(PatientID="B"), None)),
    "colour": Recipe(edits=(sets(PhotometricInterpretation="RGB"), None, None)),
    "two days": Recipe(edits=(None, sets(AcquisitionDate="20000301"), None)),
    "sides contradict": Recipe(edits=(None, sets(ImageLaterality="R"), None)),
    "half": Recipe(files=lambda folder: (folder / "b.dcm").unlink()),
    "not orthogonal": Recipe(angles=((9.0, 0.0), (84.0, 0.0))),
    "constant": Recipe(edits=(None, constant, None)),
    "contradiction": Recipe(edits=(sets(PatientOrientation=["P", "F"]), None, None)),
}
"""Studies that are refused."""

RECIPES: Mapping[str, Recipe] = {**GOOD, **STATED, **REFUSED}


@cache
def _image(position: str, angles: tuple[float, float] | None) -> tuple[npt.NDArray[Any], View]:
    motion = np.eye(4)
    motion[:3, 3] = SHIFT
    rotation = None
    if angles is not None:
        nominal = positioner_rotation(NOMINAL_PRIMARY[position])
        rotation = positioner_rotation(*angles) @ nominal.T
    view = isocentric_view(
        ViewPosition(position),
        sod=SOD,
        sdd=SDD,
        spacing=(PITCH, PITCH),
        shape=SHAPE,
        rotation=rotation,
    )
    return HeadPhantom.nominal().transformed(motion).line_integrals(view), view


def study_uid(name: str) -> str:
    """StudyInstanceUID of a study's frontal film."""
    return SyntheticIdentity(name).uid("study")


def write_study_of(folder: Path, name: str) -> None:
    """Write the films of a study into a folder."""
    recipe = RECIPES[name]
    folder.mkdir(parents=True)
    for index, position in enumerate(recipe.views):
        angles = None if recipe.angles is None else recipe.angles[index]
        image, view = _image(position, angles)
        orientation = recipe.orientations[index]
        if orientation is not None:
            image, view = reorient(image, view, orientation)
        path = folder / f"{'ab'[index]}.dcm"
        options = dict(recipe.options) | ({} if angles is None else {"positioner_angles": angles})
        writer: Callable[..., None] = write_cr if recipe.cr else write_dx
        writer(path, image, view, ViewPosition(position), SyntheticIdentity(name), **options)
        edits = [edit for edit in (recipe.edits[index], recipe.edits[2]) if edit]
        if edits:
            dataset = pydicom.dcmread(path)
            for edit in edits:
                edit(dataset)
            dataset.save_as(path, enforce_file_format=True)
    if recipe.files is not None:
        recipe.files(folder)
