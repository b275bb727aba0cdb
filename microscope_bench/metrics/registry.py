"""The table of all metrics. Imports no torch until one is computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from microscope_bench.errors import MicroscopeError
from microscope_bench.metrics.record import Headline, Metric
from microscope_bench.system.lazy_registry import Registry

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "linearity": "microscope_bench.metrics.catalogue:LINEARITY",
        "anisotropy": "microscope_bench.metrics.catalogue:ANISOTROPY",
        "intrinsic_dimension": "microscope_bench.metrics.catalogue:INTRINSIC_DIMENSION",
        "intrinsic_dimension_by_scale": "microscope_bench.metrics.catalogue:INTRINSIC_DIMENSION_BY_SCALE",
        "intrinsic_dimension_fit": "microscope_bench.metrics.catalogue:INTRINSIC_DIMENSION_FIT",
        "intrinsic_dimension_by_n": "microscope_bench.metrics.catalogue:INTRINSIC_DIMENSION_BY_N",
        "intrinsic_dimension_across_examples": "microscope_bench.metrics.catalogue:INTRINSIC_DIMENSION_ACROSS_EXAMPLES",
        "participation_ratio": "microscope_bench.metrics.catalogue:PARTICIPATION_RATIO",
        "effective_rank": "microscope_bench.metrics.catalogue:EFFECTIVE_RANK",
        "isoscore": "microscope_bench.metrics.catalogue:ISOSCORE",
        "cka": "microscope_bench.metrics.catalogue:CKA",
        "modality_gap": "microscope_bench.metrics.catalogue:MODALITY_GAP",
        "cosine_alignment": "microscope_bench.metrics.catalogue:COSINE_ALIGNMENT",
        "subspace_overlap": "microscope_bench.metrics.catalogue:SUBSPACE_OVERLAP",
        "mir": "microscope_bench.metrics.catalogue:MIR",
    },
    group="microscope_bench.metrics",
    hint="List them with: microscope-bench ls metrics",
)
"""Every metric; another package adds one by an entry point of the group ``microscope_bench.metrics``."""

DEFAULT_METRICS = ("linearity", "intrinsic_dimension", "anisotropy")
ALL = "all"


def metric_names(wanted: str | Sequence[str]) -> list[str]:
    """The metrics that were asked for, each once; ``all`` stands for every registered one.

    Args:
        wanted: names, or one string of them with commas between.

    Raises:
        MicroscopeError: none is named.
        UnknownNameError: one that nobody registered, with the nearest names.

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
    """The record of a metric that a result names; None where no installed package registers it."""
    return METRICS.get(name) if name in METRICS else None


def in_order(metrics: Iterable[str]) -> list[str]:
    """Names of metrics as tables and citations list them: the default ones first, then by name."""
    there = set(metrics)
    return [name for name in DEFAULT_METRICS if name in there] + sorted(there.difference(DEFAULT_METRICS))


def headlines(metrics: Iterable[str] = DEFAULT_METRICS) -> tuple[Headline, ...]:
    """What stands for some metrics in tables and charts, in the order of :func:`in_order`.

    Args:
        metrics: names, those of metrics that are not registered here among them; such have no headlines.
    """
    return tuple(one for name in in_order(metrics) if (metric := find_metric(name)) for one in metric.headlines)
