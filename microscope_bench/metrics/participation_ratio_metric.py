"""Participation ratio: the number of directions that carry the variance."""

from __future__ import annotations

from collections.abc import Iterator

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import WIDTH, EstimatorScore, Metric


def participation_ratio(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """Number of directions that carry the variance, each counted by its weight.

    (Σ λᵢ)² / Σ λᵢ² over the eigenvalues of the covariance (Gao et al. 2017, doi 10.1101/214262); between 1 (a line) and
    d (the same variance in all directions). Few large directions decide it: it is nearer to 1/anisotropy than to the
    rank. Fewer tokens read lower: an isotropic Gaussian of N tokens scores about d / (1 + d/N).

    Args:
        x: (N, d) states, at least 2 that differ.
        groups: (N,) the example each token belongs to.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(participation_ratio(cross).value, 6)
    1.219512
    """
    estimate = core.covariance.of_spectrum(core.arrays.cloud_from(x, groups), "participation ratio", participation)
    return core.arrays.required("participation ratio", estimate, "Give at least 2 tokens that differ")


def participation(spectrum: core.Spectrum) -> float:
    """(Σ λ)² / Σ λ²."""
    shares = spectrum.values / spectrum.values.sum()
    return 1.0 / float(shares.square().sum())


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    """The one estimator."""
    yield "covariance", None, core.covariance.of_spectrum(cloud, "participation ratio", participation)


PARTICIPATION_RATIO = Metric(
    name="participation_ratio",
    version=1,
    title="participation ratio",
    explanation="number of directions that carry the variance: 1 / sum of the squared variance shares",
    estimators=("covariance",),
    scores=scores,
    unit="dimensions",
    low=1,
    high=WIDTH,
)
