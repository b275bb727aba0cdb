"""Metrics of arrays: arrays in, one :class:`~microscope_bench.metrics.core.estimate.Estimate` out, or an error."""

from __future__ import annotations

from microscope_bench.errors import MetricError
from microscope_bench.metrics import linear_fit, pareto_fit, scale, spectrum, two_nn
from microscope_bench.metrics.core.arrays import Array, Groups, cloud_of, known, matrix, required, whole
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.core.distances import NeighbourDistances
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.jackknife import non_finite
from microscope_bench.metrics.core.moments import usable_rows

MORE_TOKENS = "Give more distinct tokens"


def linearity(
    x: Array, y: Array, stream: str = "hidden", estimator: str = "in_sample", groups: Groups | None = None
) -> Estimate:
    r"""How well one linear map carries the tokens at one boundary to the next.

    With X, Y centred by column and T = Y for stream ``hidden``, T = Y − X for ``update``:

    - ``in_sample``: 1 − min_A ‖XA − T‖²_F / ‖T‖²_F, the multivariate R². Razzhigaev et al. 2024 (arXiv 2405.12250) call
      it Procrustes similarity. Unrelated clouds score r/(N − 1), r the rank of X, and any cloud scores 1 when N ≤ r + 1
      (flag ``saturated``).
    - ``adjusted``: 1 − (1 − in_sample)(N − 1)/(N − r − 1) (Ezekiel 1930, the adjusted R²). Right for
      independent tokens only; tokens of one example are not.
    - ``held_out``: 1 − Σ_k RSS_k / Σ_k TSS_k over 10 folds of whole examples, the map fitted without fold k and both
      sums taken on fold k about the mean of the tokens *fitted on*. It may be negative. It needs more than d tokens
      beside each fold.
    - ``identity``: 1 − ‖Y − X‖²_F / ‖Y‖²_F, what no map at all would score; stream ``hidden`` only.
    - ``in_sample_permuted``, ``held_out_permuted``: what chance scores, that is the mean of the same estimator over all
      N! re-pairings of the rows of T with those of X. No permutation is drawn: the mean of the one is r/(N − 1), that
      of RSS_k and TSS_k of the other n_k(1 + 1/n) + Σ‖W(x − x̄)‖² and n_k(1 + 1/n) in units of T's variance, W whitening
      the n tokens fitted on. So both depend on X alone and are the same for every T and for both streams.

    Held-out values carry the flags ``tokens/d=`` and ``examples/d=``, and ``few_tokens`` below 16 tokens or
    ``few_examples`` below 4 examples per dimension: there they fall short of what more tokens would show.

    One solve serves both streams: columns are scaled to unit variance, constant ones dropped, directions at the level
    of rounding noise left out. Flag ``rank=r/d`` when r < d.

    Args:
        x: (N, d) states at boundary l, torch or numpy, any real dtype, on any device. Computed in float64.
        y: (N, d) the same tokens at boundary l + 1.
        stream: ``hidden`` or ``update``.
        estimator: ``in_sample``, ``adjusted``, ``held_out``, ``identity``, ``in_sample_permuted`` or
            ``held_out_permuted``.
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.

    Returns:
        Value and delete-a-group jackknife standard error.

    Raises:
        MetricError: these tokens have no such value; the message says why and what to do.
        ValueError: shapes that do not fit, an array that is not of real numbers, or ``identity`` of ``update``.
        UnknownNameError: an unknown stream or estimator.

    >>> import torch
    >>> x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> score = linearity(x, 2 * x.roll(1, dims=1) + 3)
    >>> round(score.value, 6), score.n_tokens, score.flags
    (1.0, 500, ())
    >>> linearity(x[:8], x[:8].roll(1, dims=1), estimator="adjusted")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    microscope_bench.errors.MetricError: adjusted linearity cannot be computed: 8 tokens leave no degree of ...
    """
    known("stream", stream, linear_fit.STREAMS)
    known("linearity estimator", estimator, linear_fit.ESTIMATORS)
    if (estimator, stream) == ("identity", "update"):
        raise ValueError(
            'estimator "identity" compares y with x itself and has no stream "update"; use stream="hidden"'
        )
    before, after = matrix("x", x), matrix("y", y)
    if before.shape != after.shape:
        raise ValueError(
            f"x and y are the same tokens at two boundaries and need one shape, got {tuple(before.shape)} and "
            f"{tuple(after.shape)}"
        )
    estimate = linear_fit.Linearity(cloud_of(before, after.to(before.device), groups)).estimate(estimator, stream)
    return required(
        f"{estimator} linearity", estimate, "Give more tokens, from at least 2 examples, whose states differ"
    )


