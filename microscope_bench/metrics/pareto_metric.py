"""How well the neighbour ratios that TwoNN rests on follow the Pareto law it takes for granted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import EstimatorScore, Metric, ToleranceByDtype

REJECTED = "pareto_rejected"

CRITICAL = 1.09
"""Of (D − 0.2/n)(√n + 0.26 + 0.5/√n), a form whose quantiles hardly depend on n (Stephens 1974, doi 10.2307/2286009).

In simulations, 30,000 to 400,000 samples of n exponentials for each of seven n from 5 to 4,000, its 95 % quantile was
1.087 to 1.094 (Stephens: 1.094), and 4.9 to 5.2 % of the samples exceeded 1.09.
"""


def pareto_distance(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """How far the neighbour ratios are from the law that TwoNN takes for granted.

    The Kolmogorov-Smirnov distance sup |F_N − F| between the observed log μ, μ = r₂/r₁, all of them, and the
    exponential law F(u) = 1 − e^(−du) with d = N / Σ log μ. This is the maximum-likelihood fit, ``twonn_mle`` before
    its bias is removed, one part in N: under it the distribution of the distance does not depend on d and is known
    (Lilliefors 1969, doi 10.1080/01621459.1969.10500983). Between 0 and 1.

    Ratios that follow the law are about 0.73/√N off. Flag ``pareto_rejected``: independent ratios would be that far off
    in fewer than 5 % of all cases (Lilliefors' test, its critical value simulated: (D − 0.2/N)(√N + 0.26 + 0.5/√N) >
    1.09). The flag is liberal: even independent tokens share a distance where they are each other's neighbours, and
    tokens of one example are alike. At N = 1000 it stands on 6 % of uniform squares, on 8 % and 12 % of Gaussians of 5
    and 20 dimensions, and on 13 % of clouds of 50 clusters in 5 dimensions. Of many thousand tokens it rejects what is
    too small to matter: read the distance.

    The standard error is a jackknife over the log-ratios of each fold with every neighbour kept. ``x``, (N, d), needs
    at least 3 distinct tokens; copies are dropped first (flag ``duplicates=share``).

    >>> import torch
    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> pareto_distance(square).flags, pareto_distance(square.round(decimals=2)).flags
    ((), ('duplicates=0.0450', 'pareto_rejected'))
    """
    what = "the distance from the Pareto law"
    cloud = core.arrays.finite_cloud(what, x, groups)
    return core.arrays.required(
        what, estimate_fit(core.distances.NeighbourDistances.of(cloud)), "Give more distinct tokens"
    )


def ks_distance(distances: core.Tensor) -> float | None:
    """Largest gap between the distribution of log μ and the exponential law of the same mean; None of too few μ.

    ``distances`` are float64 (n, k), k ≥ 2, ascending. Tokens with r₁ = 0 are left out.
    """
    import torch

    log_mu = core.distances.log_ratios(distances[:, 0], distances[:, 1]).sort().values
    n, total = log_mu.numel(), float(log_mu.sum())
    if n < 2 or total <= 0:
        return None
    law = -torch.expm1(-n / total * log_mu)
    steps = torch.arange(n + 1, dtype=torch.float64, device=log_mu.device) / n
    return max(float((steps[1:] - law).max()), float((law - steps[:-1]).max()))


def is_rejected(distance: float, n: int) -> bool:
    """Whether n independent exponentials would lie this far off in fewer than 5 % of all cases, their mean fitted."""
    return (distance - 0.2 / n) * (math.sqrt(n) + 0.26 + 0.5 / math.sqrt(n)) > CRITICAL


def estimate_fit(tokens: core.distances.NeighbourDistances) -> Estimate:
    estimate = tokens.estimate(ks_distance)
    if estimate.value is None or not is_rejected(estimate.value, int((tokens.distances[:, 0] > 0).sum())):
        return estimate
    return replace(estimate, flags=(*estimate.flags, REJECTED))


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    tokens = core.distances.NeighbourDistances.of(cloud)
    return core.distances.scores_of_each(cloud, ["ks_distance"], lambda _: estimate_fit(tokens))


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
