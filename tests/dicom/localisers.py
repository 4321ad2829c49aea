"""Localisers made by a projector of their own: one fan in each row, one ray to each column.

Nothing of it is shared with the package: it is the oracle for the camera, the reader and the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy.ndimage import map_coordinates

from spider_bundle.dicom.write import save_dataset

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
LOW, HIGH = -1024, 3071


@dataclass(frozen=True)
class Scanner:
    """A gantry, LPS mm of the patient.

    Attributes:
        sod: Source to axis, mm.
        sdd: Source to detector, mm.
        axis: x and y of the axis.
        pitch: Pitch of the columns at the axis, mm.
        travel: Distance of the rows, mm.
        columns: Columns.
        rows: Rows.
        top: z of the first row.
    """

    sod: float = 570.0
    sdd: float = 1040.0
    axis: tuple[float, float] = (12.0, -25.0)
    pitch: float = 2.0
    travel: float = 2.0
    columns: int = 240
    rows: int = 150
    top: float = 160.0

    def image(self, side: str, hu: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Line integrals of a volume, the tube on a side of the patient (A, P, L, R).

        Columns run towards the patient's left or posterior, rows to the feet.
        """
        tube = {"A": (0, -1), "P": (0, 1), "L": (1, 0), "R": (-1, 0)}[side]
        across = 0 if side in "AP" else 1
        source = np.array(self.axis) + self.sod * np.array(tube)
        places = (np.arange(self.columns) - (self.columns - 1) / 2) * self.pitch
        ends = np.array(self.axis)[None] + places[:, None] * np.eye(2)[across]
        rays = ends - source
        rays /= np.linalg.norm(rays, axis=1)[:, None]
        step = 2.0
        along = self.sod + np.arange(-180, 180, step)
        points = source + rays[:, None] * along[None, :, None]  # columns, samples, (x, y)
        mu = 0.02 * (np.clip(hu, -1000, None) / 1000 + 1)
        inverse = np.linalg.inv(affine)
        image = np.zeros((self.rows, self.columns))
        for row in range(self.rows):
            z = self.top - row * self.travel
            world = np.stack([points[..., 0], points[..., 1], np.full(points.shape[:2], z)])
            index = np.einsum("ij,jcs->ics", inverse[:3, :3], world) + inverse[:3, 3, None, None]
            image[row] = map_coordinates(mu, index, order=1).sum(axis=1) * step
        return image

    def position(self, side: str) -> list[float]:
        """ImagePositionPatient."""
        half = (self.columns - 1) / 2 * self.pitch
        x, y = self.axis
        return [x - half, y, self.top] if side in "AP" else [x, y - half, self.top]


def write(
    path: Path,
    image: np.ndarray,
    scanner: Scanner,
    side: str,
    *,
    instance: int = 1,
    **attributes: object,
) -> Path:
    """Write a CT image with what all makes state; ``attributes`` on top, None deletes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_IMAGE
    meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{instance}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT_IMAGE, meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.PatientName = "P", "Name"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    dataset.FrameOfReferenceUID = "1.2.3.3"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.AcquisitionDate, dataset.AcquisitionTime = "20200101", f"1200{instance % 60:02d}"
    dataset.BodyPartExamined, dataset.PatientPosition = "HEAD", "HFS"
    dataset.InstanceNumber = instance
    dataset.DistanceSourceToDetector, dataset.DistanceSourceToPatient = scanner.sdd, scanner.sod
    dataset.GantryDetectorTilt = 0
    dataset.ImagePositionPatient = scanner.position(side)
    first = [1, 0, 0] if side in "AP" else [0, 1, 0]
    dataset.ImageOrientationPatient = [*first, 0, 0, -1]
    dataset.PixelSpacing = [scanner.travel, scanner.pitch]
    dataset.DataCollectionDiameter = scanner.columns * scanner.pitch
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope = LOW, 1
    stored = np.clip(np.rint(image * 400 + 20), 0, HIGH - LOW).astype("<u2")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    save_dataset(path, dataset)
    return path
