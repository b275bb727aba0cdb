"""Metrics of token clouds: pure functions, usable on any array.

    from microscope_bench import metrics
    metrics.linearity(x, y, stream="update", groups=example_ids)

What all of them have in common:

- States are (N tokens, d), torch or numpy, any real dtype, on any device. Values are computed in float64.
- ``x`` (N, d) are the states at boundary l, ``y`` (N, d) those of the same tokens at boundary l + 1. Beside ``text``
  (M, d), the text tokens at boundary l, ``x`` are image, video or audio tokens.
- ``groups`` name the example each token belongs to, (N,) integers or strings; without, each token is its own example.
  ``text_groups`` (M,) do so for ``text``, by the same names.
- Each returns one :class:`Estimate`: the value with its standard error by a jackknife that leaves out whole groups (of
  a modality beside text: from both clouds, and ``n_tokens`` counts both), or it raises.
- ``MetricError``: these tokens have no such value, as where NaN or infinity is among them; the message says why and
  what to do. ``UnknownNameError``: an unknown estimator or stream. ``ValueError``: shapes that do not fit, groups of
  another length, an array that is not of real numbers.

No file in this folder is named like one of these functions, so that importing a submodule can never replace a function
by a module. None of them imports torch before a metric is computed.
"""

from __future__ import annotations

from microscope_bench.metrics.cka_metric import cka as cka
from microscope_bench.metrics.core.estimate import Estimate as Estimate
from microscope_bench.metrics.cosine_alignment_metric import cosine_alignment as cosine_alignment
from microscope_bench.metrics.gride_metric import gride as gride
from microscope_bench.metrics.intrinsic_dimension_metric import intrinsic_dimension as intrinsic_dimension
from microscope_bench.metrics.linearity_metric import linearity as linearity
from microscope_bench.metrics.mir_metric import mir as mir
from microscope_bench.metrics.mir_metric import modality_integration_rate as modality_integration_rate
from microscope_bench.metrics.modality_gap_metric import modality_gap as modality_gap
from microscope_bench.metrics.pareto_metric import pareto_distance as pareto_distance
from microscope_bench.metrics.record import Headline as Headline
from microscope_bench.metrics.record import Metric as Metric
from microscope_bench.metrics.registry import METRICS as METRICS
from microscope_bench.metrics.registry import estimates as estimates
from microscope_bench.metrics.spectrum_metrics import anisotropy as anisotropy
from microscope_bench.metrics.spectrum_metrics import effective_rank as effective_rank
from microscope_bench.metrics.spectrum_metrics import isoscore as isoscore
from microscope_bench.metrics.spectrum_metrics import participation_ratio as participation_ratio
from microscope_bench.metrics.subspace_overlap_metric import subspace_overlap as subspace_overlap
