"""MONAI transforms of head cases: load, move, deform, sample points.

Heads are moved by a pose matrix (case LPS to world LPS) and never resampled for it: points carry
the exact values of their own voxels. Keys of the dictionaries: ``ct`` (HU, ``(X, Y, Z)``),
``structure`` (labels), ``ambiguous``, ``measured``, ``affine`` (index to LPS, ``(4, 4)``), ``pose``
(``(4, 4)``), ``warped_ct`` and ``displacement`` after a deformation, and for training ``points``
(``(P, 3)``, world LPS mm) and ``label`` (the packed targets of
:mod:`spider_bundle.training.losses`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, RandomizableTransform, Transform
from torch.nn import functional as F

from spider_bundle.cases.case import load_case
from spider_bundle.geometry import rotation_about
from spider_bundle.intensity import normalise_hu
from spider_bundle.labels import BONES, Label
from spider_bundle.training.losses import pack_targets

Data = dict[Hashable, Any]


class LoadHeadCased(Transform):
    """Load a datalist entry into a case dictionary (see :func:`~.case.load_case`)."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Load; raises ValueError if the files of the case do not fit together."""
        case = load_case({str(key): value for key, value in data.items()})
        return {
            "case": data["case"],
            "ct": torch.from_numpy(case.hu),
            "structure": torch.from_numpy(case.structure),
            "ambiguous": torch.from_numpy(case.ambiguous),
            "measured": torch.from_numpy(case.measured),
            "affine": torch.from_numpy(case.grid.affine),
            "pose": torch.eye(4, dtype=torch.float64),
        }