def anisotropy(x: Array, groups: Groups | None = None) -> Estimate:
    """Share of the variance that lies along the single widest direction.

    σ₁² / Σᵢ σᵢ² over the singular values of the centred cloud (Razzhigaev et al. 2023, arXiv 2311.05928); between
    1/d (the same spread in all directions) and 1 (a line). An isotropic Gaussian of N tokens scores about
    (1 + √(d/N))²/d. A handful of massive activations can take it to 1.

    Args:
        x: (N, d) states, torch or numpy, any real dtype, on any device. Computed in float64.
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.

    Returns:
        Value and delete-a-group jackknife standard error.

    Raises:
        MetricError: fewer than two tokens, tokens that are all the same, or NaN or infinity among them.
        ValueError: an array that is not (N, d) of real numbers, or groups of another length.

    >>> import numpy as np
    >>> anisotropy(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0], [3.0, 1.0]])).value
    0.9
    """
    estimate = spectrum.estimate_anisotropy(cloud_of(matrix("x", x), None, groups))
    return required("anisotropy", estimate, "Give at least 2 tokens whose states differ")


def intrinsic_dimension(
    x: Array,
    estimator: str = "twonn_discard10",
    deduplicate: bool = True,
    groups: Groups | None = None,
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

    Args:
        x: (N, d) states, torch or numpy, any real dtype, on any device. Computed in float64; all pairs of rows are
            compared, so N beyond some ten thousand takes long.
        estimator: ``twonn_mle``, ``twonn_regression20`` or ``twonn_discard10``.
        deduplicate: whether copies of a token are dropped first (flag ``duplicates=share``): equal rows, and float32
            rows nearer to each other than 1e-5 of their norm. In a half type one token from two batches may differ by
            more than other tokens do, so drop such copies yourself if you know them. False reproduces what the two
            libraries do with copies; for ``twonn_mle`` tokens with a copy then have no μ and are left out
            (flag ``zero_distance=share``).
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.
        n: on how many distinct tokens to estimate, drawn at random, always the same; None is all of them.
        across_examples: whether neighbours are looked for in other examples only. Tokens of one picture or one sentence
            are near each other for reasons of their own. A token with copies in several examples is in none of them.
            Where both neighbours come from one other example, whose tokens lie close together, μ is near 1 and the
            value is too high.

    Returns:
        Value and standard error, by a jackknife over the log-ratios of each fold with every neighbour kept. The
        standard error reads low by up to a quarter on independent tokens, since tokens that are each other's neighbours
        share a distance. ``n_tokens`` counts the tokens after copies were dropped.

    Raises:
        MetricError: fewer distinct tokens than 3 or than ``n``, none with two neighbours at different distances, or NaN
            or infinity among them.
        ValueError: an array that is not (N, d) of real numbers, groups of another length, or ``n`` no whole number.
        UnknownNameError: an unknown estimator.

    >>> import torch
    >>> plane = torch.zeros(2000, 64)
    >>> plane[:, :2] = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(intrinsic_dimension(plane).value, 1)
    2.0
    """
    known("intrinsic dimension estimator", estimator, two_nn.ESTIMATORS)
    n = None if n is None else whole("n", n)
    if n is not None and n < 3:
        raise MetricError(f"n = {n} tokens have no intrinsic dimension. Ask for at least 3")
    cloud = _finite_cloud("intrinsic dimension", x, groups, deduplicate)
    cloud.wanted_n = n
    tokens = two_nn.across_examples(cloud) if across_examples else NeighbourDistances.of(cloud)
    if n is not None and tokens.n < n:
        raise MetricError(f"n = {n} tokens were asked for, but only {tokens.n} distinct ones are there. Ask for fewer")
    remedy = "Give tokens of more examples" if across_examples else MORE_TOKENS
    return required("intrinsic dimension", tokens.estimate(two_nn.ESTIMATORS[estimator]), remedy)


def gride(x: Array, k: int = 1, groups: Groups | None = None) -> Estimate:
    """Intrinsic dimension at a scale: by the ratio of each token's 2k-th to its k-th neighbour distance (GRIDE).

    The d that maximises the likelihood of μ = r₂ₖ/rₖ, whose density is d (μ^d − 1)^(k−1) / (B(k, k) μ^(d(2k−1)+1))
    where the tokens are spread evenly out to the 2k-th neighbour (Denti et al. 2022, doi 10.1038/s41598-022-20991-1).
    For k = 1 it is N / Σ log μ, ``twonn_mle`` before its bias is removed. A dimension that holds over a range of k is
    one of the cloud; noise raises the value at small k. High dimensions are underestimated, the more so the larger k.

    Args:
        x: (N, d) states, torch or numpy, any real dtype, on any device. Copies are dropped first (flag
            ``duplicates=share``).
        k: 1 or more; results have the curve over k = 1, 2, 4, ..., 64.
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.

    Returns:
        Value and standard error, by a jackknife over the log-ratios of each fold with every neighbour kept. It reads
        low by a quarter at k = 1 on independent tokens, and by up to a tenth at larger k or on clustered ones.

    Raises:
        MetricError: 2k or fewer distinct tokens, k below 1, or NaN or infinity among the tokens.
        ValueError: an array that is not (N, d) of real numbers, groups of another length, or ``k`` no whole number.

    >>> import torch
    >>> noisy = torch.zeros(2000, 64)
    >>> noisy[:, :2] = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> noisy += 0.002 * torch.randn(2000, 64, generator=torch.Generator().manual_seed(1))
    >>> [round(gride(noisy, k).value, 1) for k in (1, 8, 64)]
    [8.4, 2.5, 1.9]
    """
    k = whole("k", k)
    if k < 1:
        raise MetricError(f"k = {k} is no neighbour. Ask for k = 1 or more")
    cloud = _finite_cloud("GRIDE", x, groups)
    cloud.n_neighbours = 2 * k
    return required("GRIDE", scale.estimate_at(NeighbourDistances.of(cloud), k), f"{MORE_TOKENS}, or a smaller k")


def pareto_distance(x: Array, groups: Groups | None = None) -> Estimate:
    """How far the neighbour ratios are from the law that TwoNN takes for granted.

    The Kolmogorov-Smirnov distance sup |F_N − F| between the observed log μ, μ = r₂/r₁, all of them, and the
    exponential law F(u) = 1 − e^(−du) with d = N / Σ log μ. This is the maximum-likelihood fit, ``twonn_mle`` before
    its bias is removed, one part in N: under it the distribution of the distance does not depend on d and is known
    (Lilliefors 1969, doi 10.1080/01621459.1969.10500983).

    Ratios that follow the law are about 0.73/√N off. Flag ``pareto_rejected``: independent ratios would be that far off
    in fewer than 5 % of all cases (Lilliefors' test, its critical value simulated: (D − 0.2/N)(√N + 0.26 + 0.5/√N) >
    1.09). The flag is liberal: even independent tokens share a distance where they are each other's neighbours, and
    tokens of one example are alike. At N = 1000 it stands on 6 % of uniform squares, on 8 % and 12 % of Gaussians of 5
    and 20 dimensions, and on 13 % of clouds of 50 clusters in 5 dimensions. Of many thousand tokens it rejects what is
    too small to matter: read the distance.

    Args:
        x: (N, d) states, torch or numpy, any real dtype, on any device. Copies are dropped first (flag
            ``duplicates=share``).
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.

    Returns:
        Value, between 0 and 1, and standard error, by a jackknife over the log-ratios of each fold with every neighbour
        kept.

    Raises:
        MetricError: fewer than 3 distinct tokens, none with two neighbours at different distances, or NaN or infinity
            among them.
        ValueError: an array that is not (N, d) of real numbers, or groups of another length.

    >>> import torch
    >>> square = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> pareto_distance(square).flags, pareto_distance(square.round(decimals=2)).flags
    ((), ('duplicates=0.0450', 'pareto_rejected'))
    """
    cloud = _finite_cloud("the distance from the Pareto law", x, groups)
    estimate = pareto_fit.estimate_fit(NeighbourDistances.of(cloud))
    return required("the distance from the Pareto law", estimate, MORE_TOKENS)


def _finite_cloud(metric: str, x: Array, groups: Groups | None, deduplicate: bool = True) -> ArrayCloud:
    """The cloud of some states, all of them usable; MetricError if one is not."""
    states = matrix("x", x)
    cloud = cloud_of(states, None, groups, deduplicate)
    bad = int((~usable_rows(states)).sum())
    if bad:
        required(metric, non_finite(bad, cloud.n_tokens, cloud.n_examples), "")
    return cloud
