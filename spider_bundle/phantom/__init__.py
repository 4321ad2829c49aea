"""Analytic phantoms: an engine for convex bodies, and a head made of them."""

from spider_bundle.phantom.engine import AIR_HU, Phantom, Primitive, cylinder, ellipsoid
from spider_bundle.phantom.head import FLOOR, ISOCENTRE_IN_TEMPLATE, HeadPhantom

__all__ = [
    "AIR_HU",
    "FLOOR",
    "ISOCENTRE_IN_TEMPLATE",
    "HeadPhantom",
    "Phantom",
    "Primitive",
    "cylinder",
    "ellipsoid",
]
