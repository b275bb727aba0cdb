"""The built-in metrics, described. Describing them imports no torch; computing them does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from microscope_bench.metrics.registry import EstimatorScore, Metric

if TYPE_CHECKING:
    from microscope_bench.metrics.cloud import Cloud


def _linearity(cloud: Cloud) -> Iterable[EstimatorScore]:
    from microscope_bench.metrics.linear_fit import scores

    return scores(cloud)


def _anisotropy(cloud: Cloud) -> Iterable[EstimatorScore]:
    from microscope_bench.metrics.spectrum import scores

    return scores(cloud)


def _intrinsic_dimension(cloud: Cloud) -> Iterable[EstimatorScore]:
    from microscope_bench.metrics.two_nn import scores

    return scores(cloud)


LINEARITY = Metric(
    name="linearity",
    version=1,
    description="share of the variance at the next boundary (or of the update) that one linear map explains",
    headline=("held_out", "hidden"),
    estimators=("in_sample", "adjusted", "held_out", "identity"),
    streams=("hidden", "update"),
    scores=_linearity,
)

ANISOTROPY = Metric(
    name="anisotropy",
    version=1,
    description="share of the variance along the single widest direction",
    headline=("top_share", None),
    estimators=("top_share",),
    streams=(),
    scores=_anisotropy,
)

INTRINSIC_DIMENSION = Metric(
    name="intrinsic_dimension",
    version=1,
    description="number of directions in which the cloud extends locally (TwoNN); high dimensions are underestimated",
    headline=("twonn_discard10", None),
    estimators=("twonn_mle", "twonn_regression20", "twonn_discard10"),
    streams=(),
    scores=_intrinsic_dimension,
)
