"""What the estimators of intrinsic dimension have in common: neighbour distances in, an estimate with its error out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.cloud_rows import Sample
from microscope_bench.metrics.core.duplicates import first_of_copies, rounded_to
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.core.jackknife import jackknifed, non_finite
from microscope_bench.metrics.core.neighbours import nearest_neighbours
from microscope_bench.metrics.record import EstimatorScore

FEW_DISTINCT = "few_distinct"

LEAP, LEAP_OF_HALF = 100.0, 10.0
"""Where r₂/r₁ leaps by this factor from one token to the next, those above are copies; in a half type less tells.

Rounding to float32 sets a copy some 10⁵ times nearer than other tokens, whatever map was applied since. Tokens of near
pictures (the same but for another JPEG encoding) had leaps of up to 24 in seven models on three tasks.
"""

FEWEST = 4
"""Tokens above such a leap: by the law that estimators rest on, a pair and another one, in 100^(−2d) of all clouds."""

AS_NEIGHBOURS = 0.5
"""How much of what a fold's tokens do as neighbours of the others a replicate leaves out.

Its own ratios it leaves out whole. With 0 the standard error misses that neighbours share a distance and reads 0.7 to
0.9 of the true spread; with 1 every ratio counts once for each of the tokens in it, and it reads 1.5 to 1.65.
"""


@dataclass(frozen=True)
class NeighbourDistances:
    """Distances of distinct rows to their nearest neighbours, with all rows there and without each fold.

    Attributes:
        distances: float64 (1 + n_folds, n, k), k ≥ 2, as :func:`nearest_neighbours` gives them, in units of the mean
            norm of the centred rows.
        fold: int64 (n,), the fold of each row; −1 for one that stays whichever fold leaves.
        n_draws: into how many draws the rows are divided, whose tokens are neighbours of each other only.
        n_examples: distinct examples among the rows looked at.
        folds: those that hold rows of the cloud.
        n_groups: groups in the draw that has the fewest; 0 where neighbours are not looked for across groups.
        flags: of every estimate.
        problem: why there is no estimate; None where there is one.
    """

    distances: Tensor
    fold: Tensor
    n_draws: int
    n_examples: int
    folds: tuple[int, ...]
    n_groups: int = 0
    flags: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def n(self) -> int:
        return len(self.fold)

    @property
    def n_apart(self) -> int:
        """Rows of one draw that have a neighbour at a distance above 0."""
        return int((self.distances[0, :, 0] > 0).sum()) // max(self.n_draws, 1)

    def estimate(self, compute: Callable[[Tensor], float | None]) -> Estimate:
        """The estimate by a statistic of float64 (m, k) distances, which is None where too few rows have any.

        The replicate without fold k leaves out the ratios of its tokens, and by half what these do as neighbours of the
        others: it is the mean of the statistic with each other token's neighbours as they are, and with their
        neighbours among the tokens that stay.
        """
        if self.problem:
            return self.null(self.problem)

        def outcome(without: int | None) -> float:
            if without is None:
                return valued(self.distances[0])
            stays = self.fold != without
            as_they_are, among_others = valued(self.distances[0, stays]), valued(self.distances[1 + without, stays])
            return as_they_are + AS_NEIGHBOURS * (among_others - as_they_are)

        def valued(distances: Tensor) -> float:
            value = compute(distances) if bool(distances[:, 1].isfinite().all()) else None
            if value is None:
                raise NoValue(f"too few of the {self.n} tokens have two neighbours at different distances")
            return value

        return jackknifed(outcome, self.folds, self.n, self.n_examples, self.flags)

    def null(self, reason: str) -> Estimate:
        return Estimate(None, None, self.n, self.n_examples, self.flags, reason)


def of_draws(cloud: Cloud) -> NeighbourDistances:
    """Of the draws of a cloud without NaN and infinity: the nearest tokens of each other group in the same draw."""
    sample, wanted = cloud.distinct, cloud.per_draw or 0
    if len(sample.x) < wanted:
        few = f"{FEW_DISTINCT}={len(sample.x)}/{wanted}"
        problem = (
            f"the cloud has {len(sample.x):,} distinct tokens and a draw takes {wanted:,}: measure more examples, or "
            "take smaller draws with --id_tokens"
        )
        return _none_of(sample, problem, (few,))
    sample = cloud.drawn
    n = len(sample.x)
    flags = (f"duplicates={sample.duplicates:.4f}",) * (sample.duplicates > 0)
    if n < 3:
        return _none_of(sample, f"neighbour distances need at least 3 tokens, got {n} distinct ones", flags)
    unit = float(torch.linalg.vector_norm(sample.x - sample.x.mean(0), dim=1).mean())
    if not unit > 0:
        return _none_of(sample, "all tokens are the same", flags)
    distances = cloud.neighbours / unit
    if alone := int(distances[0, :, 1].isinf().sum()):
        return _none_of(sample, f"{alone} of the {n} tokens have neighbours in fewer than two other groups", flags)
    draws = torch.split(sample.group, wanted or n)
    n_groups = min(len(torch.unique(draw[draw >= 0])) + int((draw < 0).sum()) for draw in draws)
    of = (cloud.n_draws, sample.n_examples, cloud.folds, n_groups, flags)
    half = rounded_to(sample.x, cloud.workspace.block_elements).itemsize == 2
    return _flagged(NeighbourDistances(distances, sample.fold, *of), LEAP_OF_HALF if half else LEAP)


def _none_of(sample: Sample, problem: str, flags: tuple[str, ...]) -> NeighbourDistances:
    none = sample.x.new_empty(1, len(sample.x), 0)
    return NeighbourDistances(none, sample.fold, 0, sample.n_examples, (), 0, flags, problem)


def within_examples(cloud: Cloud) -> NeighbourDistances:
    """Of all tokens that have two distinct others in their own example: the nearest two of these."""
    distances, folds, n_examples, n_rows = [], [], 0, 0
    for fold, rows in cloud.examples():
        first = first_of_copies(rows, block_elements=cloud.workspace.block_elements)
        x = rows[first == torch.arange(len(rows), device=rows.device)].double()
        unit = torch.linalg.vector_norm(x - x.mean(0), dim=1).mean()
        n_rows += len(rows)
        if len(x) < 3 or not float(unit) > 0:
            continue
        distances.append(nearest_neighbours(x, 2, block_elements=cloud.workspace.block_elements)[0] / unit)
        folds += len(x) * [fold]
        n_examples += 1
    if not distances:
        none = torch.empty(1, 0, 2)
        return NeighbourDistances(none, none[0, :, 0], 0, 0, (), problem="no example has three distinct tokens")
    of_all = torch.cat(distances)
    # all neighbours of a token leave with it
    together = of_all.expand(1 + cloud.n_folds, *of_all.shape)
    flags = (f"left_out={1 - len(folds) / n_rows:.4f}",) if len(folds) < n_rows else ()
    fold_of = torch.tensor(folds, device=of_all.device)
    return _flagged(NeighbourDistances(together, fold_of, 1, n_examples, tuple(sorted({*folds})), 0, flags))


def _flagged(found: NeighbourDistances, leap: float = LEAP) -> NeighbourDistances:
    zero = int((found.distances[0, :, 0] == 0).sum())
    near = near_copies(found.distances[0], leap)
    shares = {"zero_distance": zero, "near_copies": near}
    flags = (f"{name}={count / found.n:.4f}" for name, count in shares.items() if count)
    return replace(found, flags=(*found.flags, *flags))


def near_copies(distances: Tensor, leap: float) -> int:
    """How many rows have a first neighbour so much nearer than the second, by a ``leap``, that it must be a copy.

    ``distances`` are float64 (n, k), k ≥ 2, ascending, finite.
    """
    log_mu = log_ratios(distances[:, 0], distances[:, 1]).sort(descending=True).values
    leaps = (log_mu - torch.cat([log_mu[1:], log_mu.new_zeros(1)]))[FEWEST - 1 :]
    return FEWEST + int(leaps.argmax()) if len(leaps) and float(leaps.max()) >= math.log(leap) else 0


def log_ratios(nearer: Tensor, farther: Tensor) -> Tensor:
    """Logarithms of farther/nearer, both float64 (n,), of the rows whose nearer distance is above 0."""
    apart = nearer > 0
    return (farther[apart] / nearer[apart]).log()


def scores_of_each(
    cloud: Cloud,
    estimators: Iterable[str],
    distances_of: Callable[[Cloud], NeighbourDistances],
    estimate: Callable[[NeighbourDistances, str], Estimate],
) -> Iterator[EstimatorScore]:
    """What ``estimate`` gives for each estimator; no values for a cloud that holds NaN or infinity."""
    bad = cloud.moments.non_finite_x  # of all rows: a sample may have missed them
    tokens = None if bad else distances_of(cloud)
    for name in estimators:
        none = non_finite(bad, cloud.n_tokens, cloud.n_examples)
        yield name, None, none if tokens is None else estimate(tokens, name)
