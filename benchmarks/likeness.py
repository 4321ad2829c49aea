"""Measure the limits of the question whether pixels are an image, on radiographs and on damage.

Radiographs of the prepared heads as protocols V1 and V2 make them, low dose included, are stored in
every encoding; none may be refused. Of each kind of damage to every tenth of them the share that is
refused is told.

python -m benchmarks.likeness --count 500
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from monai.transforms import Compose

from spider_bundle.cases.datalist import head_datalist
from spider_bundle.cases.transforms import LoadHeadCased
from spider_bundle.dicom.decode import StoredPixels
from spider_bundle.dicom.likeness import check_likeness, measures
from spider_bundle.dicom.write import stored_values
from spider_bundle.errors import SpiderError
from spider_bundle.evaluation.protocols import V1, V2
from spider_bundle.simulation import RandRadiographRealismd, SimulateRadiographsd

Pixels = npt.NDArray[np.int32]
ENCODINGS = tuple(itertools.product(("LIN", "LOG"), (1, -1), (10, 12, 14, 16)))
DAMAGE: dict[str, Callable[[Pixels, int], tuple[Pixels, int]]] = {
    "one bit lost": lambda pixels, bits: (pixels & (1 << bits - 1) - 1, bits - 1),
    "two bits lost": lambda pixels, bits: (pixels & (1 << bits - 2) - 1, bits - 2),
    "read as signed": lambda pixels, bits: (pixels - ((pixels >> bits - 1) << bits), bits),
    "bytes swapped": lambda pixels, bits: (pixels.astype("<u2").byteswap().astype(np.int32), 16),
    "rows and columns": lambda pixels, bits: (pixels[:, :200].reshape(200, -1), bits),
    "one column off": lambda pixels, bits: (pixels.ravel()[: 255 * 255].reshape(255, 255), bits),
    "half the columns": lambda pixels, bits: (pixels.reshape(512, 128), bits),
    "noise": lambda pixels, bits: (
        np.random.RandomState(0).permutation(pixels.ravel()).reshape(pixels.shape),
        bits,
    ),
}
"""Kinds of damage to an image of 256 x 256 pixels and so many bits; pixels and bits afterwards."""


def radiographs(folder: Path, count: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield line integrals of the heads of a folder, by turns as V1 and as V2, ``(256, 256)``."""
    entries = [e for s in ("training", "validation") for e in head_datalist(folder, s)]
    plain = Compose([LoadHeadCased(), SimulateRadiographsd(V1, stride=2)])
    real = Compose(
        [
            LoadHeadCased(),
            SimulateRadiographsd(V2, stride=2),
            RandRadiographRealismd(prob=1.0, effect=0.7),
        ]
    )
    plain.set_random_state(seed=1)
    real.set_random_state(seed=2)
    for number in range((count + 1) // 2):
        entry = entries[number // 2 % len(entries)]
        yield from (plain, real)[number % 2](dict(entry))["line_integrals"].numpy()


def is_refused(pixels: Pixels, bits: int) -> bool:
    """Return whether stored values of 16 bits allocated are refused."""
    try:
        check_likeness(StoredPixels(pixels, pixels, 16, bits, bool(pixels.min() < 0)), "")
    except SpiderError:
        return True
    return False


def main() -> None:
    """Measure, and fail if a radiograph is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="radiographs to simulate")
    data = os.environ.get("SPIDER_DATA", "../shared/data")
    parser.add_argument("--heads", type=Path, default=Path(data, "heads", "openkbp_4mm"))
    arguments = parser.parse_args()
    refused, extremes = 0, defaultdict[str, list[float]](list)
    caught = dict.fromkeys(DAMAGE, 0)
    for number, integrals in enumerate(radiographs(arguments.heads, arguments.count)):
        relationship, sign, bits = ENCODINGS[number % len(ENCODINGS)]
        pixels = stored_values(integrals, relationship, sign, bits).astype(np.int32)
        refused += is_refused(pixels, bits)
        stored = StoredPixels(pixels, pixels, 16, bits, False)
        for name, value in measures(stored).items():
            extremes[name].append(value)
        for name, damage in DAMAGE.items() if number % 10 == 0 else ():
            caught[name] += is_refused(*damage(pixels, bits))
    for name, values in extremes.items():
        middle = np.median(values)
        print(f"{name:12s} {min(values):.3f} to {max(values):.3f}, median {middle:.3f}")
    for name, number in caught.items():
        print(f"{name:17s} refused: {number} of {(arguments.count + 9) // 10}")
    print(f"sound radiographs refused: {refused} of {arguments.count}")
    raise SystemExit(bool(refused))


if __name__ == "__main__":
    main()
