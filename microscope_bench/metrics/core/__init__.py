"""The machinery beneath the metrics: clouds, moments, solves, neighbours, folds.

Its modules load when first used (``core.moments``), since the files of metrics are read where there is no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor as Tensor

    from microscope_bench.metrics.core import arrays as arrays
    from microscope_bench.metrics.core import axes as axes
    from microscope_bench.metrics.core import concentration as concentration
    from microscope_bench.metrics.core import distances as distances
    from microscope_bench.metrics.core import frechet as frechet
    from microscope_bench.metrics.core import kernel_alignment as kernel_alignment
    from microscope_bench.metrics.core import leading as leading
    from microscope_bench.metrics.core import left_out as left_out
    from microscope_bench.metrics.core import linear_folds as linear_folds
    from microscope_bench.metrics.core import linear_solve as linear_solve
    from microscope_bench.metrics.core import moments as moments
    from microscope_bench.metrics.core import neighbours as neighbours
    from microscope_bench.metrics.core import pareto_law as pareto_law
    from microscope_bench.metrics.core import text_pair as text_pair
    from microscope_bench.metrics.core.arrays import Array as Array
    from microscope_bench.metrics.core.arrays import Groups as Groups
    from microscope_bench.metrics.core.axes import Spectrum as Spectrum
    from microscope_bench.metrics.core.cloud import Cloud as Cloud
    from microscope_bench.metrics.core.text_pair import TextPair as TextPair


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AttributeError(name) from error
