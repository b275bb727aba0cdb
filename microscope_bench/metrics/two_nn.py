"""Intrinsic dimension from the ratio of each token's two nearest-neighbour distances (TwoNN).

μ = r₂/r₁ follows a Pareto law of exponent d where the density is locally uniform (Facco, d'Errico, Rodriguez & Laio
2017). The estimators differ in how they read d off the observed μ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.distances import NeighbourDistances, log_ratios, scores_of_each
from microscope_bench.metrics.core.neighbours import nearest_neighbours, same_group
from microscope_bench.metrics.record import EstimatorScore

LINEAGE_EPS = 1e-8
"""llm-microscope leaves out a token with r₁ below this, in units of the mean norm, and a μ below 1 plus this."""


def twonn_mle(distances: Tensor) -> float | None:
    """(N − 1) / Σ log μ: the maximum-likelihood exponent N / Σ log μ, freed of its bias (Denti et al. 2022).

    Tokens with r₁ = 0 have no μ and are left out.

    Args:
        distances: float64 (n, k), k ≥ 2, ascending.

    Returns:
        The estimate, or None where fewer than two μ, or no μ above 1, are left.
    """
    log_mu = log_ratios(distances[:, 0], distances[:, 1])
    total = float(log_mu.sum())
    return (log_mu.numel() - 1) / total if log_mu.numel() > 1 and total > 0 else None


def twonn_regression20(distances: Tensor) -> float | None:
    """llm-microscope's: a line through the origin over the lowest fifth of μ.

    Slope of −log(1 − F) on log μ, F = i/n. Tokens with r₁ < 1e-8 or μ ≤ 1 + 1e-8 get no point but keep their ranks in
    F, which shifts F up: with many copies the estimate explodes. F is float32 there, and so it is here.

    Args:
        distances: float64 (n, k), k ≥ 2, ascending, in units of the mean norm of the centred tokens.

    Returns:
        The estimate, or None where fewer than two points are left for the line.
    """
    r1, r2 = distances[:, 0], distances[:, 1]
    mu = (r2 / r1)[r1 >= LINEAGE_EPS]
    mu = mu[mu > 1 + LINEAGE_EPS].sort().values
    removed = distances.shape[0] - mu.numel()
    used = min(mu.numel() // 5, mu.numel() - 1)
    if used < 2:
        return None
    ranks = torch.arange(1 + removed, 1 + removed + used, dtype=torch.float32, device=mu.device)
    return slope_through_origin(mu[:used].log(), -torch.log(1 - ranks / distances.shape[0]))


def twonn_discard10(distances: Tensor) -> float | None:
    """The libraries' default (scikit-dimension, DADApy): the same line over the lowest nine tenths of μ.

    Tokens with r₁ = 0 are left out; F = i/N of those that stay.

    Args:
        distances: float64 (n, k), k ≥ 2, ascending.

    Returns:
        The estimate, or None where fewer than two points, or no μ above 1, are left for the line.
    """
    log_mu = log_ratios(distances[:, 0], distances[:, 1]).sort().values
    n = log_mu.numel()
    used = int(n * (1 - 0.1))
    if used < 2:
        return None
    ranks = torch.arange(1, used + 1, dtype=torch.float64, device=log_mu.device)
    return slope_through_origin(log_mu[:used], -torch.log(1 - ranks / n))


ESTIMATORS: dict[str, Callable[[Tensor], float | None]] = {
    "twonn_mle": twonn_mle,
    "twonn_regression20": twonn_regression20,
    "twonn_discard10": twonn_discard10,
}


def slope_through_origin(x: Tensor, y: Tensor) -> float | None:
    """Least-squares slope of y = b x; None where every x is 0."""
    squares = float(x.square().sum())
    return float((x * y).sum()) / squares if squares > 0 else None


def across_examples(cloud: Cloud) -> NeighbourDistances:
    """The two nearest neighbours of each matched row among the rows of other examples.

    A row with copies in several examples belongs to none of them and may be anybody's neighbour.

    Args:
        cloud: without NaN and infinity. Rows whose two are not among the neighbours it keeps are searched for again.
    """
    sample = cloud.matched

    def search() -> Tensor:
        kept, rows = cloud.neighbours
        nearest = kept.masked_fill(same_group(sample.example[:, None], sample.example[rows]), torch.inf)
        nearest = nearest.sort(1).values[:, :2]
        short = torch.nonzero(nearest[:, 1].isinf()).flatten()
        nearest[short] = nearest_neighbours(sample.x, 2, short, exclude=sample.example)[0]
        return nearest

    return NeighbourDistances(sample, search, cloud.matched_n)


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """Every estimator, on the matched rows of the cloud."""
    tokens = NeighbourDistances.of(cloud)
    return scores_of_each(cloud, ESTIMATORS, lambda name: tokens.estimate(ESTIMATORS[name]))


def scores_across_examples(cloud: Cloud) -> Iterator[EstimatorScore]:
    """The same with neighbours of a token's own example left out."""
    tokens = across_examples(cloud)
    return scores_of_each(cloud, ESTIMATORS, lambda name: tokens.estimate(ESTIMATORS[name]))
