"""Analytic phantoms: an engine for convex bodies, and a head made of them."""

from spider_bundle.phantom.engine import AIR_HU, Phantom, Primitive, cylinder, ellipsoid
from spider_bundle.phantom.head import FLOOR, HeadPhantom

__all__ = ["AIR_HU", "FLOOR", "HeadPhantom", "Phantom", "Primitive", "cylinder", "ellipsoid"]
