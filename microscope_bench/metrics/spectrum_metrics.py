"""How many directions carry the variance, by the eigenvalues of the covariance: three ways to count them.

Fewer tokens read lower by each of them. Each needs at least 2 tokens that differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.record import WIDTH, EstimatorScore, Metric


def participation_ratio(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """Number of directions that carry the variance, each counted by its weight.

    (Σ λᵢ)² / Σ λᵢ² over the eigenvalues of the covariance (Gao et al. 2017, doi 10.1101/214262); between 1 (a line) and
    d (the same variance in all directions). Few large directions decide it: it is nearer to 1/anisotropy than to the
    rank. Fewer tokens read lower: an isotropic Gaussian of N tokens scores about d / (1 + d/N).

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(participation_ratio(cross).value, 6)
    1.219512
    """
    estimate = core.covariance.of_spectrum(core.arrays.cloud_from(x, groups), "participation ratio", participation)
    return core.arrays.required("participation ratio", estimate, "Give at least 2 tokens that differ")


def effective_rank(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """Number of directions that carry the variance, by the entropy of their shares.

    exp(−Σ pᵢ log pᵢ), p = λ / Σ λ (Roy & Vetterli 2007, *The effective rank*, EUSIPCO: the
    effective rank of the covariance matrix). Between 1 and d, never below the participation ratio, and more sensitive
    than that to many small directions. Fewer tokens read lower.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(effective_rank(cross).value, 6)
    1.384145
    """
    estimate = core.covariance.of_spectrum(core.arrays.cloud_from(x, groups), "effective rank", entropy_rank)
    return core.arrays.required("effective rank", estimate, "Give at least 2 tokens that differ")


def isoscore(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """How evenly the variance spreads over all d directions, d at least 2.

    IsoScore (Rudman et al. 2022, arXiv 2108.07344): with λ̂ = √d λ/‖λ‖ and δ = ‖λ̂ − 1‖ / √(2(d − √d)), it is
    ((d − δ²(d − √d))² − d) / (d(d − 1)). Since δ²(d − √d) = d − √d Σλ/‖λ‖, that comes to (participation ratio − 1) /
    (d − 1), so it says the same as the participation ratio on a scale from 0 (a line) to 1 (the same variance in all
    directions). Fewer tokens read lower.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(isoscore(cross).value, 6)
    0.219512
    """
    estimate = core.covariance.of_spectrum(core.arrays.cloud_from(x, groups), "IsoScore", uniformity)
    return core.arrays.required("IsoScore", estimate, "Give at least 2 tokens that differ, of at least 2 dimensions")


def participation(spectrum: core.Spectrum) -> float:
    """(Σ λ)² / Σ λ²."""
    shares = spectrum.values / spectrum.values.sum()
    return 1.0 / float(shares.square().sum())


def entropy_rank(spectrum: core.Spectrum) -> float:
    """exp(−Σ p log p), p = λ / Σ λ."""
    shares = spectrum.values / spectrum.values.sum()
    return math.exp(-float(shares.xlogy(shares).sum()))


def uniformity(spectrum: core.Spectrum) -> float:
    """(participation ratio − 1) / (d − 1)."""
    d = spectrum.values.numel()
    if d < 2:
        raise NoValue("IsoScore needs at least 2 dimensions, got 1")
    return (participation(spectrum) - 1) / (d - 1)


def scores(name: str, statistic: Callable[[core.Spectrum], float], cloud: core.Cloud) -> Iterator[EstimatorScore]:
    """The one estimator of each."""
    yield "covariance", None, core.covariance.of_spectrum(cloud, name, statistic)


PARTICIPATION_RATIO = Metric(
    name="participation_ratio",
    version=1,
    title="participation ratio",
    explanation="number of directions that carry the variance: 1 / sum of the squared variance shares",
    estimators=("covariance",),
    scores=partial(scores, "participation ratio", participation),
    unit="dimensions",
    low=1,
    high=WIDTH,
)

EFFECTIVE_RANK = Metric(
    name="effective_rank",
    version=1,
    title="effective rank",
    explanation="number of directions that carry the variance: exponential of the entropy of the variance shares",
    estimators=("covariance",),
    scores=partial(scores, "effective rank", entropy_rank),
    unit="dimensions",
    low=1,
    high=WIDTH,
)

ISOSCORE = Metric(
    name="isoscore",
    version=1,
    title="IsoScore",
    explanation="how evenly the variance spreads over all d directions: 0 a line, 1 the same in all of them",
    estimators=("covariance",),
    scores=partial(scores, "IsoScore", uniformity),
    unit="share",
    low=0,
    high=1,
)
