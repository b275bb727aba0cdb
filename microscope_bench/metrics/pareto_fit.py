"""How well the neighbour ratios that TwoNN rests on follow the Pareto law it takes for granted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.distances import NeighbourDistances, log_ratios, scores_of_each
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import EstimatorScore

ESTIMATORS = ("ks_distance",)

REJECTED = "pareto_rejected"
"""Flag of a distance that fewer than one in twenty samples of the law itself exceed."""

CRITICAL = 1.09
"""Of (D − 0.2/n)(√n + 0.26 + 0.5/√n), a form whose quantiles hardly depend on n (Stephens 1974, doi 10.2307/2286009).

In simulations, 30,000 to 400,000 samples of n exponentials for each of seven n from 5 to 4,000, its 95 % quantile was
1.087 to 1.094 (Stephens: 1.094), and 4.9 to 5.2 % of the samples exceeded 1.09.
"""


def ks_distance(distances: Tensor) -> float | None:
    """Largest gap between the distribution of log μ and the exponential law of the same mean.

    Args:
        distances: float64 (n, k), k ≥ 2, ascending. Tokens with r₁ = 0 are left out.

    Returns:
        Between 0 and 1; None where fewer than two μ, or no μ above 1, are left.
    """
    log_mu = log_ratios(distances[:, 0], distances[:, 1]).sort().values
    n, total = log_mu.numel(), float(log_mu.sum())
    if n < 2 or total <= 0:
        return None
    law = -torch.expm1(-n / total * log_mu)
    steps = torch.arange(n + 1, dtype=torch.float64, device=log_mu.device) / n
    return max(float((steps[1:] - law).max()), float((law - steps[:-1]).max()))


def is_rejected(distance: float, n: int) -> bool:
    """Whether n independent exponentials would lie this far off in fewer than 5 % of all cases, their mean fitted."""
    return (distance - 0.2 / n) * (math.sqrt(n) + 0.26 + 0.5 / math.sqrt(n)) > CRITICAL


def estimate_fit(tokens: NeighbourDistances) -> Estimate:
    """The distance, flagged where it rejects the law."""
    estimate = tokens.estimate(ks_distance)
    if estimate.value is None or not is_rejected(estimate.value, int((tokens.distances[:, 0] > 0).sum())):
        return estimate
    return replace(estimate, flags=(*estimate.flags, REJECTED))


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """The one estimator, on the matched rows of the cloud."""
    tokens = NeighbourDistances.of(cloud)
    return scores_of_each(cloud, ESTIMATORS, lambda _: estimate_fit(tokens))
