"""Linearity: how well one linear map carries the states at boundary l to those at l + 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.jackknife import Outcome, attempted, jackknifed, non_finite
from microscope_bench.metrics.core.linear_solve import PERMUTED, LinearFit, Spread
from microscope_bench.metrics.core.moments import Moments
from microscope_bench.metrics.core.rank import numerical_rank
from microscope_bench.metrics.record import EstimatorScore

STREAMS = ("hidden", "update")
ESTIMATORS = ("in_sample", "adjusted", "held_out", "identity", "in_sample_permuted", "held_out_permuted")

MAINFLOW = "mainflow"

FEW_TOKENS = 16
"""Tokens per dimension below which a held-out value is flagged ``few_tokens``.

A map fitted on few tokens predicts worse than the one that infinitely many would give. Where that one explains half of
the variance, 16 independent tokens per dimension leave a shortfall of 0.04 and 8 one of 0.08
(``benchmarks/held_out_sizes.py``).
"""

FEW_EXAMPLES = 4
"""Examples per dimension below which a held-out value is flagged ``few_examples``.

The same for tokens half of whose variance is shared within their example: 4 examples per dimension leave a shortfall of
0.04 to 0.06 and 2 one of 0.07 to 0.10, whether they have 8 tokens each or 32.
"""


@dataclass(frozen=True)
class FitSummary:
    """What the estimators need of one fit; numbers only, so that no matrix outlives its fold.

    Attributes:
        n: rows.
        rank: numerical rank of X.
        rss: residual sum of squares, the same for both streams; 0.0 where the fit is saturated.
        tss: stream → total sum of squares.
        held_out: stream, or :data:`PERMUTED` → (RSS, TSS) on the fold that was left out; empty for the fit on all rows.
    """

    n: int
    rank: int
    rss: float
    tss: dict[str, float]
    held_out: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, moments: Moments, left_out: Moments | None = None) -> FitSummary:
        """Fits the rows of ``moments`` and evaluates the map on ``left_out``, unless it has no more rows than columns:
        such a map is mostly saturated, says nothing about other rows, and what is asked of it is its rank.
        """
        tss = {"hidden": float(moments.yy), "update": float(moments.rr)}
        if moments.n <= moments.dim and moments.n - 1 <= (rank := numerical_rank(moments)):
            return cls(moments.n, rank, 0.0, tss, {})
        fit = LinearFit(moments)
        return cls(moments.n, fit.rank, fit.residual, tss, {} if left_out is None else fit.on(left_out))

    @property
    def saturated(self) -> bool:
        """Whether there are as many free directions as rows, so that any target is met exactly."""
        return self.n - 1 <= self.rank

    def outcome(self, estimator: str, stream: str) -> Outcome:
        """``in_sample``, ``in_sample_permuted`` or ``adjusted`` of these rows.

        They need fewer free directions than rows: a saturated fit meets any target.

        Args:
            estimator: one of the three.
            stream: one whose target is not constant.
        """
        if self.saturated:
            return f"{self.n} tokens leave no degree of freedom beside a map of rank {self.rank}"
        if estimator == "in_sample_permuted":
            return self.rank / (self.n - 1)
        unexplained = self.rss / self.tss[stream]
        if estimator == "in_sample":
            return 1.0 - unexplained
        return 1.0 - unexplained * (self.n - 1) / (self.n - self.rank - 1)


def total_squares(parts: Sequence[Moments]) -> dict[str, float]:
    """Stream → total sum of squares of the rows of all parts together, 0.0 where it is nothing but rounding."""
    if not any(part.n for part in parts):
        return dict.fromkeys(STREAMS, 0.0)
    spread = Spread.of(parts)
    of = {"hidden": spread.yy, "update": spread.rr}
    return {stream: 0.0 if of[stream] <= spread.rounding else of[stream] for stream in STREAMS}


def explained(errors: Iterable[tuple[float, float]]) -> float | None:
    """1 − Σ RSS / Σ TSS, or None where there is no variance to explain."""
    rss, tss = (sum(column) for column in zip(*errors, strict=True))
    return 1.0 - rss / tss if tss > 0 else None


def constant_target(stream: str) -> str:
    """The reason why no share of a target's variance can be told."""
    what = "the next states" if stream == "hidden" else "the updates"
    return f"{what} have no variance beyond the rounding of the states"


