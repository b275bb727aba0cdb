"""The law that TwoNN takes for granted of the neighbour ratios, and whether observed ones contradict it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from microscope_bench.metrics.core.distances import NeighbourDistances, log_ratios
from microscope_bench.metrics.core.estimate import Estimate

REJECTED = "pareto_rejected"

CRITICAL = 1.09
"""Of (D − 0.2/n)(√n + 0.26 + 0.5/√n), a form whose quantiles hardly depend on n (Stephens 1974, doi 10.2307/2286009).

In simulations, 30,000 to 400,000 samples of n exponentials for each of seven n from 5 to 4,000, its 95 % quantile was
1.087 to 1.094 (Stephens: 1.094), and 4.9 to 5.2 % of the samples exceeded 1.09.
"""


def ks_distance(distances: Tensor) -> float | None:
    """Largest gap between the distribution of log μ and the exponential law of the same mean; None of too few μ.

    ``distances`` are float64 (n, k), k ≥ 2, ascending. Tokens with r₁ = 0 are left out.
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


def with_rejection(estimate: Estimate, tokens: NeighbourDistances) -> Estimate:
    """The estimate with flag ``pareto_rejected`` where the ratios of all draws are further from the law than those of a
    single draw are in 5 % of all cases.
    """
    distance = None if estimate.value is None else ks_distance(tokens.distances[0])
    if distance is None or not is_rejected(distance, tokens.n_apart):
        return estimate
    return replace(estimate, flags=(*estimate.flags, REJECTED))
