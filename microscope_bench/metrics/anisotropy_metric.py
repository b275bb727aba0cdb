"""Anisotropy: the share of the variance along the single widest direction."""

from __future__ import annotations

from collections.abc import Iterator

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.record import EstimatorScore, Headline, Metric, ToleranceByDtype


def anisotropy(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """Share of the variance that lies along the single widest direction.

    σ₁² / Σᵢ σᵢ² over the singular values of the centred cloud (Razzhigaev et al. 2023, arXiv 2311.05928); between
    1/d (the same spread in all directions) and 1 (a line). An isotropic Gaussian of N tokens scores about
    (1 + √(d/N))²/d. A handful of massive activations can take it to 1. ``x`` needs at least 2 tokens that differ.

    >>> import numpy as np
    >>> anisotropy(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0], [3.0, 1.0]])).value
    0.9
    """
    estimate = estimate_anisotropy(core.arrays.cloud_from(x, groups))
    return core.arrays.required("anisotropy", estimate, "Give at least 2 tokens whose states differ")


def top_share(spectrum: core.Spectrum) -> float:
    """σ₁² / Σ σᵢ²."""
    return float(spectrum.values[0] / spectrum.values.sum())


def estimate_anisotropy(cloud: core.Cloud) -> Estimate:
    """Anisotropy of a cloud; of a wide one the largest eigenvalue alone is computed."""
    if cloud.dim <= core.axes.FULL_SPECTRUM_UP_TO:
        return core.covariance.of_spectrum(cloud, "anisotropy", top_share)
    folds = cloud.moments.x_only()

    def outcome(left_out: int | None) -> float:
        moments = folds.total() if left_out is None else folds.without(left_out)
        if not moments.has_variance:
            raise NoValue(core.covariance.NO_VARIANCE)
        return min(core.axes.top_axis(moments.c_xx)[0] / float(moments.c_xx.diagonal().sum()), 1.0)

    return core.covariance.of_covariance(cloud, "anisotropy", outcome)


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    """The one estimator."""
    yield "top_share", None, estimate_anisotropy(cloud)


ANISOTROPY = Metric(
    name="anisotropy",
    version=1,
    title="anisotropy",
    explanation="share of the variance along the single widest direction",
    estimators=("top_share",),
    scores=scores,
    headlines=(
        Headline(
            estimator="top_share",
            title="anisotropy",
            explanation="share of the variance along the single widest direction (1 = a line)",
            extreme="max",
            in_report="Share of the variance along the single widest direction (1 = a line).",
        ),
    ),
    unit="share of variance",
    low=0,
    high=1,
    tolerance=ToleranceByDtype("0.0001", "0.0002", "0.001"),
    cited_as="share of the variance along the first principal axis",
)
