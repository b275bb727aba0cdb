"""Cosine alignment: how far a modality's tokens point the same way as the text tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.jackknife import Outcome
from microscope_bench.metrics.core.means import centre
from microscope_bench.metrics.core.text_pair import Pair
from microscope_bench.metrics.gap import ALL_ZERO, zero_flags
from microscope_bench.metrics.record import EstimatorScore


class Cosines:
    """The cosines of a pair of clouds.

    Args:
        pair: without NaN and infinity.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        x, t = pair.cloud.directions, pair.text.directions
        examples, times = torch.unique(torch.cat([x.example[x.n > 0], t.example[t.n > 0]]), return_counts=True)
        shared = examples[times == 2]
        rows, text_rows = torch.searchsorted(x.example, shared), torch.searchsorted(t.example, shared)
        self.fold = x.fold[rows]
        self.within = (x.total[rows] * t.total[text_rows]).sum(1) / (x.n[rows] * t.n[text_rows])

    def all_pairs(self, left_out: int | None) -> Outcome:
        """Mean cosine over all pairs of a token and a text token: the product of the two mean unit vectors."""
        x, t = self.pair.cloud.directions.mean(left_out), self.pair.text.directions.mean(left_out)
        return ALL_ZERO if x is None or t is None else float(x @ t)

    def same_example(self, left_out: int | None) -> Outcome:
        """The same among the pairs of one example, averaged over the examples."""
        within = self.within[self.fold != (-1 if left_out is None else left_out)]
        return float(within.mean()) if len(within) else "no example has tokens of both modalities"

    def mean_vectors(self, left_out: int | None) -> Outcome:
        """Cosine of x̄ and t̄."""
        x, t = (centre(cloud.moments, left_out).mean for cloud in (self.pair.cloud, self.pair.text))
        norms = float(x.norm() * t.norm())
        return float(x @ t) / norms if norms > 0 else "the mean vector of one modality is zero"


ESTIMATORS: dict[str, Callable[[Cosines, int | None], Outcome]] = {
    "all_pairs": Cosines.all_pairs,
    "same_example": Cosines.same_example,
    "mean_vectors": Cosines.mean_vectors,
}


def estimate_cosines(pair: Pair, estimators: tuple[str, ...] = tuple(ESTIMATORS)) -> dict[str, Estimate]:
    """The estimate of each estimator; all of them known names."""
    if problem := pair.problem("cosine alignment"):
        return dict.fromkeys(estimators, problem)
    cosines = Cosines(pair)
    flags = dict.fromkeys(estimators, zero_flags(pair)) | {"mean_vectors": ()}
    if len(cosines.within) < pair.cloud.n_examples:
        flags["same_example"] = (*zero_flags(pair), f"shared_examples={len(cosines.within)}/{pair.cloud.n_examples}")
    outcomes = {name: partial(ESTIMATORS[name], cosines) for name in estimators}
    return {name: pair.estimate(outcome, *flags[name]) for name, outcome in outcomes.items()}


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """Every estimator; nothing for a cloud without text beside it."""
    if pair := Pair.of(cloud):
        for name, estimate in estimate_cosines(pair).items():
            yield name, None, estimate
