"""Linearity: how well one linear map carries the states at boundary l to those at l + 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from microscope_bench.metrics import core
from microscope_bench.metrics.core.cached import cached_property
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.core.jackknife import attempted, jackknifed, non_finite
from microscope_bench.metrics.record import EstimatorScore, Headline, Metric, ToleranceByDtype

STREAMS = ("hidden", "update")
MAINFLOW = "mainflow"
LEADING = 64
"""Principal axes that estimator ``leading_64`` looks at."""

ESTIMATORS = (
    "cross_fitted",
    "leading_64",
    "in_sample",
    "adjusted",
    "held_out",
    "identity",
    "in_sample_permuted",
    "held_out_permuted",
)
FEW_EXAMPLES = 100
"""Examples below which, or fewer than dimensions, a value of folds is flagged ``few_examples``.

Where all examples have one map, any number will do. Where they differ in kind (topics with offsets of their own, maps
whose strength hangs on the length of the states), the best map of the examples at hand is not that of many:
``cross_fitted`` was off by 0.02 to 0.1 at half as many examples, either way, and by less than 0.05 from here on
(``benchmarks/linearity_truth.py``).
"""


def linearity(
    x: core.Array,
    y: core.Array,
    stream: str = "hidden",
    estimator: str = "cross_fitted",
    groups: core.Groups | None = None,
) -> Estimate:
    r"""How well one linear map carries the tokens at one boundary to the next.

    With X, Y centred by column and T = Y for stream ``hidden``, T = Y − X for ``update``:

    - ``cross_fitted``: Σ_k ⟨(X_k − x̄)A, T_k − t̄⟩ / Σ_k ‖T_k − t̄‖² over 10 folds of whole examples, A, x̄ and t̄ of the
      tokens without fold k. It estimates what the best map explains, however few tokens there are: the error of A is
      independent of fold k, and so is not in the covariance of prediction and target, as it is in the squares of a
      residual (as in cross-validated MANOVA, Allefeld & Haynes 2014, doi 10.1016/j.neuroimage.2013.11.043). Unrelated
      clouds score 0 on average. It may be negative, and above 1. It needs more than d tokens beside each fold.
    - ``held_out``: 1 − Σ_k ‖(X_k − x̄)A − (T_k − t̄)‖² / Σ_k ‖T_k − t̄‖² over the same folds: what a map fitted on this
      many tokens explains, less than the best one does. It may be negative.
    - ``leading_64``: ``cross_fitted`` of what is seen of X and Y on the first 64 principal axes of X, found without the
      fold, and so a share of T's variance along these (flag ``variance=``: what they hold of all its variance). It
      needs more than 64 tokens beside each fold, so that few examples of a wide model have it too, and looks at as
      many dimensions in every model. Its standard error takes the axes as given.
    - ``in_sample``: 1 − min_A ‖XA − T‖²_F / ‖T‖²_F, the multivariate R². Razzhigaev et al. 2024 (arXiv 2405.12250) call
      it Procrustes similarity. Unrelated clouds score r/(N − 1), r the rank of X, and any cloud scores 1 when N ≤ r + 1
      (flag ``saturated``).
    - ``adjusted``: 1 − (1 − in_sample)(N − 1)/(N − r − 1) (Ezekiel 1930, the adjusted R²). Right for
      independent tokens only; tokens of one example are not, and of them it says more than the best map explains.
    - ``identity``: 1 − ‖Y − X‖²_F / ‖Y‖²_F, what no map at all would score; a ValueError for stream ``update``.
    - ``in_sample_permuted``, ``held_out_permuted``: what chance scores, that is the mean of the same estimator over all
      N! re-pairings of the rows of T with those of X. No permutation is drawn: the mean of the one is r/(N − 1), that
      of the two sums of the other n_k(1 + 1/n) + Σ‖W(x − x̄)‖² and n_k(1 + 1/n) in units of T's variance, W whitening
      the n tokens fitted on. So both depend on X alone and are the same for every T and for both streams. Of
      ``cross_fitted`` that mean is 0.

    Values of folds carry the flags ``tokens/d=`` and ``examples/d=``, and ``few_examples`` with fewer than 100 examples
    or than d: there the best map of these examples may not be that of many. Their standard errors count what a fold
    changes of the maps fitted on it, to first order.

    Flag ``concentrated=share`` where the 5 % of the tokens with the largest ‖t − t̄‖² carry a share above half of ‖T‖²,
    and so decide the value; none on what chance scores.

    One solve serves both streams: columns are scaled to unit variance, constant ones dropped, directions at the level
    of rounding noise left out. Flag ``rank=r/d`` when r < d. ``x`` and ``y`` are (N, d).

    >>> import torch
    >>> x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    >>> score = linearity(x, 2 * x.roll(1, dims=1) + 3)
    >>> round(score.value, 6), score.n_tokens, score.flags
    (1.0, 500, ('tokens/d=62.5', 'examples/d=62.5'))
    """
    core.arrays.known("stream", stream, STREAMS)
    core.arrays.known("linearity estimator", estimator, ESTIMATORS)
    if (estimator, stream) == ("identity", "update"):
        raise ValueError(
            'estimator "identity" compares y with x itself and has no stream "update"; use stream="hidden"'
        )
    cloud = core.arrays.cloud_of(core.arrays.matrix("x", x), core.arrays.matrix("y", y), groups)
    estimate = Linearity(cloud).estimate(estimator, stream)
    remedy = "Give more tokens, from at least 2 examples, whose states differ"
    return core.arrays.required(f"{estimator} linearity", estimate, remedy)


def size_flags(cloud: core.Cloud, dim: int) -> tuple[str, ...]:
    """How many tokens and examples there are for each of ``dim`` dimensions, and a flag where examples are few."""
    few = ("few_examples",) if cloud.n_examples < max(FEW_EXAMPLES, dim) else ()
    return (f"tokens/d={cloud.n_tokens / dim:.3g}", f"examples/d={cloud.n_examples / dim:.3g}", *few)


class Linearity:
    """Every estimate of linearity of one cloud that has a next boundary; the solves are shared."""

    def __init__(self, cloud: core.Cloud) -> None:
        self.cloud = cloud
        self.folds = cloud.moments
        self.fits = core.linear_folds.LinearFolds(self.folds)

    @cached_property
    def leading(self) -> core.leading.LeadingFolds:
        return core.leading.LeadingFolds(self.cloud, LEADING)

    def estimate(self, estimator: str, stream: str) -> Estimate:
        """One estimate; ``estimator`` and ``stream`` are known names, and not ``identity`` of ``update``."""
        n = self.cloud.n_tokens
        if self.folds.non_finite:
            return non_finite(self.folds.non_finite, n, self.cloud.n_examples)
        if n < 2:
            return self._null(f"linearity needs at least 2 tokens, got {n}")
        of_folds = estimator in ("cross_fitted", "leading_64", "held_out", "held_out_permuted")
        found = attempted(partial(self._of_folds if of_folds else self._of_all_rows, estimator, stream))
        if isinstance(found, NoValue):
            return self._null(str(found))
        if estimator.endswith("_permuted"):  # those depend on X alone
            return found
        share = getattr(self.cloud.concentration, stream)
        return replace(found, flags=(*found.flags, *core.concentration.flags_of(share)))

    def _of_all_rows(self, estimator: str, stream: str) -> Estimate:
        fits, flags = self.fits, () if estimator == "identity" else self._fit_flags()
        if estimator in ("in_sample", "in_sample_permuted") and fits.fit.saturated and fits.tss[None][stream]:
            # 1 by construction, as it would be without any fold: a spread of 0 would say nothing about the states.
            return jackknifed(lambda _: 1.0, (), self.cloud.n_tokens, self.cloud.n_examples, flags)

        def outcome(left_out: int | None) -> float:
            tss = fits.tss[left_out]
            if tss[stream] == 0.0:
                raise _constant_target(stream)
            if estimator == "identity":
                return 1.0 - tss["update"] / tss["hidden"]
            return (fits.fit if left_out is None else fits.replicates[left_out]).outcome(estimator, stream)

        return self._jackknifed(outcome, flags)

    def _of_folds(self, estimator: str, stream: str) -> Estimate:
        fits = self.leading if estimator == "leading_64" and self.cloud.dim > LEADING else self.fits
        n, dim = self.cloud.n_tokens, fits.dim
        scored = core.left_out.PERMUTED if estimator == "held_out_permuted" else stream
        fold_sizes = [self.folds.folds[k].n for k in self.folds.occupied]
        if len(fold_sizes) < 2:
            return self._null(f"{estimator} linearity needs tokens of at least 2 examples")
        if n - max(fold_sizes) <= dim:
            of = "its number of axes, " if dim < self.cloud.dim else "d = "
            return self._null(f"a fold leaves {n - max(fold_sizes)} tokens to fit on; a map needs more than {of}{dim}")

        def outcome(left_out: int | None) -> float:
            covariance, rss, tss = fits.left_out(scored, left_out)
            if fits.tss[None][stream] == 0.0 or tss <= 0:
                raise _constant_target(stream)
            return covariance / tss if estimator in ("cross_fitted", "leading_64") else 1.0 - rss / tss

        flags = self._fit_flags()
        if fits is not self.fits and (whole := fits.tss[None][stream]):
            flags = (f"variance={fits.left_out(stream, None)[2] / whole:.4f}",)
        return self._jackknifed(outcome, (*flags, *size_flags(self.cloud, dim)))

    def _fit_flags(self) -> tuple[str, ...]:
        rank = (f"rank={self.fits.fit.rank}/{self.cloud.dim}",) if self.fits.fit.rank < self.cloud.dim else ()
        return (*rank, "saturated") if self.fits.fit.saturated else rank

    def _jackknifed(self, outcome: Callable[[int | None], float], flags: tuple[str, ...]) -> Estimate:
        return jackknifed(outcome, self.folds.occupied, self.cloud.n_tokens, self.cloud.n_examples, flags)

    def _null(self, reason: str) -> Estimate:
        return Estimate(None, None, self.cloud.n_tokens, self.cloud.n_examples, (), reason)


def _constant_target(stream: str) -> NoValue:
    what = "the next states" if stream == "hidden" else "the updates"
    return NoValue(f"{what} have no variance beyond the rounding of the states")


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
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


LINEARITY = Metric(
    name="linearity",
    version=1,
    title="linearity",
    explanation="share of the variance at the next boundary (or of the update) that one linear map explains",
    estimators=ESTIMATORS,
    streams=("hidden", "update", "mainflow"),
    scores=scores,
    headlines=(
        Headline(
            estimator="cross_fitted",
            stream="hidden",
            title="linearity (hidden)",
            explanation="share of the variance of the next layer's hidden states that the best linear map of this "
            "layer's explains (cross-fitted R²; 1 = linear)",
            extreme="min",
            in_report="Share of the next boundary's variance that the best linear map explains (cross-fitted R²; "
            "1 = linear). The skip connection alone makes it high.",
        ),
        Headline(
            estimator="cross_fitted",
            stream="update",
            title="linearity (update)",
            explanation="the same for what the block adds to the stream; lower by nature, since the skip connection is "
            "taken out",
            extreme="min",
            in_report="The same of what the block adds to the stream; lower by nature.",
        ),
    ),
    compares="next",
    unit="share of variance",
    high=1,  # of every R²; only a map that was fitted on what it is scored on cannot be worse than the mean
    estimator_ranges={
        "cross_fitted": (-math.inf, math.inf),
        "leading_64": (-math.inf, math.inf),
        "in_sample": (0, 1),
        "in_sample_permuted": (0, 1),
    },
    tolerance=ToleranceByDtype("0.0001", "0.001", "0.005"),
    cited_as="cross-fitted R² of the best linear map from a layer to the next, streams hidden and update",
    axis_floor=-1.0,  # a massive activation that one fold alone has can take linearity to minus thousands
    cautions={
        "few_examples": "fewer than 100 examples, or fewer than dimensions: linearity may be off by more than its "
        "standard error where the examples differ in kind",
        "concentrated": "5 % of the tokens carry more than half of the variance that the map is to explain",
    },
)
