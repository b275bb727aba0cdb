"""How well the neighbour ratios that TwoNN rests on follow the Pareto law it takes for granted."""

from __future__ import annotations

from collections.abc import Iterator

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import EstimatorScore, Metric, ToleranceByDtype


def pareto_distance(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """How far the neighbour ratios are from the law that TwoNN takes for granted.

    The Kolmogorov-Smirnov distance sup |F_N − F| between the observed log μ, μ = r₂/r₁, all of them, and the
    exponential law F(u) = 1 − e^(−du) with d = N / Σ log μ. This is the maximum-likelihood fit, ``twonn_mle`` before
    its bias is removed, one part in N: under it the distribution of the distance does not depend on d and is known
    (Lilliefors 1969, doi 10.1080/01621459.1969.10500983). Between 0 and 1.

    Ratios that follow the law are about 0.73/√N off. Flag ``pareto_rejected``: independent ratios would be that far off
    in fewer than 5 % of all cases (Lilliefors' test, its critical value simulated: (D − 0.2/N)(√N + 0.26 + 0.5/√N) >
    1.09). The flag is liberal: even independent tokens share a distance where they are each other's neighbours. At
    N = 1024 it stood on 7 to 11 % of uniform and Gaussian clouds of 2 and 5 dimensions, 200 of each. In a result N
    is the size of one draw (1,024: D > 0.034) though the ratios are of all draws: what it rejects does not depend on
    how many tokens a model has, and from two draws on hardly a cloud that follows the law is flagged.

    Neighbours and standard error are those of :func:`intrinsic_dimension`. ``x``, (N, d), needs at least 3 distinct
    tokens; copies are dropped first (flag ``duplicates=share``).

    >>> import torch
    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> pareto_distance(square).flags, pareto_distance(square.round(decimals=2)).flags
    ((), ('duplicates=0.0450', 'pareto_rejected'))
    """
    what = "the distance from the Pareto law"
    cloud = core.arrays.finite_cloud(what, x, groups)
    return core.arrays.required(what, estimate_of(core.distances.of_draws(cloud)), "Give more distinct tokens")


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    return core.distances.scores_of_each(cloud, ["ks_distance"], core.distances.of_draws, estimate_of)


def estimate_of(tokens: core.distances.NeighbourDistances, _: str = "ks_distance") -> Estimate:
    return core.pareto_law.with_rejection(tokens.estimate(core.pareto_law.ks_distance), tokens)


INTRINSIC_DIMENSION_FIT = Metric(
    name="intrinsic_dimension_fit",
    version=1,
    title="distance from the Pareto law",
    explanation="distance of the neighbour ratios from the Pareto law that TwoNN assumes; 0 is a perfect fit",
    estimators=("ks_distance",),
    scores=scores,
    unit="Kolmogorov-Smirnov distance",
    low=0,
    high=1,
    tolerance=ToleranceByDtype("0.0001", "0.08", "0.08"),
    drops_copies=True,
    neighbours=2,
)
