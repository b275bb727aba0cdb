"""Linearity: how well one linear map carries the states at boundary l to those at l + 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from microscope_bench.metrics.cloud import Cloud
from microscope_bench.metrics.estimate import Estimate
from microscope_bench.metrics.linear_solve import LinearFit, is_constant
from microscope_bench.metrics.moments import Moments
from microscope_bench.metrics.registry import EstimatorScore
from microscope_bench.metrics.resampling import NO_STDERR, jackknife_stderr

STREAMS = ("hidden", "update")
ESTIMATORS = ("in_sample", "adjusted", "held_out", "identity")

Outcome = float | str
"""A value, or the reason why there is none."""


@dataclass(frozen=True)
class FitSummary:
    """What the estimators need of one fit; numbers only, so that no matrix outlives its fold.

    Attributes:
        n: rows.
        rank: numerical rank of X.
        rss: residual sum of squares, the same for both streams.
        tss: stream → total sum of squares; 0.0 where the target is constant up to rounding.
        held_out: stream → (RSS, TSS) on the fold that was left out; empty for the fit on all rows.
    """

    n: int
    rank: int
    rss: float
    tss: dict[str, float]
    held_out: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, moments: Moments, left_out: Moments | None = None) -> FitSummary:
        """Fits the rows of ``moments`` and evaluates the map on ``left_out``."""
        fit = LinearFit(moments)
        tss = total_squares(moments)
        return cls(moments.n, fit.rank, fit.residual, tss, {} if left_out is None else fit.on(left_out))

    @property
    def saturated(self) -> bool:
        """Whether there are as many free directions as rows, so that any target is met exactly."""
        return self.n - 1 <= self.rank

    def in_sample(self, stream: str) -> Outcome:
        if self.tss[stream] == 0.0:
            return constant_target(stream)
        return 1.0 if self.saturated else 1.0 - self.rss / self.tss[stream]

    def adjusted(self, stream: str) -> Outcome:
        score = self.in_sample(stream)
        if isinstance(score, str):
            return score
        if self.saturated:
            return f"{self.n} tokens leave no degree of freedom beside a map of rank {self.rank}"
        return 1.0 - (1.0 - score) * (self.n - 1) / (self.n - self.rank - 1)


def total_squares(moments: Moments) -> dict[str, float]:
    """Stream → total sum of squares, 0.0 where it is nothing but rounding."""
    of = {"hidden": moments.yy, "update": moments.rr}
    return {stream: 0.0 if is_constant(of[stream], moments) else float(of[stream]) for stream in STREAMS}


def constant_target(stream: str) -> str:
    what = "the next states" if stream == "hidden" else "the updates"
    return f"{what} have no variance: they are the same for every token"


def identity_score(moments: Moments) -> Outcome:
    """1 − ‖Y − X‖² / ‖Y‖², centred."""
    tss = total_squares(moments)["hidden"]
    return 1.0 - float(moments.rr) / tss if tss else constant_target("hidden")


class Linearity:
    """Every estimate of linearity of one cloud, each computed when asked for; the solves are shared.

    Args:
        cloud: with a next boundary.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.folds = cloud.moments

    @cached_property
    def fit(self) -> FitSummary:
        """The fit on all rows."""
        return FitSummary.of(self.folds.total())

    @cached_property
    def replicates(self) -> list[FitSummary]:
        """The fit without each fold in turn, evaluated on that fold; empty with fewer than two folds."""
        occupied = self.folds.occupied
        return [FitSummary.of(self.folds.without(k), self.folds.folds[k]) for k in occupied] if len(occupied) > 1 else []

    def estimate(self, estimator: str, stream: str) -> Estimate:
        """One estimate; ``estimator`` and ``stream`` are known names."""
        cloud = self.cloud
        if self.folds.non_finite:
            return self._null(f"{self.folds.non_finite} of {cloud.n_tokens} tokens hold NaN or infinity", "non_finite")
        if cloud.n_tokens < 2:
            return self._null(f"linearity needs at least 2 tokens, got {cloud.n_tokens}")
        if estimator == "identity":
            return self._identity()
        if estimator == "held_out":
            return self._held_out(stream)
        outcome = getattr(self.fit, estimator)(stream)
        flags = self._rank_flags()
        if isinstance(outcome, str):
            return self._null(outcome, *flags)
        if self.fit.saturated:
            # Its replicates are 1 by construction too: their spread of 0 says nothing about the states.
            return self._value(outcome, None, *flags, NO_STDERR)
        outcomes = [f"saturated without fold {k}" if f.saturated else getattr(f, estimator)(stream) for k, f in
                    enumerate(self.replicates)]
        stderr, more = jackknife_stderr(numbers(outcomes))
        return self._value(outcome, stderr, *flags, *more)

    def _identity(self) -> Estimate:
        outcome = identity_score(self.folds.total())
        if isinstance(outcome, str):
            return self._null(outcome)
        occupied = self.folds.occupied
        left = [identity_score(self.folds.without(k)) for k in occupied] if len(occupied) > 1 else []
        stderr, flags = jackknife_stderr(numbers(left))
        return self._value(outcome, stderr, *flags)

    def _held_out(self, stream: str) -> Estimate:
        sizes = {k: self.cloud_rows - self.folds.folds[k].n for k in self.folds.occupied}
        if len(sizes) < 2:
            return self._null("held-out linearity needs tokens of at least 2 examples")
        dim, fewest = self.cloud.dim, min(sizes.values())
        if fewest <= dim:
            return self._null(f"a fold leaves {fewest} tokens to fit on, and the map needs more than d = {dim}")
        if self.fit.tss[stream] == 0.0:
            return self._null(constant_target(stream), *self._rank_flags())
        rss, tss = zip(*(f.held_out[stream] for f in self.replicates), strict=True)
        value = 1.0 - sum(rss) / sum(tss)
        stderr, more = jackknife_stderr([
            1.0 - (sum(rss) - rss[k]) / (sum(tss) - tss[k]) if sum(tss) > tss[k] else None for k in range(len(rss))
        ])
        return self._value(value, stderr, *self._rank_flags(), *more)

    @property
    def cloud_rows(self) -> int:
        return sum(fold.n for fold in self.folds.folds)

    def _rank_flags(self) -> tuple[str, ...]:
        rank = (f"rank={self.fit.rank}/{self.cloud.dim}",) if self.fit.rank < self.cloud.dim else ()
        return (*rank, "saturated") if self.fit.saturated else rank

    def _value(self, value: float, stderr: float | None, *flags: str) -> Estimate:
        return Estimate(value, stderr, self.cloud.n_tokens, self.cloud.n_examples, flags)

    def _null(self, reason: str, *flags: str) -> Estimate:
        return Estimate(None, None, self.cloud.n_tokens, self.cloud.n_examples, flags, reason)


def numbers(outcomes: list[Outcome]) -> list[float | None]:
    """Outcomes with None for each that is a reason."""
    return [None if isinstance(outcome, str) else outcome for outcome in outcomes]


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """Every estimator on every stream; nothing for a cloud without a next boundary."""
    if not cloud.has_next:
        return
    linearity = Linearity(cloud)
    for stream in STREAMS:
        for estimator in ESTIMATORS:
            if (estimator, stream) != ("identity", "update"):  # the identity map from x to y − x means nothing
                yield estimator, stream, linearity.estimate(estimator, stream)
