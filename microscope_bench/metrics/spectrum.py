"""What the eigenvalues of a cloud's covariance say: anisotropy, participation ratio, effective rank, IsoScore."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.eigenvalues import FULL_SPECTRUM_UP_TO, Spectrum, has_variance, top_eigenvalue
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.jackknife import Outcome, jackknifed, non_finite
from microscope_bench.metrics.record import EstimatorScore

NO_VARIANCE = "the states have no variance beyond rounding"


def top_share(spectrum: Spectrum) -> Outcome:
    """σ₁² / Σ σᵢ²."""
    return float(spectrum.values[0] / spectrum.values.sum())


def participation(spectrum: Spectrum) -> Outcome:
    """(Σ λ)² / Σ λ²."""
    shares = spectrum.values / spectrum.values.sum()
    return 1.0 / float(shares.square().sum())


def entropy_rank(spectrum: Spectrum) -> Outcome:
    """exp(−Σ p log p), p = λ / Σ λ."""
    shares = spectrum.values / spectrum.values.sum()
    return math.exp(-float(shares.xlogy(shares).sum()))


def uniformity(spectrum: Spectrum) -> Outcome:
    """IsoScore, which is (participation ratio − 1) / (d − 1).

    Its definition takes three steps: λ̂ = √d λ/‖λ‖, δ = ‖λ̂ − 1‖ / √(2(d − √d)), ((d − δ²(d − √d))² − d) / (d(d − 1)).
    Since δ²(d − √d) = d − √d Σλ/‖λ‖, the bracket is d (Σλ)²/‖λ‖².
    """
    d = spectrum.values.numel()
    if d < 2:
        return "IsoScore needs at least 2 dimensions, got 1"
    ratio = participation(spectrum)
    return ratio if isinstance(ratio, str) else (ratio - 1) / (d - 1)


def estimate_anisotropy(cloud: Cloud) -> Estimate:
    """Anisotropy with its jackknife standard error."""
    if cloud.dim <= FULL_SPECTRUM_UP_TO:
        return of_spectrum(cloud, "anisotropy", top_share)
    folds = cloud.moments.x_only()

    def outcome(left_out: int | None) -> Outcome:
        moments = folds.total() if left_out is None else folds.without(left_out)
        if not has_variance(moments):
            return NO_VARIANCE
        return min(top_eigenvalue(moments.c_xx) / float(moments.c_xx.diagonal().sum()), 1.0)

    return of_covariance(cloud, "anisotropy", outcome)


def of_spectrum(cloud: Cloud, name: str, statistic: Callable[[Spectrum], Outcome]) -> Estimate:
    """A statistic of the eigenvalues, with its jackknife standard error."""

    def outcome(left_out: int | None) -> Outcome:
        spectrum = cloud.spectra[left_out]
        return NO_VARIANCE if spectrum is None else statistic(spectrum)

    return of_covariance(cloud, name, outcome)


def of_covariance(cloud: Cloud, name: str, outcome: Callable[[int | None], Outcome]) -> Estimate:
    """A statistic of the covariance; none of states that are not finite, or of fewer than two tokens."""
    n, folds = cloud.n_tokens, cloud.moments
    if folds.non_finite_x:
        return non_finite(folds.non_finite_x, n, cloud.n_examples)
    if n < 2:
        return Estimate(None, None, n, cloud.n_examples, (), f"{name} needs at least 2 tokens, got {n}")
    return jackknifed(outcome, folds.occupied, n, cloud.n_examples)


estimate_participation_ratio = partial(of_spectrum, name="participation ratio", statistic=participation)
estimate_effective_rank = partial(of_spectrum, name="effective rank", statistic=entropy_rank)
estimate_isoscore = partial(of_spectrum, name="IsoScore", statistic=uniformity)


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """The one estimator of anisotropy."""
    yield "top_share", None, estimate_anisotropy(cloud)


def participation_ratio_scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """The one estimator of the participation ratio."""
    yield "covariance", None, estimate_participation_ratio(cloud)


def effective_rank_scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """The one estimator of the effective rank."""
    yield "covariance", None, estimate_effective_rank(cloud)


def isoscore_scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """The one estimator of IsoScore."""
    yield "covariance", None, estimate_isoscore(cloud)
