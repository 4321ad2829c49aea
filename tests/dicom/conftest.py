"""Synthetic radiographs with exact line integrals, written as DICOM files and spoilt on demand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest

from spider_bundle.dicom.write import SyntheticIdentity, reorient, write_cr, write_dx
from spider_bundle.geometry import View, ViewPosition, isocentric_view

SOD, SDD, PITCH, SHAPE = 1000.0, 1200.0, 1.8, (200, 180)
#: Centre (LPS mm), semi-axes (mm) and attenuation (1/mm): shell, brain, and a dense marker away
#: from every axis of symmetry.
MARKER = (30.0, -40.0, 55.0)
ELLIPSOIDS = (
    ((0, 0, 0), (75, 95, 100), 0.045),
    ((0, 0, 0), (69, 89, 94), -0.026),
    (MARKER, (6, 6, 6), 0.2),
)
IDENTITY = SyntheticIdentity("tests")


def line_integrals(view: View) -> np.ndarray:
    """Exact line integrals of the ellipsoids, shape ``view.shape``."""
    rows, columns = view.shape
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    ray = view.pixel_position(grid) - view.source
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    total = np.zeros(view.shape)
    for centre, axes, mu in ELLIPSOIDS:
        p = (view.source - np.array(centre)) / np.array(axes)
        d = ray / np.array(axes)
        a, b, c = (d * d).sum(-1), (d * p).sum(-1), (p * p).sum() - 1
        total += mu * 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a
    return total


def make_view(position: ViewPosition | str, **changes: object) -> View:
    """View of the synthetic examination."""
    arguments = {"sod": SOD, "sdd": SDD, "spacing": (PITCH, PITCH), "shape": SHAPE, **changes}
    return isocentric_view(ViewPosition(position), **arguments)


@cache
def standard_integrals(position: str) -> np.ndarray:
    """Line integrals of the unchanged view."""
    return line_integrals(make_view(position))


Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a synthetic DX (or CR) and set or delete (None) attributes of it afterwards."""
    count = 0

    def build(
        position: str = "PA",
        *,
        name: str | None = None,
        cr: bool = False,
        orientation: tuple[str, str] | None = None,
        identity: SyntheticIdentity = IDENTITY,
        edit: Callable[[pydicom.Dataset], None] | None = None,
        view: View | None = None,
        options: dict[str, object] | None = None,
        **attributes: object,
    ) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / (name or f"file{count}")
        path.parent.mkdir(parents=True, exist_ok=True)
        geometry = view or make_view(position)
        image = line_integrals(geometry) if view else standard_integrals(position)
        if orientation is not None:
            image, geometry = reorient(image, geometry, orientation)
        writer = write_cr if cr else write_dx
        writer(path, image, geometry, ViewPosition(position), identity, **(options or {}))
        if attributes or edit:
            dataset = pydicom.dcmread(path)
            for keyword, value in attributes.items():
                if value is None:
                    if keyword in dataset:
                        delattr(dataset, keyword)
                else:
                    setattr(dataset, keyword, value)
            if edit:
                edit(dataset)
            dataset.save_as(path)
        return path

    return build
