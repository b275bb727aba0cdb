"""Intrinsic dimension as a function of scale (GRIDE): the ratio of a token's 2k-th to its k-th neighbour distance."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from microscope_bench.errors import MetricError
from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import EstimatorScore, Metric, ToleranceByDtype

SCALES = {f"gride_{k}": k for k in (1, 2, 4, 8, 16, 32, 64)}
"""Estimator → k."""

GROUPS = 10
"""Groups needed for each unit of k."""


def gride(x: core.Array, k: int = 1, groups: core.Groups | None = None) -> Estimate:
    """Intrinsic dimension at a scale: by the ratio of each token's 2k-th to its k-th neighbour distance (GRIDE).

    The d that maximises the likelihood of μ = r₂ₖ/rₖ, whose density is d (μ^d − 1)^(k−1) / (B(k, k) μ^(d(2k−1)+1))
    where the tokens are spread evenly out to the 2k-th neighbour (Denti et al. 2022, doi 10.1038/s41598-022-20991-1).
    For k = 1 it is N / Σ log μ, ``twonn_mle`` before its bias is removed. A dimension that holds over a range of k is
    one of the cloud; noise raises the value at small k; curvature and boundaries show at large k. High dimensions are
    underestimated, the more so the larger k.

    Each neighbour is the nearest token of another group than the token's own and the other neighbours', as in
    :func:`intrinsic_dimension`. The law does not know that a group counts once, whatever its tokens: groups of several
    must be at least 10k, else values read low, with 3k of them by 30 % (``groups`` None: each token its own). The
    standard error is the same jackknife. ``x``, (N, d); copies are dropped first (flag ``duplicates=share``). Results
    have k = 1, 2, ..., 64, of draws of the protocol's ``id_tokens``.

    >>> import torch
    >>> noisy = torch.zeros(2000, 64)
    >>> noisy[:, :2] = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> noisy += 0.002 * torch.randn(2000, 64, generator=torch.Generator().manual_seed(1))
    >>> [round(gride(noisy, k).value, 1) for k in (1, 8, 64)]
    [8.4, 2.5, 1.9]
    """
    k = core.arrays.whole("k", k)
    if k < 1:
        raise MetricError(f"k = {k} is no neighbour. Ask for k = 1 or more")
    cloud = core.arrays.finite_cloud("GRIDE", x, groups)
    cloud.n_neighbours = 2 * k
    estimate = estimate_at(core.distances.of_draws(cloud), k)
    return core.arrays.required("GRIDE", estimate, "Give tokens of more groups, or a smaller k")


def gride_mle(distances: core.Tensor, k: int) -> float | None:
    """The d that maximises the likelihood of the observed μ = r₂ₖ/rₖ; None where the μ do not determine it.

    It is the one root of :func:`derivative`, which falls in d, from kN at d = 0, with a slope between −(3k − 1)/2 and
    −k times Σ log μ: those two slopes bracket it. ``distances`` are float64 (n, m), ascending, m ≥ 2k.
    """
    from scipy.optimize import brentq

    if bool(distances[:, 2 * k - 1].isinf().any()):
        return None
    log_mu = core.distances.log_ratios(distances[:, k - 1], distances[:, 2 * k - 1])
    n, total = log_mu.numel(), float(log_mu.sum())
    if n < 2 or total <= 0:
        return None
    if k == 1:
        return n / total
    low, high = 2 * k * n / ((3 * k - 1) * total), n / total
    margin = 1e-9  # of what rounding may do to the ends
    return float(brentq(derivative, low * (1 - margin), high * (1 + margin), (log_mu, k), xtol=1e-15 * low, rtol=1e-14))


def derivative(d: float, log_mu: core.Tensor, k: int) -> float:
    """The derivative of the log-likelihood at d, times d: N + (k − 1) Σ t/(1 − e^(−t)) − (2k − 1) Σ t, t = d log μ."""
    t = d * log_mu
    phi = (t / -(-t).expm1()).where(t > 1e-5, 1 + t / 2)  # a series, where the quotient cancels
    return t.numel() + (k - 1) * float(phi.sum()) - (2 * k - 1) * float(t.sum())


def estimate_at(tokens: core.distances.NeighbourDistances, k: int) -> Estimate:
    if tokens.problem is None:
        held = int(tokens.distances[0].isfinite().sum(1).min())
        alone = tokens.n_groups == tokens.n // tokens.n_draws  # each token its own group: nothing counts for others
        needed = 2 * k + 1 if alone else GROUPS * k
        if held < 2 * k or tokens.n_groups < needed:
            return tokens.null(f"GRIDE at k = {k} needs tokens of {needed} groups, got {tokens.n_groups}")
    return tokens.estimate(partial(gride_mle, k=k))


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    of = core.distances.of_draws
    return core.distances.scores_of_each(cloud, SCALES, of, lambda tokens, name: estimate_at(tokens, SCALES[name]))


INTRINSIC_DIMENSION_BY_SCALE = Metric(
    name="intrinsic_dimension_by_scale",
    version=1,
    title="intrinsic dimension by scale",
    explanation="intrinsic dimension from the k-th and 2k-th neighbour (GRIDE): the larger k, the coarser the view",
    estimators=tuple(SCALES),
    scores=scores,
    unit="dimensions",
    low=0,
    tolerance=ToleranceByDtype("0.1%", "12%", "12%"),
    estimator_tolerances={"gride_1": ToleranceByDtype("0.1%", "30%", "30%")},
    drops_copies=True,
    neighbours=128,
)
