"""SPIDER: head CT and anatomical labels from two orthogonal radiographs (research use only)."""

from typing import TYPE_CHECKING, Any

from spider_bundle.moved import announce_moved_modules

if TYPE_CHECKING:
    from spider_bundle.api import Reconstruction, Reconstructor, reconstruct

__version__ = "0.6.0"
__all__ = ["Reconstruction", "Reconstructor", "__version__", "reconstruct"]

announce_moved_modules()


def __getattr__(name: str) -> Any:
    """Import the Python API when it is used: it brings torch and MONAI with it."""
    if name in ("Reconstruction", "Reconstructor", "reconstruct"):
        from spider_bundle import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
