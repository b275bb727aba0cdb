"""How the variance spreads over the directions: statistics of the eigenvalues of the covariance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.core.jackknife import jackknifed, non_finite
from microscope_bench.metrics.record import WIDTH, EstimatorScore, Headline, Metric, ToleranceByDtype

NO_VARIANCE = "the states have no variance beyond rounding"
CAUTIONS = {
    "concentrated": "5 % of the tokens carry more than half of the variance along the widest direction: it is theirs"
}


def anisotropy(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """Share of the variance that lies along the single widest direction.

    σ₁² / Σᵢ σᵢ² over the singular values of the centred cloud (Razzhigaev et al. 2023, arXiv 2311.05928); between
    1/d (the same spread in all directions) and 1 (a line). An isotropic Gaussian of N tokens scores about
    (1 + √(d/N))²/d. A handful of massive activations can take it to 1: flag ``concentrated=share`` where the 5 % of the
    tokens with the largest (u₁ᵀ(x − x̄))², u₁ the widest direction, carry a share above half of their sum σ₁²; of a
    Gaussian cloud they carry 0.28. ``x``, (N, d), needs 2 tokens that differ.

    >>> import numpy as np
    >>> anisotropy(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0], [3.0, 1.0]])).value
    0.9
    """
    estimate = estimate_anisotropy(core.arrays.cloud_from(x, groups))
    return core.arrays.required("anisotropy", estimate, "Give at least 2 tokens whose states differ")


def participation_ratio(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """Number of directions that carry the variance, each counted by its weight.

    (Σ λᵢ)² / Σ λᵢ² over the eigenvalues of the covariance (Gao et al. 2017, doi 10.1101/214262); between 1 (a line) and
    d (the same variance in all directions). Few large directions decide it: it is nearer to 1/anisotropy than to the
    rank. Fewer tokens read lower: an isotropic Gaussian of N tokens scores about d / (1 + d/N).
    ``x``, (N, d), needs at least 2 tokens that differ.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(participation_ratio(cross).value, 6)
    1.219512
    """
    estimate = of_spectrum(core.arrays.cloud_from(x, groups), "participation ratio", participation)
    return core.arrays.required("participation ratio", estimate, "Give at least 2 tokens that differ")


def effective_rank(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """Number of directions that carry the variance, by the entropy of their shares.

    exp(−Σ pᵢ log pᵢ), p = λ / Σ λ (Roy & Vetterli 2007, *The effective rank*, EUSIPCO: the
    effective rank of the covariance matrix). Between 1 and d, never below the participation ratio, and more sensitive
    than that to many small directions. Fewer tokens read lower. ``x``, (N, d), needs at least 2 tokens that differ.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(effective_rank(cross).value, 6)
    1.384145
    """
    estimate = of_spectrum(core.arrays.cloud_from(x, groups), "effective rank", entropy_rank)
    return core.arrays.required("effective rank", estimate, "Give at least 2 tokens that differ")


def isoscore(x: core.Array, groups: core.Groups | None = None) -> Estimate:
    """How evenly the variance spreads over all d directions.

    IsoScore (Rudman et al. 2022, arXiv 2108.07344): with λ̂ = √d λ/‖λ‖ and δ = ‖λ̂ − 1‖ / √(2(d − √d)), it is
    ((d − δ²(d − √d))² − d) / (d(d − 1)). Since δ²(d − √d) = d − √d Σλ/‖λ‖, that comes to (participation ratio − 1) /
    (d − 1), so it says the same as the participation ratio on a scale from 0 (a line) to 1 (the same variance in all
    directions). Fewer tokens read lower. ``x``, (N, d), needs at least 2 tokens that differ, and d at least 2.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(isoscore(cross).value, 6)
    0.219512
    """
    estimate = of_spectrum(core.arrays.cloud_from(x, groups), "IsoScore", uniformity)
    return core.arrays.required("IsoScore", estimate, "Give at least 2 tokens that differ, of at least 2 dimensions")


def of_spectrum(cloud: core.Cloud, name: str, statistic: Callable[[core.Spectrum], float]) -> Estimate:
    """A statistic of the eigenvalues; ``name`` is the metric's, for reasons."""

    def outcome(left_out: int | None) -> float:
        spectrum = cloud.spectra[left_out]
        if spectrum is None:
            raise NoValue(NO_VARIANCE)
        return statistic(spectrum)

    return of_covariance(cloud, name, outcome)


