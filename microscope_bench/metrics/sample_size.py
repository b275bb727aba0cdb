"""Intrinsic dimension as a function of the number of tokens it is estimated on."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.distances import NeighbourDistances, scores_of_each
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.neighbours import nearest_neighbours
from microscope_bench.metrics.record import EstimatorScore
from microscope_bench.metrics.two_nn import twonn_discard10

SIZES = {f"n{n}": n for n in (256, 512, 1024, 2048, 4096, 8192)}
"""Estimator → n."""


def estimate_on(cloud: Cloud, n: int) -> Estimate:
    """``twonn_discard10`` of the first n distinct rows of a cloud without NaN and infinity.

    The cost of a search grows with n², so a sweep over doubling n costs at most 4/3 of its largest search.
    """
    sample = cloud.distinct.first(n)
    found = sample.x.shape[0]

    def search() -> Tensor:
        already_searched = cloud.matched.x.shape[0] == n  # the matched rows are the first ones too
        return cloud.neighbours[0] if already_searched else nearest_neighbours(sample.x, 2)[0]

    tokens = NeighbourDistances(sample, search)
    if found < n:
        return Estimate(None, None, found, sample.n_examples, reason=f"the cloud has {found} distinct tokens, not {n}")
    return tokens.estimate(twonn_discard10)


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """One estimator per number of tokens."""
    return scores_of_each(cloud, SIZES, lambda name: estimate_on(cloud, SIZES[name]))
