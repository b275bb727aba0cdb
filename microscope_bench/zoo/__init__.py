"""Tiny trained multimodal models that ship with the package, and how they were trained; imports no torch."""

from __future__ import annotations

from microscope_bench.adapters.presets import ZOO_FUSIONS as FUSIONS

SEED = 0
"""Of the models that ship."""

__all__ = ["FUSIONS", "SEED"]
