"""Effective rank: the number of directions that carry the variance, by the entropy of their shares."""

from __future__ import annotations

import math
from collections.abc import Iterator

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import WIDTH, EstimatorScore, Metric


def effective_rank(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """Number of directions that carry the variance, by the entropy of their shares.

    exp(−Σ pᵢ log pᵢ), p = λ / Σ λ (Roy & Vetterli 2007, *The effective rank*, EUSIPCO: the
    effective rank of the covariance matrix). Between 1 and d, never below the participation ratio, and more sensitive
    than that to many small directions. Fewer tokens read lower.

    Args:
        x: (N, d) states, at least 2 that differ.
        groups: (N,) the example each token belongs to.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(effective_rank(cross).value, 6)
    1.384145
    """
    estimate = core.covariance.of_spectrum(core.arrays.cloud_from(x, groups), "effective rank", entropy_rank)
    return core.arrays.required("effective rank", estimate, "Give at least 2 tokens that differ")


def entropy_rank(spectrum: core.Spectrum) -> float:
    """exp(−Σ p log p), p = λ / Σ λ."""
    shares = spectrum.values / spectrum.values.sum()
    return math.exp(-float(shares.xlogy(shares).sum()))


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    """The one estimator."""
    yield "covariance", None, core.covariance.of_spectrum(cloud, "effective rank", entropy_rank)


EFFECTIVE_RANK = Metric(
    name="effective_rank",
    version=1,
    title="effective rank",
    explanation="number of directions that carry the variance: exponential of the entropy of the variance shares",
    estimators=("covariance",),
    scores=scores,
    unit="dimensions",
    low=1,
    high=WIDTH,
)
