"""From DICOM files to result files: what is dense in the films is dense at that point in space."""

from __future__ import annotations

import json
from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage
from torch import nn

from spider_bundle.demo import write_demo_pair
from spider_bundle.dicom.transforms import BiplanarRadiographsd
from spider_bundle.errors import Code, SpiderError
from spider_bundle.inferers import VolumeInferer, _most_likely, predict
from spider_bundle.labels import Label
from spider_bundle.networks.sampling import sample_maps
from spider_bundle.outputs.transforms import CollectResultd, CTAndLabelsd, WriteStudyd
from spider_bundle.phantom import HeadPhantom, ellipsoid
from spider_bundle.projection_matrix import project_points

MARKER = np.array([33.0, -27.0, 45.0])  # LPS mm


class BackProjection(nn.Module):
    """Stands in for the network: a point is as dense as in the view that shows it less dense."""

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :, None]

    def decode_grid(
        self,
        maps: torch.Tensor,
        projection: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        z: torch.Tensor,
        chunk: int,
    ) -> torch.Tensor:
        points = torch.stack(torch.meshgrid(x, y, z, indexing="ij"), dim=-1).reshape(1, -1, 3)
        seen = sample_maps(maps, project_points(projection, points)).amin(dim=-1)
        logits = torch.zeros(1, len(Label), points.shape[1])
        logits[:, Label.BONE] = (seen > 0.9).float()
        volume = torch.cat([logits, seen[:, None]], dim=1)
        return volume.reshape(1, -1, len(x), len(y), len(z))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study folder written from a pair with one dense marker in foam."""
    folder = tmp_path_factory.mktemp("marker")
    foam = ellipsoid([0.0, 0.0, 0.0], [70.0, 80.0, 90.0], -900.0, Label.SOFT_TISSUE)
    # large enough not to be cut off with the densest hundredth of the pixels
    head = HeadPhantom((foam,)).with_markers([MARKER], radius_mm=20.0, hu=3000.0)
    files = write_demo_pair(folder / "in", head, shape=(240, 240), pitch=1.0)
    loaded = BiplanarRadiographsd(spacing=(2.0, 2.5, 3.0), shape=(100, 90, 80))(
        {"image": list(files)}
    )
    inferer = VolumeInferer(precision="float32")
    data = {**loaded, "pred": predict(loaded, BackProjection(), inferer, "cpu")}
    collect = CollectResultd(None, "cpu", pixel_size=1.2, minimum_agreement=0.2)
    write = WriteStudyd(folder / "out", ("nifti", "preview"))
    done = CTAndLabelsd()(data)
    written = write(collect(done))
    with pytest.raises(SpiderError) as caught:
        collect(done | {"ct": -1000 - done["ct"]})  # dense where the films show air
    assert {(found.code, found.role) for found in caught.value.errors} == {
        (Code.REPROJECTION_DISAGREES, "frontal"),
        (Code.REPROJECTION_DISAGREES, "lateral"),
    }
    return Path(written["result"]["study"])


@pytest.mark.parametrize(("name", "threshold"), [("ct.nii.gz", 1500), ("label.nii.gz", 1)])
def test_marker_is_at_its_point_for_every_reader(study: Path, name: str, threshold: int) -> None:
    image = nibabel.load(study / name)
    values = np.asanyarray(image.dataobj)
    middle = np.argwhere(values > threshold).mean(axis=0)
    ras = image.affine[:3, :3] @ middle + image.affine[:3, 3]
    assert np.linalg.norm(ras * [-1, -1, 1] - MARKER) < 1.5
    index = [round(float(i)) for i in middle]
    lps = itk.imread(str(study / name))
    assert np.linalg.norm(np.array(lps.TransformIndexToPhysicalPoint(index)) - MARKER) < 3
    assert lps.GetPixel(index) == values[tuple(index)]
    loaded = LoadImage(image_only=True)(study / name)
    assert np.allclose(loaded.affine, image.affine, atol=1e-4)
    assert float(loaded[tuple(index)]) == values[tuple(index)]


def test_reprojection_fits_the_films(study: Path) -> None:
    report = json.loads((study / "report.json").read_text())
    for role in ("frontal", "lateral"):
        assert report["reprojection"][role]["pearson"] > 0.8
    assert report["weights_sha256"] is None
    assert report["timings_s"]["reconstruct"] > 0
    assert report["grid"]["shape"] == [100, 90, 80]


def test_window_ends_are_written_as_hu() -> None:
    prediction = torch.zeros(len(Label) + 1, 2, 2, 2)
    prediction[-1] = torch.tensor([-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 1 / 3]).reshape(2, 2, 2)
    prediction[Label.MANDIBLE] = 1.0
    image = MetaTensor(torch.zeros(2, 4, 4), meta={"original_affine": torch.eye(4) * 2})
    out = CTAndLabelsd()({"pred": prediction, "image": image})
    hu = out["ct"].flatten().tolist()
    assert hu == [-1000, -1000, -250, 500, 1250, 2000, 2000, 0]
    assert (out["pred"] == Label.MANDIBLE).all()
    assert out["pred"].dtype is torch.uint8
    assert torch.equal(out["ct"].affine, torch.eye(4, dtype=torch.float64) * 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_predictions_are_not_written_as_hu(value: float) -> None:
    prediction = torch.zeros(len(Label) + 1, 2, 2, 2)
    prediction[-1, 0, 1, 0] = value
    image = MetaTensor(torch.zeros(2, 4, 4), meta={"original_affine": torch.eye(4)})
    with pytest.raises(ValueError, match="not finite"):
        CTAndLabelsd()({"pred": prediction, "image": image})


def test_most_likely_label_is_that_of_argmax_and_the_first_of_equals() -> None:
    logits = torch.randint(0, 4, (6, 9, 8, 7), generator=torch.Generator().manual_seed(0)).float()
    logits[:, 0] = -1e30
    assert torch.equal(_most_likely(logits), logits.argmax(dim=0).to(torch.uint8))