def size_flags(cloud: Cloud) -> tuple[str, ...]:
    """How many tokens and examples there are for each dimension, and a flag where they are too few to hold out."""
    tokens, examples = cloud.n_tokens / cloud.dim, cloud.n_examples / cloud.dim
    few_tokens = ("few_tokens",) if tokens < FEW_TOKENS else ()
    few_examples = ("few_examples",) if examples < FEW_EXAMPLES else ()
    return (f"tokens/d={tokens:.3g}", f"examples/d={examples:.3g}", *few_tokens, *few_examples)


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
    def replicates(self) -> dict[int, FitSummary]:
        """Fold → the fit without it, evaluated on it; needs two folds that hold rows."""
        fits = {k: FitSummary.of(rest, self.folds.folds[k]) for k, rest in self.folds.without_each()}
        return {k: fits[k] for k in self.folds.occupied}

    @cached_property
    def tss(self) -> dict[int | None, dict[str, float]]:
        """Total sums of squares of each stream, of all rows under None and without each fold under its number."""
        folds = self.folds.folds
        left_out: list[int | None] = [None, *self.folds.occupied]
        return {k: total_squares([fold for j, fold in enumerate(folds) if j != k]) for k in left_out}

    @cached_property
    def held_out_replicates(self) -> dict[int, dict[str, float | None]]:
        """Stream or :data:`PERMUTED` → the held-out value without fold j, for each j.

        Every map is fitted anew, without j and one other fold. Leaving out fold j's terms of the sum alone would miss
        that j is among the rows of every other map: it reads the standard error at about half where there are fewer
        examples than dimensions. One fit per pair of folds serves two replicates.
        """
        occupied, folds = self.folds.occupied, self.folds.folds
        errors: dict[tuple[int, int], dict[str, tuple[float, float]]] = {}
        scored = (*STREAMS, PERMUTED)
        sizes = sorted(folds[k].n for k in occupied)
        if len(occupied) > 2 and sum(sizes[:-2]) > self.cloud.dim:
            for (j, k), rest in self.folds.without_pairs():
                fit = LinearFit(rest)
                errors[j, k], errors[k, j] = fit.on(folds[k]), fit.on(folds[j])
        if not errors:
            return {j: dict.fromkeys(scored) for j in occupied}
        return {
            j: {name: explained(errors[j, k][name] for k in occupied if k != j) for name in scored} for j in occupied
        }

    def estimate(self, estimator: str, stream: str) -> Estimate:
        """One estimate; ``estimator`` and ``stream`` are known names, and not ``identity`` of ``update``."""
        n = self.cloud.n_tokens
        if self.folds.non_finite:
            return non_finite(self.folds.non_finite, n, self.cloud.n_examples)
        if n < 2:
            return self._null(f"linearity needs at least 2 tokens, got {n}")
        held_out = estimator in ("held_out", "held_out_permuted")
        found = attempted(partial(self._held_out if held_out else self._of_all_rows, estimator, stream))
        return self._null(found) if isinstance(found, str) else found

    def _of_all_rows(self, estimator: str, stream: str) -> Estimate:
        flags = () if estimator == "identity" else self._fit_flags()
        if estimator in ("in_sample", "in_sample_permuted") and self.fit.saturated and self.tss[None][stream]:
            # 1 by construction, as it would be without any fold: a spread of 0 would say nothing about the states.
            return jackknifed(lambda _: 1.0, (), self.cloud.n_tokens, self.cloud.n_examples, flags)

        def outcome(left_out: int | None) -> Outcome:
            tss = self.tss[left_out]
            if tss[stream] == 0.0:
                return constant_target(stream)
            if estimator == "identity":
                return 1.0 - tss["update"] / tss["hidden"]
            return (self.fit if left_out is None else self.replicates[left_out]).outcome(estimator, stream)

        return self._jackknifed(outcome, flags)

    def _held_out(self, estimator: str, stream: str) -> Estimate:
        n, dim = self.cloud.n_tokens, self.cloud.dim
        scored = PERMUTED if estimator == "held_out_permuted" else stream
        fold_sizes = [self.folds.folds[k].n for k in self.folds.occupied]
        if len(fold_sizes) < 2:
            return self._null("held-out linearity needs tokens of at least 2 examples")
        if n - max(fold_sizes) <= dim:
            return self._null(f"a fold leaves {n - max(fold_sizes)} tokens to fit on; a map needs more than d = {dim}")

        def outcome(left_out: int | None) -> Outcome:
            if self.tss[None][stream] == 0.0:
                return constant_target(stream)
            if left_out is None:
                value = explained(replicate.held_out[scored] for replicate in self.replicates.values())
            else:
                value = self.held_out_replicates[left_out][scored]
            return constant_target(stream) if value is None else value

        return self._jackknifed(outcome, (*self._fit_flags(), *size_flags(self.cloud)))

    def _fit_flags(self) -> tuple[str, ...]:
        rank = (f"rank={self.fit.rank}/{self.cloud.dim}",) if self.fit.rank < self.cloud.dim else ()
        return (*rank, "saturated") if self.fit.saturated else rank

    def _jackknifed(self, outcome: Callable[[int | None], Outcome], flags: tuple[str, ...]) -> Estimate:
        return jackknifed(outcome, self.folds.occupied, self.cloud.n_tokens, self.cloud.n_examples, flags)

    def _null(self, reason: str) -> Estimate:
        return Estimate(None, None, self.cloud.n_tokens, self.cloud.n_examples, (), reason)


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """Every estimator on every stream; nothing for a cloud without a next boundary."""
    if not cloud.has_next:
        return
    linearity = Linearity(cloud)
    for stream in STREAMS:
        for estimator in ESTIMATORS:
            if (estimator, stream) != ("identity", "update"):  # the identity map from x to y − x means nothing
                yield estimator, stream, linearity.estimate(estimator, stream)
    if cloud.no_mainflow is not None:
        missing = Estimate(None, None, cloud.n_tokens, cloud.n_examples, (), cloud.no_mainflow)
        yield from ((estimator, MAINFLOW, missing) for estimator in ESTIMATORS)
    elif cloud.mainflow is not None:
        chain = Linearity(cloud.mainflow)
        yield from ((estimator, MAINFLOW, chain.estimate(estimator, "hidden")) for estimator in ESTIMATORS)
