"""What a metric is to the measuring stage, and the table of all metrics. Imports no torch until one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microscope_bench.errors import MicroscopeError
from microscope_bench.system.lazy_registry import Registry

if TYPE_CHECKING:
    from microscope_bench.metrics.core.cloud import Cloud
    from microscope_bench.metrics.core.estimate import Estimate

EstimatorScore = tuple[str, str | None, "Estimate"]
"""Estimator, stream (None where a metric has no streams), and what it gave."""


@dataclass(frozen=True)
class Metric:
    """A pure function of a token cloud.

    Attributes:
        name: as results and ``--metrics`` write it.
        version: raised by every change that moves a number.
        description: one line for ``ls metrics``.
        headline: estimator and stream that tables show.
        estimators: all of them, in the order of the scores.
        streams: all of them; empty where the metric has none.
        scores: every estimator on every stream of one cloud. It draws on what the cloud keeps
            (``moments``, ``matched``, ``neighbours``, ...), may look at the clouds it stands beside (``next``,
            ``text``), and yields nothing where it does not apply.
        neighbours: how many nearest neighbours ``Cloud.neighbours`` is to hold; 0 for a metric that looks at none.
    """

    name: str
    version: int
    description: str
    headline: tuple[str, str | None]
    estimators: tuple[str, ...]
    streams: tuple[str, ...]
    scores: Callable[[Cloud], Iterable[EstimatorScore]]
    neighbours: int = 0


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
