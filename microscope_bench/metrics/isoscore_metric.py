"""IsoScore: how evenly the variance spreads over all directions."""

from __future__ import annotations

from collections.abc import Iterator

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.participation_ratio_metric import participation
from microscope_bench.metrics.record import EstimatorScore, Metric


def isoscore(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """How evenly the variance spreads over all d directions.

    IsoScore (Rudman et al. 2022, arXiv 2108.07344): with λ̂ = √d λ/‖λ‖ and δ = ‖λ̂ − 1‖ / √(2(d − √d)), it is
    ((d − δ²(d − √d))² − d) / (d(d − 1)). Since δ²(d − √d) = d − √d Σλ/‖λ‖, that comes to (participation ratio − 1) /
    (d − 1), so it says the same as the participation ratio on a scale from 0 (a line) to 1 (the same variance in all
    directions). Fewer tokens read lower.

    Args:
        x: (N, d) states, at least 2 that differ, of at least 2 dimensions.
        groups: (N,) the example each token belongs to.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(isoscore(cross).value, 6)
    0.219512
    """
    estimate = core.covariance.of_spectrum(core.arrays.cloud_from(x, groups), "IsoScore", uniformity)
    return core.arrays.required("IsoScore", estimate, "Give at least 2 tokens that differ, of at least 2 dimensions")


def uniformity(spectrum: core.Spectrum) -> float:
    """(participation ratio − 1) / (d − 1)."""
    d = spectrum.values.numel()
    if d < 2:
        raise NoValue("IsoScore needs at least 2 dimensions, got 1")
    return (participation(spectrum) - 1) / (d - 1)


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    """The one estimator."""
    yield "covariance", None, core.covariance.of_spectrum(cloud, "IsoScore", uniformity)


ISOSCORE = Metric(
    name="isoscore",
    version=1,
    title="IsoScore",
    explanation="how evenly the variance spreads over all d directions: 0 a line, 1 the same in all of them",
    estimators=("covariance",),
    scores=scores,
    unit="share",
    low=0,
    high=1,
)
