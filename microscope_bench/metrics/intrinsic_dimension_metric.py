"""Intrinsic dimension from the ratio of each token's two nearest-neighbour distances (TwoNN).

Three metrics: on the tokens of the run's number, with neighbours in other examples only, and by the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from microscope_bench.errors import MetricError
from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.record import EstimatorScore, Headline, Metric, ToleranceByDtype

LINEAGE_EPS = 1e-8
"""llm-microscope leaves out a token with r₁ below this, in units of the mean norm, and a μ below 1 plus this."""

SIZES = {f"n{n}": n for n in (256, 512, 1024, 2048, 4096, 8192)}


def intrinsic_dimension(
    x: core.Array,
    estimator: str = "twonn_discard10",
    deduplicate: bool = True,
    groups: core.Groups | None = None,
    n: int | None = None,
    across_examples: bool = False,
) -> Estimate:
    """Number of directions in which the cloud extends around each token, by its two nearest neighbours (TwoNN).

    With μ = r₂/r₁ the ratio of a token's second to its first neighbour distance, which follows 1 − μ^(−d) where the
    density is locally uniform (Facco et al. 2017, doi 10.1038/s41598-017-11873-y):

    - ``twonn_mle``: (N − 1) / Σ log μ, the maximum-likelihood value freed of its bias.
    - ``twonn_regression20``: slope of −log(1 − F) on log μ through the origin over the lowest fifth of μ, as
      llm-microscope computes it. About twice the standard error of the former.
    - ``twonn_discard10``: the same line over the lowest nine tenths, the default of scikit-dimension and DADApy.

    Neighbours are exact. Each of the estimators reads dimensions above 10 or so too low, the more so the fewer the
    tokens: a Gaussian of d = 100 reads as 50 at N = 4096. Compare values of the same N only: ``n`` sets it.

    The standard error is a jackknife over the log-ratios of each fold with every neighbour kept. It reads low by up to
    a quarter on independent tokens, since tokens that are each other's neighbours share a distance.

    Args:
        x: (N, d) states; all pairs of rows are compared, so N beyond some ten thousand takes long.
        estimator: one of the above.
        deduplicate: whether copies of a token are dropped first (flag ``duplicates=share``; ``n_tokens`` counts the
            others): equal rows, and float32 rows nearer to each other than 1e-5 of their norm. In a half type one token
            from two batches may differ by more than other tokens do, so drop such copies yourself if you know them.
            False reproduces what the two libraries do with copies; for ``twonn_mle`` tokens with a copy then have no μ
            and are left out (flag ``zero_distance=share``).
        groups: (N,) the example each token belongs to.
        n: on how many distinct tokens to estimate, drawn at random, always the same; None is all of them.
        across_examples: whether neighbours are looked for in other examples only. Tokens of one picture or one sentence
            are near each other for reasons of their own. A token with copies in several examples is in none of them.
            Where both neighbours come from one other example, whose tokens lie close together, μ is near 1 and the
            value is too high.

    Raises:
        MetricError: fewer distinct tokens than 3 or than ``n``, or none with two neighbours at different distances.

    >>> import torch
    >>> plane = torch.zeros(2000, 64)
    >>> plane[:, :2] = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(intrinsic_dimension(plane).value, 1)
    2.0
    """
    core.arrays.known("intrinsic dimension estimator", estimator, ESTIMATORS)
    n = None if n is None else core.arrays.whole("n", n)
    if n is not None and n < 3:
        raise MetricError(f"n = {n} tokens have no intrinsic dimension. Ask for at least 3")
    cloud = core.arrays.finite_cloud("intrinsic dimension", x, groups)
    cloud.deduplicate, cloud.wanted_n = deduplicate, n
    of = core.distances.NeighbourDistances
    tokens = of.across_examples(cloud) if across_examples else of.of(cloud)
    if n is not None and tokens.n < n:
        raise MetricError(f"n = {n} tokens were asked for, but only {tokens.n} distinct ones are there. Ask for fewer")
    remedy = "Give tokens of more examples" if across_examples else "Give more distinct tokens"
    return core.arrays.required("intrinsic dimension", tokens.estimate(ESTIMATORS[estimator]), remedy)


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


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    tokens = core.distances.NeighbourDistances.of(cloud)
    return core.distances.scores_of_each(cloud, ESTIMATORS, lambda name: tokens.estimate(ESTIMATORS[name]))


def scores_across_examples(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    tokens = core.distances.NeighbourDistances.across_examples(cloud)
    return core.distances.scores_of_each(cloud, ESTIMATORS, lambda name: tokens.estimate(ESTIMATORS[name]))


def estimate_on(cloud: core.Cloud, n: int) -> Estimate:
    tokens = core.distances.NeighbourDistances.of_first(cloud, n)
    if tokens.n < n:
        reason = f"the cloud has {tokens.n} distinct tokens, not {n}"
        return Estimate(None, None, tokens.n, tokens.sample.n_examples, reason=reason)
    return tokens.estimate(twonn_discard10)


def scores_by_n(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    return core.distances.scores_of_each(cloud, SIZES, lambda name: estimate_on(cloud, SIZES[name]))


_TWONN_TOLERANCE = ToleranceByDtype("0.1%", "8%", "8%")
_DIMENSION_TOLERANCE = ToleranceByDtype("0.1%", "12%", "12%")

INTRINSIC_DIMENSION = Metric(
    name="intrinsic_dimension",
    version=1,
    title="intrinsic dimension",
    explanation="number of directions in which the cloud extends locally (TwoNN); high dimensions are underestimated",
    estimators=tuple(ESTIMATORS),
    scores=scores,
    headlines=(
        Headline(
            estimator="twonn_discard10",
            title="intrinsic dimension",
            explanation="how many directions the tokens locally extend in (TwoNN on the lowest nine tenths of the "
            "distance ratios), on as many distinct tokens (n) as every modality has; high dimensions are "
            "underestimated, the more so the smaller n: compare values of one n only",
            extreme="max",
            in_report="How many directions the tokens locally extend in (TwoNN). High dimensions are underestimated, "
            "and the estimate rises with n: compare values of one n only.",
        ),
    ),
    unit="dimensions",
    low=0,
    tolerance=_TWONN_TOLERANCE,
    estimator_tolerances={
        "twonn_mle": ToleranceByDtype("0.1%", "30%", "30%"),
        "twonn_regression20": _DIMENSION_TOLERANCE,
    },
    cited_as="TwoNN, estimator twonn_discard10",
    drops_copies=True,
    cautions={
        "unmatched_n": "intrinsic dimension of some layers is of fewer distinct tokens than elsewhere in the run; "
        "those of less than half as many as the others are left out of mean and extreme"
    },
    half_precision="rounding of a half type raises intrinsic dimension at the scale of the nearest neighbours",
    neighbours=2,
)

INTRINSIC_DIMENSION_ACROSS_EXAMPLES = Metric(
    name="intrinsic_dimension_across_examples",
    version=1,
    title="intrinsic dimension across examples",
    explanation="TwoNN with the neighbours of a token looked for in other examples only",
    estimators=tuple(ESTIMATORS),
    scores=scores_across_examples,
    unit="dimensions",
    low=0,
    tolerance=_TWONN_TOLERANCE,
    estimator_tolerances={
        "twonn_mle": ToleranceByDtype("0.1%", "40%", "40%"),
        "twonn_regression20": _DIMENSION_TOLERANCE,
    },
    drops_copies=True,
    neighbours=128,
)

INTRINSIC_DIMENSION_BY_N = Metric(
    name="intrinsic_dimension_by_n",
    version=1,
    title="intrinsic dimension by number of tokens",
    explanation="twonn_discard10 on samples of 256 to 8,192 tokens: how far the value still moves with their number",
    estimators=tuple(SIZES),
    scores=scores_by_n,
    unit="dimensions",
    low=0,
    tolerance=_DIMENSION_TOLERANCE,
    drops_copies=True,
    neighbours=2,
)
