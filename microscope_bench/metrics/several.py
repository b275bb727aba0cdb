"""Several metrics of the same arrays at once, from one pass over them."""

from __future__ import annotations

from collections.abc import Sequence

from microscope_bench.errors import MetricError
from microscope_bench.metrics.core.arrays import N_FOLDS, Array, Groups, cloud_of, matrix
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.registry import DEFAULT_METRICS, METRICS, metric_names


def estimates(
    x: Array,
    y: Array | None = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    groups: Groups | None = None,
    n_folds: int = N_FOLDS,
) -> dict[tuple[str, str, str | None], Estimate]:
    """Every estimate of some metrics; what they have in common, above all the moments, is computed once.

    With ``n_folds=1`` there are no standard errors and no held-out values, and linearity of both streams takes one
    solve instead of 56.

    Args:
        x: (N, d) states at boundary l, torch or numpy, any real dtype, on any device. Computed in float64.
        y: (N, d) the same tokens at boundary l + 1; None for metrics that look at one boundary.
        metrics: names of those that look at one cloud (``microscope-bench ls metrics``).
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.
        n_folds: folds of whole examples, for standard errors and held-out values.

    Returns:
        (metric, estimator, stream) → the estimate, whose value is None where there is none, with the reason; stream is
        None for a metric that has no streams.

    Raises:
        MetricError: a metric that needs ``y``, or a cloud of text beside it.
        ValueError: shapes that do not fit, an array that is not of real numbers, or ``n_folds`` below 1.
        UnknownNameError: an unknown metric.

    >>> import torch
    >>> x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> found = estimates(x, 2 * x.roll(1, dims=1), ["linearity", "anisotropy"], n_folds=1)
    >>> round(found["linearity", "in_sample", "update"].value, 6)
    1.0
    >>> round(found["anisotropy", "top_share", None].value, 2)
    0.16
    """
    before, after = matrix("x", x), None if y is None else matrix("y", y)
    if after is not None and before.shape != after.shape:
        raise ValueError(
            f"x and y are the same tokens at two boundaries and need one shape, got {tuple(before.shape)} and "
            f"{tuple(after.shape)}"
        )
    chosen = [METRICS.get(name) for name in metric_names(metrics)]
    cloud = cloud_of(before, None if after is None else after.to(before.device), groups, n_folds=n_folds)
    cloud.n_neighbours = max(2, *(metric.neighbours for metric in chosen))
    found: dict[tuple[str, str, str | None], Estimate] = {}
    for metric in chosen:
        of_metric = {(metric.name, estimator, stream): one for estimator, stream, one in metric.scores(cloud)}
        if not of_metric:
            needs = "a cloud of text beside x: call its own function" if y is not None else "y, the next boundary"
            raise MetricError(f"{metric.name} cannot be computed of these arrays alone; it needs {needs}")
        found |= of_metric
    return found
