"""Score weights on the protocols of the moved world, of bent heads and after rigid registration.

python -m benchmarks.protocols --weights models/model.pt --output_dir eval/protocols

All start from V1: the validation heads, geometry drawn from the case's id, exact radiographs.

- *world*: views and head together are turned by 3 degrees about each axis, or shifted by 4 mm along
  each; the geometry is known. A network that asks only what the views show loses nothing.
- *flexion*: the head is turned by 25 degrees about the left-right axis through the isocentre.
- *magnification*: the stated magnification is wrong by 1, 2 or 5 %, the position of the source is
  right.
- *v3*: the two localisers of a CT: SOD 530 to 650 mm, SDD 940 to 1100 mm, pitches of columns at the
  axis and of rows 0.5 to 1.0 mm each, head up to 40 mm off the axis in x and y and turned by up to
  8 degrees about each axis, all four sides of the tube; exact line integrals.
- *v2*: protocol V2 of `spider evaluate`.

Scores are on measured voxels, as they lie and (`_registered`) after the rigid fit of
:mod:`spider_bundle.evaluation.registration`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle import ConfigParser

from spider_bundle.bundle import bundle_root
from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.dicom.image import resample_radiograph
from spider_bundle.evaluation.comparison import score_item
from spider_bundle.evaluation.methods import NetworkMethod
from spider_bundle.evaluation.protocols import v2_items
from spider_bundle.evaluation.registration import register_bone, registered
from spider_bundle.evaluation.tables import write_scores
from spider_bundle.geometry import View, ViewPosition, rotation_about
from spider_bundle.intensity import attenuation
from spider_bundle.projection import project_volume
from spider_bundle.simulation import (
    AcquisitionRanges,
    GeometryError,
    NormaliseRadiographsd,
    SimulateRadiographsd,
    case_rng,
)
from spider_bundle.slot_view import slot_view

SIZE, PIXEL_SIZE = 256, 1.2
_SHOWN = (
    *("psnr_db", "dice_bone", "psnr_db_registered", "dice_bone_registered"),
    *("shift_mm", "bone_shift_mm"),
)
_PROTOCOLS = ("v1", "v2", "v3", "world", "flexion", "magnification")
TURN_DEGREES, SHIFT_MM, FLEXION_DEGREES = 3.0, 4.0, 25.0

Head = dict[Hashable, Any]
Simulation = Callable[[Head], Head]


def motion(axis: int, degrees: float = 0.0, shift: float = 0.0) -> npt.NDArray[np.float64]:
    """Rigid motion ``(4, 4)`` about and along an axis."""
    move = np.eye(4)
    move[:3, :3] = rotation_about(axis, degrees)
    move[axis, 3] = shift
    return move


def v1_with(error: GeometryError | None = None) -> Simulation:
    """Protocol V1, with something wrong about what is stated."""
    simulate = SimulateRadiographsd(seed_by_case=True, error=error)
    normalise = NormaliseRadiographsd()
    return lambda head: normalise(simulate(head))


def posed(move: npt.NDArray[np.float64]) -> Simulation:
    """Protocol V1 with the head moved before its radiographs are taken."""
    v1 = v1_with()
    return lambda head: v1({**head, "pose": torch.from_numpy(move) @ head["pose"]})


def in_world(move: npt.NDArray[np.float64], canonical: bool = True) -> Simulation:
    """Protocol V1 in a world that is moved against views and head together.

    Args:
        move: The motion, old to new world.
        canonical: The network sees canonical views of the new world, as it does wherever files are
            read; otherwise the old images with matrices of the new world.
    """

    def moved(view: View) -> View:
        turn, shift = move[:3, :3], move[:3, 3]
        return replace(
            view,
            source=turn @ view.source + shift,
            centre=turn @ view.centre + shift,
            column_vector=turn @ view.column_vector,
            row_vector=turn @ view.row_vector,
        )

    def simulate(head: Head) -> Head:
        drawn = AcquisitionRanges().draw(case_rng(str(head["case"])), SIZE, PIXEL_SIZE)
        views = [moved(told) for told, _ in drawn]
        if canonical:
            views = [
                view.canonical(PIXEL_SIZE, SIZE, nominal(view, lateral=i == 1))
                for i, view in enumerate(views)
            ]
        projection = torch.from_numpy(np.stack([view.matrix for view in views]))
        pose = torch.from_numpy(move) @ head["pose"]
        integrals = project_volume(
            attenuation(head["ct"].float())[None],
            (pose @ head["affine"])[None],
            projection[None],
            (SIZE, SIZE),
        )[0]
        shown: Head = {"pose": pose, "line_integrals": integrals, "projection": projection}
        return NormaliseRadiographsd()({**head, **shown})

    return simulate


def localisers(head: Head) -> Head:
    """Protocol V3: two slot scans of their own pitch, resampled as files are."""
    rng = case_rng(str(head["case"]))
    sod, sdd = rng.uniform(530, 650), rng.uniform(940, 1100)
    pitch = (float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.5, 1.0)))
    axis = (float(rng.uniform(-40, 40)), float(rng.uniform(-40, 40)))
    pose = np.eye(4)
    for i in range(3):
        pose[:3, :3] = rotation_about(i, rng.uniform(-8, 8)) @ pose[:3, :3]
    moved = torch.from_numpy(pose) @ head["pose"]
    shape = (round(SIZE * PIXEL_SIZE / pitch[0]), round(1.5 * SIZE * PIXEL_SIZE / pitch[1]))
    images, matrices = [], []
    for choices in ((ViewPosition.AP, ViewPosition.PA), (ViewPosition.LL, ViewPosition.RL)):
        position = choices[rng.randint(2)]
        view = slot_view(position, sod=sod, sdd=sdd, spacing=pitch, shape=shape, axis=axis)
        target = view.canonical(PIXEL_SIZE, SIZE, position)
        integrals = project_volume(
            attenuation(head["ct"].float())[None],
            (moved @ head["affine"])[None],
            torch.from_numpy(view.matrix)[None, None],
            shape,
        )[0, 0].numpy()
        seen, _ = resample_radiograph(integrals, np.ones(shape, dtype=bool), view, target)
        images.append(torch.from_numpy(seen))
        matrices.append(torch.from_numpy(target.matrix))
    shown: Head = {"line_integrals": torch.stack(images), "projection": torch.stack(matrices)}
    return NormaliseRadiographsd()({**head, **shown, "pose": moved})


def nominal(view: View, lateral: bool) -> ViewPosition:
    """Return the view position whose beam is nearest."""
    choices = (ViewPosition.LL, ViewPosition.RL) if lateral else (ViewPosition.AP, ViewPosition.PA)
    return max(choices, key=lambda position: float(position.beam @ view.beam))


def simulations() -> dict[str, dict[str, Simulation]]:
    """Every protocol's settings by title."""
    moves = {f"turned about {'xyz'[axis]}": motion(axis, TURN_DEGREES) for axis in range(3)}
    moves |= {f"shifted along {'xyz'[axis]}": motion(axis, shift=SHIFT_MM) for axis in range(3)}
    return {
        "v1": {"V1": v1_with()},
        "v3": {"V3": localisers},
        "world": {title: in_world(move) for title, move in moves.items()},
        "world_same_images": {title: in_world(move, False) for title, move in moves.items()},
        "flexion": {
            f"flexion {sign * FLEXION_DEGREES:+.0f} degrees": posed(
                motion(0, sign * FLEXION_DEGREES)
            )
            for sign in (1, -1)
        },
        "magnification": {
            f"magnification stated {error:+.0%}": v1_with(GeometryError(sdd=error))
            for size in (0.01, 0.02, 0.05)
            for error in (size, -size)
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """Score, print and write one row per setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--weights", type=Path, default=bundle_root() / "models" / "model.pt")
    parser.add_argument("--output_dir", type=Path, default=Path("eval/protocols"))
    parser.add_argument("--protocols", nargs="+", default=list(_PROTOCOLS))
    parser.add_argument("--heads", type=int, default=None, help="only the first so many")
    options = parser.parse_args(arguments)
    root = bundle_root()
    config = ConfigParser()
    config.read_config([str(root / "configs" / name) for name in ("train.json", "evaluate.json")])
    config["bundle_root"], config["weights"] = str(root), str(options.weights)
    method = NetworkMethod(config.get_parsed_content("network"))
    entries = config.get_parsed_content("validate::data")[: options.heads]
    load = LoadHeadCased()
    settings = simulations()
    rows: list[dict[str, Any]] = []

    def items(protocol: str) -> Iterator[tuple[str, list[Any]]]:
        if protocol == "v2":
            yield "V2", v2_items(entries, SIZE, PIXEL_SIZE)
            return
        for title, simulate in settings[protocol].items():
            yield title, [simulate(load(entry)) for entry in entries]

    for protocol in options.protocols:
        for title, cases in items(protocol):
            scored = []
            for item in cases:
                result = method(item)
                measured = item["measured"].numpy()
                affine = item["affine"].numpy()
                moved, fit = registered(result, item["ct"].numpy(), measured, affine)
                after = score_item(moved, item, surfaces=False)
                row = score_item(result, item, surfaces=False)
                row |= {f"{k}_registered": v for k, v in after.items() if k != "case"}
                row |= {"shift_mm": fit.shift_mm, "turn_degrees": fit.turn_degrees}
                bone = register_bone(result.hu, item["ct"].numpy(), measured, affine)
                row["bone_shift_mm"] = bone.shift_mm
                scored.append(row)
            rows += [{"setting": title, **row} for row in scored]
            write_scores(options.output_dir, "protocols", rows, {})
            means = [
                f"{name} {np.mean([row[name] for row in scored if row[name] is not None]):.3f}"
                for name in _SHOWN
            ]
            print(title, *means, flush=True)


if __name__ == "__main__":
    main()
