"""Intrinsic dimension from the ratio of each token's two nearest-neighbour distances (TwoNN).

Two metrics: with neighbours in two different other pictures, and with neighbours in the token's own example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from microscope_bench.errors import MetricError
from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import EstimatorScore, Headline, Metric, ToleranceByDtype

LINEAGE_EPS = 1e-8
"""llm-microscope leaves out a token with r₁ below this, in units of the mean norm, and a μ below 1 plus this."""

Neighbours = Literal["other groups", "own group", "any"]


def intrinsic_dimension(
    x: core.Array,
    estimator: str = "twonn_discard10",
    deduplicate: bool = True,
    groups: core.Groups | None = None,
    n: int | None = None,
    neighbours: Neighbours = "other groups",
) -> Estimate:
    """Number of directions in which the cloud extends around each token, by its two nearest neighbours (TwoNN).

    With μ = r₂/r₁, which follows 1 − μ^(−d) where density is uniform (Facco et al. 2017, 10.1038/s41598-017-11873-y):

    - ``twonn_mle``: (N − 1) / Σ log μ, the maximum-likelihood value freed of its bias.
    - ``twonn_regression20``: slope of −log(1 − F) on log μ through 0, lowest fifth of μ, as llm-microscope does.
    - ``twonn_discard10``: the same line over the lowest nine tenths, the default of scikit-dimension and DADApy.

    Dimensions above 10 or so read too low, the more so the fewer the tokens: a Gaussian of d = 100 reads as 50 at
    N = 4096. Compare values of one ``n``. Flag ``pareto_rejected``: the law does not hold (:func:`pareto_distance`).

    The standard error is a jackknife over folds of whole groups, of which each leaves with its ratios and, by half, as
    neighbours of the others. In simulations of 40 to 500 groups it is 1.0 to 1.2 times the spread between data sets.

    Args:
        x: (N, d) states. All pairs of rows of a draw are compared: N of some ten thousand in one draw takes a minute.
        estimator: one of the above.
        deduplicate: whether copies of a token are dropped first (flag ``duplicates=share``; ``n_tokens`` counts the
            others): equal rows, and rows of float32 values nearer to each other than 1e-5 of their distance from the
            mean; in a half type drop copies from other batches yourself. Flag ``near_copies=share``: some are left,
            since r₂/r₁ leaps. False keeps all; those at distance 0 have no μ (flag ``zero_distance=share``).
        groups: (N,) the picture of each token, or of a text its example; None makes each token its own group.
        n: distinct tokens of a draw. They are drawn at random, always the same, and neighbours of each other only; the
            ratios of up to 8 disjoint draws are taken together. None is one draw of all tokens. Not for "own group".
        neighbours: where r₁ and r₂ lead. "other groups": to the nearest tokens of two different groups other than the
            token's own, as in the headline of a result. "own group": to the nearest two tokens of its own group; groups
            of fewer than three distinct tokens are left out (flag ``left_out=share``). "any": to the nearest two.

    Raises:
        MetricError: fewer distinct tokens than 3 or than ``n``, or none with two neighbours at different distances.

    >>> import torch
    >>> plane = torch.zeros(2000, 64)
    >>> plane[:, :2] = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(intrinsic_dimension(plane).value, 1)
    2.0
    """
    core.arrays.known("intrinsic dimension estimator", estimator, ESTIMATORS)
    core.arrays.known("kind of neighbours", neighbours, ["other groups", "own group", "any"])
    if n is not None and (n := core.arrays.whole("n", n)) < 3:
        raise MetricError(f"n = {n} tokens have no intrinsic dimension. Ask for at least 3")
    if n is not None and neighbours == "own group":
        raise MetricError("n is the size of a draw, and neighbours of the own group are looked for among all tokens")
    cloud = core.arrays.finite_cloud("intrinsic dimension", x, groups)
    cloud.deduplicate, cloud.wanted_n, cloud.grouped = deduplicate, n, neighbours != "any"
    if n is not None and (there := len(cloud.distinct.x)) < n:
        raise MetricError(f"n = {n} tokens were asked for, but only {there} distinct ones are there. Ask for fewer")
    if neighbours == "own group":
        found, where = core.distances.within_examples(cloud).estimate(ESTIMATORS[estimator]), "larger"
    else:
        found, where = estimate_of(core.distances.of_draws(cloud), estimator), "more"
    return core.arrays.required("intrinsic dimension", found, f"Give more distinct tokens, or tokens of {where} groups")


def twonn_mle(distances: core.Tensor) -> float | None:
    """(N − 1) / Σ log μ: the maximum-likelihood exponent N / Σ log μ, freed of its bias (Denti et al. 2022).

    ``distances``, here and below, are float64 (n, k), k ≥ 2, ascending. Tokens with r₁ = 0 have no μ and are left out;
    None where too few μ are left.
    """
    log_mu = core.distances.log_ratios(distances[:, 0], distances[:, 1])
    total = float(log_mu.sum())
    return (log_mu.numel() - 1) / total if log_mu.numel() > 1 and total > 0 else None


def twonn_regression20(distances: core.Tensor) -> float | None:
    """llm-microscope's: a line through the origin over the lowest fifth of μ.

    Slope of −log(1 − F) on log μ, F = i/n. Tokens with r₁ < 1e-8 or μ ≤ 1 + 1e-8 get no point but keep their ranks in
    F, which shifts F up: with many copies the estimate explodes. F is float32 there, and so it is here.
    """
    r1, r2 = distances[:, 0], distances[:, 1]
    mu = (r2 / r1)[r1 >= LINEAGE_EPS]
    mu = mu[mu > 1 + LINEAGE_EPS].sort().values
    removed = distances.shape[0] - mu.numel()
    used = min(mu.numel() // 5, mu.numel() - 1)
    if used < 2:
        return None
    import torch

    ranks = torch.arange(1 + removed, 1 + removed + used, dtype=torch.float32, device=mu.device)
    return slope_through_origin(mu[:used].log(), -torch.log(1 - ranks / distances.shape[0]))


def twonn_discard10(distances: core.Tensor) -> float | None:
    """The libraries' default (scikit-dimension, DADApy): the same line over the lowest nine tenths of μ.

    Tokens with r₁ = 0 are left out; F = i/N of those that stay.
    """
    log_mu = core.distances.log_ratios(distances[:, 0], distances[:, 1]).sort().values
    n = log_mu.numel()
    used = int(n * (1 - 0.1))
    if used < 2:
        return None
    import torch

    ranks = torch.arange(1, used + 1, dtype=torch.float64, device=log_mu.device)
    return slope_through_origin(log_mu[:used], -torch.log(1 - ranks / n))


ESTIMATORS: dict[str, Callable[[core.Tensor], float | None]] = {
    "twonn_mle": twonn_mle,
    "twonn_regression20": twonn_regression20,
    "twonn_discard10": twonn_discard10,
}


def slope_through_origin(x: core.Tensor, y: core.Tensor) -> float | None:
    """Least-squares slope of y = b x; None where every x is 0."""
    squares = float(x.square().sum())
    return float((x * y).sum()) / squares if squares > 0 else None


def estimate_of(tokens: core.distances.NeighbourDistances, estimator: str) -> Estimate:
    return core.pareto_law.with_rejection(tokens.estimate(ESTIMATORS[estimator]), tokens)


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    return core.distances.scores_of_each(cloud, ESTIMATORS, core.distances.of_draws, estimate_of)


def scores_within_examples(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    of = core.distances.within_examples
    return core.distances.scores_of_each(cloud, ESTIMATORS, of, lambda found, name: found.estimate(ESTIMATORS[name]))


_TWONN_TOLERANCE = ToleranceByDtype("0.1%", "8%", "8%")
_DIMENSION_TOLERANCE = ToleranceByDtype("0.1%", "12%", "12%")

INTRINSIC_DIMENSION = Metric(
    name="intrinsic_dimension",
    version=1,
    title="intrinsic dimension",
    explanation="number of directions in which the cloud extends locally (TwoNN, neighbours in two different other "
    "pictures); high dimensions are underestimated",
    estimators=tuple(ESTIMATORS),
    scores=scores,
    headlines=(
        Headline(
            estimator="twonn_discard10",
            title="intrinsic dimension",
            explanation="how many directions the tokens locally extend in (TwoNN on the lowest nine tenths of the "
            "distance ratios), with neighbours in two different other pictures (texts: examples), on disjoint draws of "
            "as many distinct tokens (protocol field id_tokens) in every cloud of every model; high dimensions are "
            "underestimated, the more so the smaller the draws",
            extreme="max",
            in_report="How many directions the tokens locally extend in (TwoNN), with neighbours in two different "
            "other pictures. High dimensions are underestimated; the size of a draw is the same everywhere.",
        ),
    ),
    unit="dimensions",
    low=0,
    tolerance=_TWONN_TOLERANCE,
    estimator_tolerances={
        "twonn_mle": ToleranceByDtype("0.1%", "40%", "40%"),
        "twonn_regression20": _DIMENSION_TOLERANCE,
    },
    cited_as="TwoNN, estimator twonn_discard10, neighbours in two different other pictures",
    drops_copies=True,
    cautions={
        "pareto_rejected": "the neighbour distances of some layers contradict the law that intrinsic dimension is "
        "estimated by, so that its value depends on the estimator",
        "near_copies": "the nearest neighbour of some tokens is a copy of theirs but for rounding, which no dimension "
        "can be read from",
        "few_distinct": "boundary 0 has too few distinct tokens for an intrinsic dimension: it is left out of mean and "
        "extreme",
    },
    half_precision="rounding of a half type raises intrinsic dimension at the scale of the nearest neighbours",
    neighbours=2,
)

INTRINSIC_DIMENSION_WITHIN_EXAMPLES = Metric(
    name="intrinsic_dimension_within_examples",
    version=1,
    title="intrinsic dimension within examples",
    explanation="TwoNN with the neighbours of a token looked for among the tokens of its own example only",
    estimators=tuple(ESTIMATORS),
    scores=scores_within_examples,
    unit="dimensions",
    low=0,
    tolerance=_TWONN_TOLERANCE,
    estimator_tolerances={
        "twonn_mle": ToleranceByDtype("0.1%", "40%", "40%"),
        "twonn_regression20": _DIMENSION_TOLERANCE,
    },
    drops_copies=True,
)
