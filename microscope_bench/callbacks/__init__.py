"""Geometry while a model trains: a callback for transformers' Trainer, and a function for any other loop."""

from __future__ import annotations

from microscope_bench.callbacks.measured_step import measure_step
from microscope_bench.callbacks.trainer_callback import GeometryCallback

__all__ = ["GeometryCallback", "measure_step"]
