"""Intrinsic dimension as a function of scale (GRIDE): the ratio of a token's 2k-th to its k-th neighbour distance.

The larger k, the larger the neighbourhood that the estimate looks at. Noise shows as a high dimension at small k that
falls as k grows; curvature and boundaries show at large k (Denti, Doimo, Laio & Mira 2022, doi
10.1038/s41598-022-20991-1).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.distances import NeighbourDistances, log_ratios, scores_of_each
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import EstimatorScore

SCALES = {f"gride_{k}": k for k in (1, 2, 4, 8, 16, 32, 64)}
"""Estimator → k."""

TOLERANCE = 1e-12
"""Relative size of the last step towards the root."""


def gride_mle(distances: Tensor, k: int) -> float | None:
    """The d that maximises the likelihood of the observed μ = r₂ₖ/rₖ; N / Σ log μ for k = 1.

    Where the density is uniform out to the 2k-th neighbour, the density of μ is
    d (μ^d − 1)^(k−1) / (B(k, k) μ^(d(2k−1)+1)). With t = d log μ the derivative of the log-likelihood, times d, is
    N + (k − 1) Σ t/(1 − e^(−t)) − (2k − 1) Σ t. It falls in d, with a slope between −(3k − 1)/2 and −k times Σ log μ,
    from kN at d = 0; so it has one root, and those two slopes bracket it.

    Args:
        distances: float64 (n, m), ascending, m ≥ 2k. Tokens with rₖ = 0 are left out.
        k: 1 or more.

    Returns:
        The estimate, or None where fewer than two μ, or no μ above 1, are left.
    """
    log_mu = log_ratios(distances[:, k - 1], distances[:, 2 * k - 1])
    n, total = log_mu.numel(), float(log_mu.sum())
    if n < 2 or total <= 0:
        return None
    low, high = 2 * k * n / ((3 * k - 1) * total), n / total
    d = low
    while True:
        value, slope = derivative(d, log_mu, k)
        low, high = (d, high) if value > 0 else (low, d)
        step = d - value / slope  # Newton's, unless it leaves the bracket
        step = step if low < step < high else (low + high) / 2
        if abs(step - d) <= TOLERANCE * d:
            return step
        d = step


def derivative(d: float, log_mu: Tensor, k: int) -> tuple[float, float]:
    """The derivative of the log-likelihood at d, times d; and the slope of that product."""
    t = d * log_mu
    small = t < 1e-5  # series, where the quotients cancel
    safe = torch.where(small, 1.0, t)
    phi = safe / -torch.expm1(-safe)
    phi_slope = phi / safe * (1 - phi * torch.exp(-safe))
    phi, phi_slope = torch.where(small, 1 + t / 2, phi), torch.where(small, 0.5 + t / 6, phi_slope)
    value = t.numel() + (k - 1) * float(phi.sum()) - (2 * k - 1) * float(t.sum())
    return value, (k - 1) * float((phi_slope * log_mu).sum()) - (2 * k - 1) * float(log_mu.sum())


def estimate_at(tokens: NeighbourDistances, k: int) -> Estimate:
    """The estimate at one scale, or the reason why the rows have none."""
    if tokens.problem is None and tokens.distances.shape[1] < 2 * k:
        held = tokens.distances.shape[1]
        return tokens.null(f"GRIDE at k = {k} needs {2 * k} neighbours of each token, got {held} of {tokens.n} tokens")
    return tokens.estimate(partial(gride_mle, k=k))


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """One estimator per scale, on the matched rows of the cloud."""
    tokens = NeighbourDistances.of(cloud)
    return scores_of_each(cloud, SCALES, lambda name: estimate_at(tokens, SCALES[name]))
