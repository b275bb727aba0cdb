"""What the estimators of linearity need of the fits that leave folds out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from microscope_bench.metrics.core.cached import cached_property
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.fold_moments import FoldMoments
from microscope_bench.metrics.core.left_out import SCORED, LeftOut
from microscope_bench.metrics.core.linear_solve import LinearFit, numerical_rank
from microscope_bench.metrics.core.moments import ROUNDING, Moments

STREAMS = ("hidden", "update")


@dataclass(frozen=True)
class FitSummary:
    """What the estimators need of one fit of n rows; numbers only, so that no matrix outlives its fold.

    Attributes:
        rss: residual sum of squares, the same for both streams; 0.0 where the fit is saturated.
        tss: stream → total sum of squares.
        left_out: what :meth:`LeftOut.sums` gives of the fold that was left out; None for the fit on all rows.
    """

    n: int
    rank: int
    rss: float
    tss: dict[str, float]
    left_out: Tensor | None = None

    @classmethod
    def of(cls, moments: Moments, k: int | None = None, folds: Sequence[Moments] = ()) -> FitSummary:
        """Fits the rows of ``moments``, those without fold k of ``folds``, and evaluates the map on it, unless it has
        no more rows than columns: such a map is mostly saturated, says nothing about other rows, and what is asked of
        it is its rank.
        """
        tss = {"hidden": float(moments.yy), "update": float(moments.rr)}
        if moments.n <= moments.dim and moments.n - 1 <= (rank := numerical_rank(moments)):
            return cls(moments.n, rank, 0.0, tss)
        fit = LinearFit(moments)
        return cls(moments.n, fit.rank, fit.residual, tss, None if k is None else LeftOut(fit, k, folds).sums())

    @property
    def saturated(self) -> bool:
        """Whether there are as many free directions as rows, so that any target is met exactly."""
        return self.n - 1 <= self.rank

    def outcome(self, estimator: str, stream: str) -> float:
        """``in_sample``, ``in_sample_permuted`` or ``adjusted`` of these rows, for a target that is not constant."""
        if self.saturated:
            raise NoValue(f"{self.n} tokens leave no degree of freedom beside a map of rank {self.rank}")
        if estimator == "in_sample_permuted":
            return self.rank / (self.n - 1)
        unexplained = self.rss / self.tss[stream]
        if estimator == "in_sample":
            return 1.0 - unexplained
        return 1.0 - unexplained * (self.n - 1) / (self.n - self.rank - 1)


def total_squares(parts: Sequence[Moments]) -> dict[str, float]:
    """Stream → total sum of squares of the rows of all parts together, 0.0 where it is nothing but rounding."""
    parts = [part for part in parts if part.n]
    if not parts:
        return dict.fromkeys(STREAMS, 0.0)
    n = torch.tensor([part.n for part in parts], dtype=torch.float64, device=parts[0].mean_x.device)
    x, r = torch.stack([part.mean_x for part in parts]), torch.stack([part.mean_r for part in parts])
    mean_x, mean_r = (m[0] + n @ (m - m[0]) / n.sum() for m in (x, r))
    within = [(part.c_xx.diagonal().sum().to(n.device), part.rr, part.yy) for part in parts]
    xx, rr, yy = torch.stack([torch.stack(sums) for sums in within]).sum(0)
    x, r = x - mean_x, r - mean_r
    xx, rr, yy = (total + n @ s.square().sum(1) for total, s in ((xx, x), (rr, r), (yy, x + r)))
    size = n.sum() * (mean_x.square().sum() + (mean_x + mean_r).square().sum()) + xx + yy
    hidden, update, rounding = torch.stack([yy, rr, ROUNDING**2 * size]).tolist()
    return {name: 0.0 if found <= rounding else found for name, found in (("hidden", hidden), ("update", update))}


class LinearFolds:
    """The fits that the estimators of linearity share, each done when it is first asked for."""

    def __init__(self, folds: FoldMoments) -> None:
        self.folds = folds
        self.dim = folds.folds[0].dim

    @cached_property
    def fit(self) -> FitSummary:
        return FitSummary.of(self.folds.total())

    @cached_property
    def replicates(self) -> dict[int, FitSummary]:
        """Fold → the fit without it, evaluated on it; needs two folds that hold rows."""
        fits = {k: FitSummary.of(rest, k, self.folds.folds) for k, rest in self.folds.each_left_out()}
        return {k: fits[k] for k in self.folds.occupied}

    @cached_property
    def tss(self) -> dict[int | None, dict[str, float]]:
        """Total sums of squares of each stream, of all rows under None and without each fold under its number."""
        folds = self.folds.folds
        left_out: list[int | None] = [None, *self.folds.occupied]
        return {k: total_squares([fold for j, fold in enumerate(folds) if j != k]) for k in left_out}

    def left_out(self, scored: str, without: int | None) -> tuple[float, float, float]:
        """Covariance of prediction and target, residual and total sum of squares, over the folds left out of each map.

        Of a stream or ``permuted``; ``without`` is a fold that is left out of all maps and of the sums.
        """
        sizes = sorted(self.folds.folds[k].n for k in self.folds.occupied)
        if without is not None and not (len(sizes) > 2 and sum(sizes[:-2]) > self.dim):
            raise NoValue("two folds leave too few tokens to fit on")
        of_folds = [fit.left_out for k, fit in self.replicates.items() if k != without]
        which = SCORED.index(scored), slice(None), 0 if without is None else without + 1
        covariance, rss, tss = torch.stack([one[which] for one in of_folds if one is not None]).sum(0).tolist()
        return covariance, rss, tss
