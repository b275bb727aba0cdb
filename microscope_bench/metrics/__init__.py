"""Metrics of token clouds: pure functions, usable on any array.

    from microscope_bench import metrics
    metrics.linearity(x, y, stream="update", estimator="held_out", groups=example_ids)

No file in this folder is named like one of these functions, so that importing a submodule can never replace a function
by a module. They load on first use (PEP 562): looking up which metrics exist imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microscope_bench.metrics.core.estimate import Estimate as Estimate
    from microscope_bench.metrics.covariance_functions import cka as cka
    from microscope_bench.metrics.covariance_functions import effective_rank as effective_rank
    from microscope_bench.metrics.covariance_functions import isoscore as isoscore
    from microscope_bench.metrics.covariance_functions import participation_ratio as participation_ratio
    from microscope_bench.metrics.cross_modal_functions import cosine_alignment as cosine_alignment
    from microscope_bench.metrics.cross_modal_functions import mir as mir
    from microscope_bench.metrics.cross_modal_functions import modality_gap as modality_gap
    from microscope_bench.metrics.cross_modal_functions import modality_integration_rate as modality_integration_rate
    from microscope_bench.metrics.cross_modal_functions import subspace_overlap as subspace_overlap
    from microscope_bench.metrics.functions import anisotropy as anisotropy
    from microscope_bench.metrics.functions import gride as gride
    from microscope_bench.metrics.functions import intrinsic_dimension as intrinsic_dimension
    from microscope_bench.metrics.functions import linearity as linearity
    from microscope_bench.metrics.functions import pareto_distance as pareto_distance
    from microscope_bench.metrics.record import Headline as Headline
    from microscope_bench.metrics.record import Metric as Metric
    from microscope_bench.metrics.registry import METRICS as METRICS
    from microscope_bench.metrics.several import estimates as estimates

_PUBLIC = {
    "linearity": "functions",
    "anisotropy": "functions",
    "intrinsic_dimension": "functions",
    "gride": "functions",
    "pareto_distance": "functions",
    "participation_ratio": "covariance_functions",
    "effective_rank": "covariance_functions",
    "isoscore": "covariance_functions",
    "cka": "covariance_functions",
    "modality_gap": "cross_modal_functions",
    "cosine_alignment": "cross_modal_functions",
    "subspace_overlap": "cross_modal_functions",
    "mir": "cross_modal_functions",
    "modality_integration_rate": "cross_modal_functions",
    "estimates": "several",
    "Estimate": "core.estimate",
    "Metric": "record",
    "Headline": "record",
    "METRICS": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
