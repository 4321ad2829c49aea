"""Measurements, and what only comparisons need."""