def of_covariance(cloud: core.Cloud, name: str, outcome: Callable[[int | None], float]) -> Estimate:
    """A statistic of the covariance; none of states that are not finite, or of fewer than two tokens.

    Flag ``concentrated=`` where few tokens carry most of σ₁², so that they decide the statistic.
    """
    n, folds = cloud.n_tokens, cloud.moments
    if folds.non_finite_x:
        return non_finite(folds.non_finite_x, n, cloud.n_examples)
    if n < 2:
        return Estimate(None, None, n, cloud.n_examples, (), f"{name} needs at least 2 tokens, got {n}")
    flags = core.concentration.flags_of(cloud.concentration.first_axis)
    return jackknifed(outcome, folds.occupied, n, cloud.n_examples, flags)


def estimate_anisotropy(cloud: core.Cloud) -> Estimate:
    """Anisotropy of a cloud; of a wide one the largest eigenvalue alone is computed."""
    if cloud.dim <= core.axes.FULL_SPECTRUM_UP_TO:
        return of_spectrum(cloud, "anisotropy", top_share)
    folds = cloud.moments.x_only()

    def outcome(left_out: int | None) -> float:
        moments = folds.total() if left_out is None else folds.without(left_out)
        axis = cloud.first_axis if left_out is None else core.axes.top_axis(moments.c_xx)
        if axis is None or not moments.has_variance:
            raise NoValue(NO_VARIANCE)
        return min(axis[0] / float(moments.c_xx.diagonal().sum()), 1.0)

    return of_covariance(cloud, "anisotropy", outcome)


def top_share(spectrum: core.Spectrum) -> float:
    return float(spectrum.values[0] / spectrum.values.sum())


def participation(spectrum: core.Spectrum) -> float:
    shares = spectrum.values / spectrum.values.sum()
    return 1.0 / float(shares.square().sum())


def entropy_rank(spectrum: core.Spectrum) -> float:
    shares = spectrum.values / spectrum.values.sum()
    return math.exp(-float(shares.xlogy(shares).sum()))


def uniformity(spectrum: core.Spectrum) -> float:
    d = spectrum.values.numel()
    if d < 2:
        raise NoValue("IsoScore needs at least 2 dimensions, got 1")
    return (participation(spectrum) - 1) / (d - 1)


def anisotropy_scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    yield "top_share", None, estimate_anisotropy(cloud)


def spectrum_scores(
    name: str, statistic: Callable[[core.Spectrum], float], cloud: core.Cloud
) -> Iterator[EstimatorScore]:
    yield "covariance", None, of_spectrum(cloud, name, statistic)


ANISOTROPY = Metric(
    name="anisotropy",
    version=1,
    title="anisotropy",
    explanation="share of the variance along the single widest direction",
    estimators=("top_share",),
    scores=anisotropy_scores,
    headlines=(
        Headline(
            estimator="top_share",
            title="anisotropy",
            explanation="share of the variance along the single widest direction (1 = a line)",
            extreme="max",
            in_report="Share of the variance along the single widest direction (1 = a line).",
        ),
    ),
    unit="share of variance",
    low=0,
    high=1,
    tolerance=ToleranceByDtype("0.0001", "0.0002", "0.001"),
    cited_as="share of the variance along the first principal axis",
    cautions=CAUTIONS,
)

PARTICIPATION_RATIO = Metric(
    name="participation_ratio",
    version=1,
    title="participation ratio",
    explanation="number of directions that carry the variance: 1 / sum of the squared variance shares",
    estimators=("covariance",),
    scores=partial(spectrum_scores, "participation ratio", participation),
    unit="dimensions",
    low=1,
    high=WIDTH,
    cautions=CAUTIONS,
)

EFFECTIVE_RANK = Metric(
    name="effective_rank",
    version=1,
    title="effective rank",
    explanation="number of directions that carry the variance: exponential of the entropy of the variance shares",
    estimators=("covariance",),
    scores=partial(spectrum_scores, "effective rank", entropy_rank),
    unit="dimensions",
    low=1,
    high=WIDTH,
    cautions=CAUTIONS,
)

ISOSCORE = Metric(
    name="isoscore",
    version=1,
    title="IsoScore",
    explanation="how evenly the variance spreads over all d directions: 0 a line, 1 the same in all of them",
    estimators=("covariance",),
    scores=partial(spectrum_scores, "IsoScore", uniformity),
    unit="share",
    low=0,
    high=1,
    cautions=CAUTIONS,
)
