"""SPIDER: head CT and anatomical labels from two orthogonal radiographs (research use only)."""

__version__ = "0.2.0"
