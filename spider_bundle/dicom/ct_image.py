"""What the header of a CT image says: its plane, and for a localiser on which side the tube was.

A localiser (scout, topogram, surview) is taken with the tube at rest while the table moves. Angles
of the tube are the gantry's: 0 at its highest point, clockwise as seen from where the table enters
(TubeAngle, DICOM C.8.15.3.2), so PatientPosition turns them into a side of the patient. Scanners
that state the angle elsewhere do not say whether it is the gantry's or the patient's; such an angle
counts where both readings name one side, and for the makes only of which that is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spider_bundle.arrays import FloatArray
from spider_bundle.dicom.header import Header
from spider_bundle.geometry import ViewPosition

#: CT Image Storage and Enhanced CT Image Storage (DICOM PS3.4 B.5).
CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")
LOCALISER = "CT localiser"
"""Kind of a localiser."""

TUBE_ANGLE = "TubeAngle"
#: Where tubes stand whose angle is stated elsewhere: Philips' AngularPosition was measured against
#: the CT of the same phantom; GE's azimuth (0019,1026) is an angle of the gantry too.
_AZIMUTH = "Tube Azimuth (0019,1026)"

#: Largest angle between a tube or a plane and the nominal one, degrees.
_TILTED = 1.0
_OBLIQUE = 10.0

# The gantry's right and top as the patient lies (DICOM C.7.3.1.1.2), seen from where the table
# enters: letters of the patient's directions.
_GANTRY = {
    "HFS": ("L", "A"),
    "HFP": ("R", "P"),
    "HFDR": ("P", "L"),
    "HFDL": ("A", "R"),
    "FFS": ("R", "A"),
    "FFP": ("L", "P"),
    "FFDR": ("A", "L"),
    "FFDL": ("P", "R"),
}
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A"}


@dataclass(frozen=True, repr=False)
class CTImage:
    """Attributes of a CT image; its repr hides all of them.

    Attributes:
        is_localiser: Whether ImageType or FrameType says LOCALIZER, and not DERIVED.
        series: SeriesInstanceUID.
        position: ImagePositionPatient.
        orientation: ImageOrientationPatient.
        patient_position: PatientPosition.
        tilt: GantryDetectorTilt, degrees.
        angles: Angle of the tube in degrees by the attribute that states it.
        is_philips: Whether the manufacturer is Philips.
        centre: DataCollectionCenterPatient, mm.
        diameter: DataCollectionDiameter, mm.
        sod: DistanceSourceToDataCollectionCenter of an enhanced image, mm.
    """

    is_localiser: bool
    series: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    patient_position: str
    tilt: float
    angles: tuple[tuple[str, float], ...]
    is_philips: bool
    centre: tuple[float, ...]
    diameter: float | None
    sod: float | None

    @property
    def axes(self) -> FloatArray | None:
        """Unit vectors of increasing column and row index, LPS ``(2, 3)``; None if not stated."""
        if len(self.position) != 3 or len(self.orientation) != 6:
            return None
        axes = np.array(self.orientation).reshape(2, 3)
        is_sound = np.allclose(axes @ axes.T, np.eye(2), atol=1e-2)
        return axes if is_sound else None

    @property
    def plane(self) -> str:
        """``frontal``, ``lateral`` or ``axial``; empty if oblique or not stated."""
        if self.axes is None:
            return ""
        normal = np.abs(np.cross(*self.axes))
        axis = int(normal.argmax())
        limit = math.cos(math.radians(_TILTED if axis < 2 else 45.0))
        return ("lateral", "frontal", "axial")[axis] if normal[axis] >= limit else ""

    def extent(self, rows: int, spacing: float) -> tuple[float, float]:
        """Lowest and highest LPS z of the image, mm.

        Args:
            rows: Rows.
            spacing: Distance of the rows, mm.
        """
        z = self.position[2] if len(self.position) == 3 else math.nan
        step = 0.0 if self.axes is None else float(self.axes[1, 2]) * spacing
        ends = z - step / 2, z + (rows - 0.5) * step
        return min(ends), max(ends)

    def tube_side(self) -> tuple[str, str, str]:
        """Return the side of the patient on which the tube was.

        Returns:
            Its letter, of A, P, L and R, or empty; what states it; and why it is not known.
        """
        if not self.angles:
            return "", "", "no attribute states the angle of the tube"
        name, degrees = self.angles[0]
        stated = [self._side(degrees, self.patient_position)]
        if name != TUBE_ANGLE:
            # the patient's angle is that of a patient who lies head first and supine
            stated.append(self._side(degrees, "HFS"))
            if name == "AngularPosition" and not self.is_philips:
                return "", name, "what AngularPosition means to this scanner is not known"
        side, *others = stated
        if not side:
            why = "the tube was at an oblique angle, or PatientPosition is missing"
            return "", name, f"{why}: {name} {degrees:g}"
        if any(other != side for other in others):
            return "", name, f"for this PatientPosition {name} {degrees:g} can mean either side"
        return side, f"{name} {degrees:g}, PatientPosition {self.patient_position}", ""

    @staticmethod
    def _side(degrees: float, patient_position: str) -> str:
        """Return the side of an angle of the gantry; empty if oblique or the position is none."""
        directions = _GANTRY.get(patient_position)
        quarter = round(degrees / 90.0)
        if directions is None or abs(degrees - 90.0 * quarter) > _OBLIQUE:
            return ""
        right, top = directions
        return (top, right, _OPPOSITE[top], _OPPOSITE[right])[quarter % 4]


def gantry_angle(position: ViewPosition, patient_position: str) -> float:
    """Return the angle of the tube in the gantry that gives a view, degrees."""
    right, top = _GANTRY[patient_position]
    side = {"AP": "A", "PA": "P", "LL": "R", "RL": "L"}[position.value]
    return 90.0 * (top, right, _OPPOSITE[top], _OPPOSITE[right]).index(side)


def ct_image(header: Header) -> CTImage | None:
    """Return what the header of a CT image says; None for any other object."""
    if header.text("SOPClassUID") not in CT_CLASSES:
        return None
    angles = (
        (TUBE_ANGLE, header.number(TUBE_ANGLE)),
        ("AngularPosition", header.number("AngularPosition")),
        (_AZIMUTH, header.private_number(0x0019, "GEMS_ACQU_01", 0x26)),
    )
    kinds = header.texts("ImageType") + header.texts("FrameType")
    return CTImage(
        # a derived one shows the lines of the slices that were planned on it
        is_localiser="LOCALIZER" in kinds and "DERIVED" not in kinds,
        series=header.text("SeriesInstanceUID"),
        position=header.numbers("ImagePositionPatient"),
        orientation=header.numbers("ImageOrientationPatient"),
        patient_position=header.text("PatientPosition"),
        tilt=header.number("GantryDetectorTilt") or 0.0,
        angles=tuple((name, value) for name, value in angles if value is not None),
        is_philips="PHILIPS" in header.text("Manufacturer"),
        centre=header.numbers("DataCollectionCenterPatient"),
        diameter=header.number("DataCollectionDiameter"),
        sod=header.number("DistanceSourceToDataCollectionCenter"),
    )
