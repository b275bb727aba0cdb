"""Statistics of a cloud's covariance, with their standard errors."""

from __future__ import annotations

from collections.abc import Callable

from microscope_bench.metrics.core.axes import Spectrum
from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.core.jackknife import jackknifed, non_finite

NO_VARIANCE = "the states have no variance beyond rounding"


def of_spectrum(cloud: Cloud, name: str, statistic: Callable[[Spectrum], float]) -> Estimate:
    """A statistic of the eigenvalues; ``name`` is the metric's, for reasons."""

    def outcome(left_out: int | None) -> float:
        spectrum = cloud.spectra[left_out]
        if spectrum is None:
            raise NoValue(NO_VARIANCE)
        return statistic(spectrum)

    return of_covariance(cloud, name, outcome)


def of_covariance(cloud: Cloud, name: str, outcome: Callable[[int | None], float]) -> Estimate:
    """A statistic of the covariance; none of states that are not finite, or of fewer than two tokens."""
    n, folds = cloud.n_tokens, cloud.moments
    if folds.non_finite_x:
        return non_finite(folds.non_finite_x, n, cloud.n_examples)
    if n < 2:
        return Estimate(None, None, n, cloud.n_examples, (), f"{name} needs at least 2 tokens, got {n}")
    return jackknifed(outcome, folds.occupied, n, cloud.n_examples)
