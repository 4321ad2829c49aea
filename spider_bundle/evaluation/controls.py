"""Controls: how much of a result comes from the radiographs and not from the learned atlas."""

from __future__ import annotations

from collections.abc import Sequence

from monai.data import MetaTensor

from spider_bundle.evaluation.methods import Item, Method, Reconstruction


class ShuffledRadiographs:
    """Every case is reconstructed from the radiographs and the geometry of the next one.

    Args:
        method: The method under control.
        items: All cases, in their order.
    """

    def __init__(self, method: Method, items: Sequence[Item]) -> None:
        self.method = method
        names = [item["case"] for item in items]
        self.sources = dict(zip(names, [*items[1:], *items[:1]], strict=True))

    def __call__(self, item: Item) -> Reconstruction:
        """Reconstruct the case, on its own grid, from another's radiographs.

        Raises:
            ValueError: There is no other case.
        """
        if len(self.sources) < 2:
            raise ValueError("shuffling needs at least two cases")
        return self.method({**item, "image": self.sources[item["case"]]["image"]})


class FlippedRadiograph:
    """One radiograph is mirrored along its columns, and its matrix is not.

    Args:
        method: The method under control.
        view: 0 for the frontal, 1 for the lateral radiograph.
    """

    def __init__(self, method: Method, view: int) -> None:
        self.method = method
        self.view = view

    def __call__(self, item: Item) -> Reconstruction:
        """Reconstruct the case from the mirrored pair."""
        image = item["image"]
        shown = image.as_tensor().clone()
        shown[self.view] = shown[self.view].flip(-1)
        return self.method({**item, "image": MetaTensor(shown, meta=image.meta)})
