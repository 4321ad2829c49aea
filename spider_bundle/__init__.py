"""SPIDER: head CT and anatomical labels from two orthogonal radiographs (research use only)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spider_bundle.api import Reconstruction, Reconstructor, reconstruct

__version__ = "0.5.0"
__all__ = ["Reconstruction", "Reconstructor", "__version__", "reconstruct"]


def __getattr__(name: str) -> Any:
    """The Python API, imported when it is used: it brings torch and MONAI with it."""
    if name in ("Reconstruction", "Reconstructor", "reconstruct"):
        from spider_bundle import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
