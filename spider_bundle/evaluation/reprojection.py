"""Whether a reconstruction explains the radiographs it came from."""

from __future__ import annotations

import torch

from spider_bundle.dicom.image import normalise_radiograph
from spider_bundle.evaluation.methods import Item, Reconstruction
from spider_bundle.intensity import attenuation
from spider_bundle.projection import project_volume
from spider_bundle.projection_matrix import both_cameras


def reprojection_rmse(reconstruction: Reconstruction, item: Item, stride: int = 2) -> float:
    """Difference between the radiographs and those of the reconstruction.

    Both are normalised as the network's input is, so that neither gain nor tone counts; every
    ``stride``-th pixel is compared, where the radiograph shows something.

    Args:
        reconstruction: On the grid of the case.
        item: The case with its ``image`` (see :mod:`spider_bundle.evaluation.methods`).
        stride: Distance of the compared pixels.

    Returns:
        Root mean squared difference over both views, in percent of the radiographs' range.
    """
    image = item["image"].as_tensor()
    size = image.shape[-2:]
    coarse = (size[0] // stride, size[1] // stride)
    skip = torch.diag(torch.tensor([1 / stride, 1 / stride, 1.0, 1.0], dtype=torch.float64))
    world = torch.as_tensor(item["pose"]).double() @ torch.as_tensor(item["affine"]).double()
    integrals = project_volume(
        attenuation(torch.from_numpy(reconstruction.hu))[None],
        world[None],
        (skip @ both_cameras(torch.as_tensor(item["image"].meta["projection"])).double())[None],
        coarse,
    )[0]
    seen = image[:, ::stride, ::stride]
    shown = normalise_radiograph(integrals, torch.ones_like(integrals, dtype=torch.bool))
    compared = seen > 0
    return 100 * float((seen - shown)[compared].square().mean().sqrt())
