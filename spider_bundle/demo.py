"""The demo's input: a radiograph pair of the head phantom as DICOM files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from spider_bundle.dicom.write import SyntheticIdentity, write_dx
from spider_bundle.geometry import ViewPosition, isocentric_view
from spider_bundle.phantom import HeadPhantom


def write_demo_pair(
    folder: str | Path,
    phantom: HeadPhantom | None = None,
    *,
    name: str = "demo",
    sod: float = 1000.0,
    sdd: float = 1150.0,
    pitch: float = 0.6,
    shape: tuple[int, int] = (480, 480),
) -> tuple[Path, Path]:
    """Write a PA and a left lateral radiograph of a head phantom.

    Args:
        folder: Folder for ``frontal.dcm`` and ``lateral.dcm``, created if absent.
        phantom: Head in LPS mm about the isocentre; :meth:`HeadPhantom.nominal` if not given.
        name: Tells synthetic examinations apart; UIDs derive from it.
        sod: Distance from the source to the isocentre, mm.
        sdd: Distance from the source to the detector, mm.
        pitch: Pixel pitch at the detector, mm.
        shape: ``(rows, columns)``.

    Returns:
        The two files, frontal first.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    head = HeadPhantom.nominal() if phantom is None else phantom
    identity = SyntheticIdentity(name)
    files = []
    for role, position in (("frontal", ViewPosition.PA), ("lateral", ViewPosition.LL)):
        view = isocentric_view(position, sod=sod, sdd=sdd, spacing=(pitch, pitch), shape=shape)
        integrals: npt.NDArray[np.float64] = head.line_integrals(view)
        path = target / f"{role}.dcm"
        write_dx(path, integrals, view, position, identity)
        files.append(path)
    return files[0], files[1]
