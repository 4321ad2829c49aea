"""Validation of whole CT studies: found, reconstructed, scored, and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from spider_bundle.batch.options import BatchOptions
from spider_bundle.batch.validate import CASES, PAGE, RESULTS, TABLE, compare, validate
from spider_bundle.errors import SpiderError
from spider_bundle.evaluation.validation import AS_IT_LIES, MEAN_CT, REGISTERED
from spider_bundle.geometry import Grid
from spider_bundle.phantom import HeadPhantom
from tests.dicom.localisers import Scanner, write

SCANNER = Scanner(pitch=3.0, travel=3.0, columns=160, rows=100, top=150.0)
NAME = "Name"


def write_study(folder: Path, number: int, with_slices: bool = True) -> None:
    """A head at a place of its own, with both localisers and axial slices 4 mm apart."""
    folder.mkdir(parents=True)
    shift = np.array([8.0 * number, -12.0, 5.0 * number])
    grid = Grid.centred(4.0, 60).moved(shift)
    hu, _ = HeadPhantom.random(number).voxelise(Grid.centred(4.0, 60))
    uids = {"StudyInstanceUID": f"1.2.7.{number}", "FrameOfReferenceUID": f"1.2.8.{number}"}
    for index, (side, angle) in enumerate((("A", 0), ("L", 90)), 1):
        write(
            folder / f"localiser{index}.dcm",
            SCANNER.image(side, hu.astype(float), grid.affine),
            SCANNER,
            side,
            instance=index + 1000 * number,
            AcquisitionTime=f"12000{index}",
            Manufacturer="Philips",
            AngularPosition=angle,
            **uids,
        )
    affine = grid.affine  # RAS order: both axes run against DICOM's
    for k in range(60 if with_slices else 0):
        corner = affine @ [59, 59, k, 1]
        pixels = hu[::-1, ::-1, k].T
        path = write(
            folder / f"slice{k}.dcm",
            np.zeros((60, 60)),
            SCANNER,
            "A",
            instance=100 + k + 1000 * number,
            AcquisitionTime="121000",
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            SeriesInstanceUID=f"1.2.9.{number}",
            ImagePositionPatient=corner[:3].tolist(),
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[4, 4],
            **uids,
        )
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.clip(np.rint(pixels + 1024), 0, 4095).astype("<u2").tobytes()
        dataset.save_as(path)


@pytest.mark.slow
def test_studies_are_validated_once(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for number in (1, 2):
        write_study(source / str(number), number)
    write_study(source / "3", 3, with_slices=False)
    options = BatchOptions(source, output, spacing=4.0, shape=64, device="cpu", jobs=1)
    outcome, records = validate(options)
    assert outcome.counts["done"] == 3
    scored = [record for record in records if not record["code"]]
    assert len(scored) == 2
    assert [record["code"] for record in records if record["code"]] == ["P08"]
    for record in scored:
        assert set(record["scores"]) == {AS_IT_LIES, REGISTERED, MEAN_CT}
        assert record["position_error_mm"] < 15.0
        assert record["scores"][AS_IT_LIES]["dice_bone"] > 0.3
    page = (output / PAGE).read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2
    assert REGISTERED in (output / TABLE).read_text(encoding="utf-8")
    written = [path for path in output.rglob("*") if path.is_file()]
    assert not any(NAME.encode() in path.read_bytes() for path in written)

    stamps = {path: path.stat().st_mtime_ns for path in (output / CASES).rglob("record.json")}
    again, same = validate(options)
    assert again.counts["skipped"] == 3
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert json.dumps(same) == json.dumps(records)

    key = scored[0]["case"]
    said = compare(source / "1", output / RESULTS / key, tmp_path / "one")
    assert "position error" in said
    assert (tmp_path / "one" / "picture.png").is_file()
    with pytest.raises(SpiderError):
        compare(source / "1", tmp_path / "in")