class RandHeadPosed(RandomizableTransform):
    """Turn, shift, scale and mirror the head by its pose matrix.

    Args:
        prob: Probability that anything is done.
        rotation: Largest rotation about each axis, degrees.
        shift: Largest shift along each axis, mm.
        scale: Largest relative change of the overall size.
        stretch: Largest relative change along each axis in addition.
        mirror: Probability of mirrored anatomy (left and right swapped; no label has a side).
        bent: Share of the moved heads that are far from straight, moved by the ranges below.
        bent_rotation: Their largest rotations about x (flexion of the neck), y and z, degrees.
        bent_shift: Their largest shift along each axis, mm.
    """

    def __init__(
        self,
        prob: float = 1.0,
        rotation: float = 8.0,
        shift: float = 12.0,
        scale: float = 0.08,
        stretch: float = 0.04,
        mirror: float = 0.5,
        bent: float = 0.0,
        bent_rotation: Sequence[float] = (25.0, 15.0, 15.0),
        bent_shift: float = 40.0,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        self.bent = bent
        self.bent_rotation = bent_rotation
        self.bent_shift = bent_shift
        self.rotation = rotation
        self.shift = shift
        self.scale = scale
        self.stretch = stretch
        self.mirror = mirror

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Compose a random pose onto ``pose``."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        uniform = self.R.uniform
        linear = np.diag(
            (1 + uniform(-self.scale, self.scale))
            * (1 + uniform(-self.stretch, self.stretch, size=3))
        )
        if self.R.random() < self.mirror:
            linear[0] *= -1
        bent = bool(self.bent and self.R.random() < self.bent)
        rotation = self.bent_rotation if bent else (self.rotation,) * 3
        shift = self.bent_shift if bent else self.shift
        for axis in range(3):
            linear = rotation_about(axis, uniform(-rotation[axis], rotation[axis])) @ linear
        pose = np.eye(4)
        pose[:3, :3] = linear
        pose[:3, 3] = uniform(-shift, shift, size=3)
        out["pose"] = torch.from_numpy(pose) @ out["pose"]
        return out


class RandHeadDeformd(RandomizableTransform):
    """Deform the head smoothly.

    The CT that is projected is warped. The points are moved instead and keep the exact values of
    their voxels: ``displacement`` ``(X, Y, Z, 3)`` says where each voxel went, in case LPS mm.

    Args:
        prob: Probability of a deformation.
        amplitude: Standard deviation of the displacement at the control points, mm.
        control: Control points per axis.
    """

    def __init__(self, prob: float = 0.5, amplitude: float = 5.0, control: int = 5) -> None:
        RandomizableTransform.__init__(self, prob)
        self.amplitude = amplitude
        self.control = control

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Set ``warped_ct`` and ``displacement``."""
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        noise = torch.from_numpy(self.R.normal(0.0, self.amplitude, size=(3, *[self.control] * 3)))
        ct = out["ct"].float()
        to_index = torch.linalg.inv(out["affine"][:3, :3].double())
        size = torch.tensor(ct.shape)
        # in grid_sample's units, where the volume spans -1..1
        control = (
            torch.einsum("ij,jxyz->ixyz", to_index, noise) * (2 / (size - 1))[:, None, None, None]
        )
        shift = _resized(control.float(), [17, 17, 17])
        unit = _unit_lattice(shift.shape[1:])
        # a voxel p is seen at q with q + shift(q) = p; the shift is smooth, so this contracts
        back = -shift
        for _ in range(3):
            back = -_sampled(shift, unit + back)
        dense = _unit_lattice(ct.shape) + _resized(shift, list(ct.shape))
        out["warped_ct"] = _sampled(ct[None], dense)[0]
        voxels = _resized(back, list(ct.shape)).permute(1, 2, 3, 0) * (size - 1) / 2
        out["displacement"] = voxels @ out["affine"][:3, :3].float().T
        return out


def _resized(field: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """Field ``(C, x, y, z)`` brought to another lattice of the same volume."""
    return F.interpolate(field[None], shape, mode="trilinear", align_corners=True)[0]


def _unit_lattice(shape: Sequence[int]) -> torch.Tensor:
    """Positions of a lattice in -1..1 along each axis, shape ``(3, X, Y, Z)``."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _sampled(volume: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Trilinear values of ``(C, X, Y, Z)`` at ``(3, x, y, z)``; the border is repeated."""
    grid = where.permute(1, 2, 3, 0).flip(-1)[None]
    return F.grid_sample(volume[None], grid, align_corners=True, padding_mode="border")[0]


class SamplePointsd(Randomizable, Transform):
    """Draw voxels, balanced over the tissues, as the points to supervise.

    Rare tissue is drawn more often than it occurs. Each point is weighted by the inverse of how
    often it was drawn (importance sampling), so that losses stay unbiased estimates of those over
    the whole volume: without that, a network that is unsure takes the rare tissue too often.

    Args:
        count: Points per case.
        uniform: Share drawn from the whole volume.
        head: Share drawn from the head; the rest is drawn in equal parts from the classes.
        completed_weight: Weight in the loss of voxels that were completed and not measured.
        num_classes: Number of labels, background included.
    """

    def __init__(
        self,
        count: int = 8192,
        uniform: float = 0.25,
        head: float = 0.45,
        completed_weight: float = 0.3,
        num_classes: int = len(Label),
    ) -> None:
        self.count = count
        self.uniform = uniform
        self.head = head
        self.completed_weight = completed_weight
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Set ``points`` ``(P, 3)`` in world LPS mm and their packed targets ``label``."""
        out = dict(data)
        structure = out["structure"].flatten()
        drawn, importance = self._draw(structure.numpy())
        chosen = torch.from_numpy(drawn)
        shape = out["ct"].shape
        index = torch.stack(torch.unravel_index(chosen, shape), dim=1).double()
        points = index @ out["affine"][:3, :3].T + out["affine"][:3, 3]
        if "displacement" in out:
            points = points + out["displacement"].reshape(-1, 3)[chosen]
        points = points @ out["pose"][:3, :3].T + out["pose"][:3, 3]
        hu = out["ct"].flatten()[chosen]
        weight = out["measured"].flatten()[chosen].float()
        weight = weight + self.completed_weight * (1 - weight)
        weight = weight * torch.from_numpy(importance).float()
        allowed = F.one_hot(structure[chosen].long(), self.num_classes).float()
        either = out["ambiguous"].flatten()[chosen]
        allowed[either] = allowed.new_tensor([float(c in BONES) for c in range(self.num_classes)])
        out["points"] = points.float()
        out["label"] = pack_targets(normalise_hu(hu), weight, allowed)
        return out

    def _draw(self, structure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat voxel indices ``(count,)`` and their weights, 1 on average."""
        occurring = np.bincount(structure, minlength=self.num_classes)
        classes = [c for c in range(1, self.num_classes) if occurring[c]]
        in_head = occurring[1:].sum()
        head = round(self.count * self.head) if in_head else 0
        share = round(self.count * (1 - self.uniform - self.head)) // max(len(classes), 1)
        every = self.count - head - share * len(classes)
        # expected draws of one voxel of each class
        density = np.full(self.num_classes, every / len(structure))
        drawn = [self.R.choice(len(structure), size=every)]
        if head:
            drawn.append(self.R.choice(np.flatnonzero(structure), size=head))
            density[1:] += head / in_head
        for c in classes:
            drawn.append(self.R.choice(np.flatnonzero(structure == c), size=share))
            density[c] += share / occurring[c]
        chosen = np.concatenate(drawn)
        return chosen, self.count / len(structure) / density[structure[chosen]]
