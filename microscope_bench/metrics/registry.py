"""The table of all metrics, and several of them computed at once. Imports no torch until one is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from microscope_bench.errors import MetricError, MicroscopeError
from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import Headline, Metric
from microscope_bench.system.lazy_registry import Registry

_PATHS = {
    "linearity": "linearity_metric:LINEARITY",
    "anisotropy": "spectrum_metrics:ANISOTROPY",
    "intrinsic_dimension": "intrinsic_dimension_metric:INTRINSIC_DIMENSION",
    "intrinsic_dimension_by_scale": "gride_metric:INTRINSIC_DIMENSION_BY_SCALE",
    "intrinsic_dimension_fit": "pareto_metric:INTRINSIC_DIMENSION_FIT",
    "intrinsic_dimension_within_examples": "intrinsic_dimension_metric:INTRINSIC_DIMENSION_WITHIN_EXAMPLES",
    "participation_ratio": "spectrum_metrics:PARTICIPATION_RATIO",
    "effective_rank": "spectrum_metrics:EFFECTIVE_RANK",
    "isoscore": "spectrum_metrics:ISOSCORE",
    "cka": "cka_metric:CKA",
    "modality_gap": "modality_gap_metric:MODALITY_GAP",
    "cosine_alignment": "cosine_alignment_metric:COSINE_ALIGNMENT",
    "subspace_overlap": "subspace_overlap_metric:SUBSPACE_OVERLAP",
    "mir": "mir_metric:MIR",
}

METRICS: Registry[Metric] = Registry(
    "metric",
    {name: f"{__package__}.{path}" for name, path in _PATHS.items()},
    group="microscope_bench.metrics",
    hint="List them with: microscope-bench ls metrics",
)
"""Every metric; another package adds one by an entry point of the group ``microscope_bench.metrics``."""

DEFAULT_METRICS = ("linearity", "intrinsic_dimension", "anisotropy")
ALL = "all"


def metric_names(wanted: str | Sequence[str]) -> list[str]:
    """The metrics that were asked for, each once; ``all`` stands for every registered one.

    >>> metric_names("anisotropy, linearity,anisotropy")
    ['anisotropy', 'linearity']
    """
    names = [name.strip() for name in (wanted.split(",") if isinstance(wanted, str) else wanted) if name.strip()]
    if not names:
        raise MicroscopeError("no metric is named; see: microscope-bench ls metrics")
    for name in names:
        if name != ALL:
            METRICS.get(name)
    chosen = METRICS.names() if ALL in names else list(dict.fromkeys(names))
    for name in chosen:
        if METRICS.get(name).name != name:
            raise MicroscopeError(
                f"metric {name!r} calls itself {METRICS.get(name).name!r}; entry point and Metric.name must agree"
            )
    return chosen


def find_metric(name: str) -> Metric | None:
    """The record of a metric; None where no installed package registers it."""
    return METRICS.get(name) if name in METRICS else None


def in_order(metrics: Iterable[str]) -> list[str]:
    """Names of metrics as tables and citations list them: the default ones first, then by name."""
    there = set(metrics)
    return [name for name in DEFAULT_METRICS if name in there] + sorted(there.difference(DEFAULT_METRICS))


def headlines(metrics: Iterable[str] = DEFAULT_METRICS) -> tuple[Headline, ...]:
    """What stands for some metrics, registered here or not, in tables and charts, in the order of :func:`in_order`."""
    return tuple(one for name in in_order(metrics) if (metric := find_metric(name)) for one in metric.headlines)


def estimates(
    x: core.Array,
    y: core.Array | None = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    groups: core.Groups | None = None,
    n_folds: int = 10,
) -> dict[tuple[str, str, str | None], Estimate]:
    """Every estimate of some metrics; what they have in common, above all the moments, is computed once.

    ``x`` and ``y`` are (N, d), ``y`` None for metrics that look at one boundary; ``metrics`` names those that look at
    one cloud (``microscope-bench ls metrics``). ``n_folds`` folds of whole examples serve standard errors and held-out
    values. With 1 there are none, and linearity of both streams takes one solve instead of 11; below 1 is a ValueError.

    Returns:
        (metric, estimator, stream) → the estimate, whose value is None where there is none, with the reason; stream is
        None for a metric that has no streams.

    Raises:
        MetricError: a metric that needs ``y``, or a cloud of text beside it.

    >>> import torch
    >>> x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> found = estimates(x, 2 * x.roll(1, dims=1), ["linearity", "anisotropy"], n_folds=1)
    >>> round(found["linearity", "in_sample", "update"].value, 6)
    1.0
    >>> round(found["anisotropy", "top_share", None].value, 2)
    0.16
    """
    chosen = [METRICS.get(name) for name in metric_names(metrics)]
    states, following = core.arrays.matrix("x", x), None if y is None else core.arrays.matrix("y", y)
    cloud = core.arrays.cloud_of(states, following, groups, n_folds)
    cloud.n_neighbours = max(2, *(metric.neighbours for metric in chosen))
    found: dict[tuple[str, str, str | None], Estimate] = {}
    for metric in chosen:
        of_metric = {(metric.name, estimator, stream): one for estimator, stream, one in metric.scores(cloud)}
        if not of_metric:
            needs = "a cloud of text beside x: call its own function" if y is not None else "y, the next boundary"
            raise MetricError(f"{metric.name} cannot be computed of these arrays alone; it needs {needs}")
        found |= of_metric
    return found
