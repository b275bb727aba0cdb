"""What the estimators of intrinsic dimension have in common: neighbour distances in, an estimate with its error out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.cloud_rows import Sample
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.core.jackknife import jackknifed, non_finite
from microscope_bench.metrics.core.neighbours import nearest_neighbours, same_group
from microscope_bench.metrics.record import EstimatorScore


class NeighbourDistances:
    """Distances of distinct rows to their nearest neighbours, searched when first needed.

    ``search`` gives float64 (n, k), k ≥ 2, ascending, infinity where a row has not that many neighbours; it is called
    only where there are at least three rows. A sample of fewer than ``wanted`` rows is flagged
    ``unmatched_n=n/wanted``.
    """

    def __init__(self, sample: Sample, search: Callable[[], Tensor], wanted: int | None = None) -> None:
        self.sample, self.search, self.wanted = sample, search, wanted
        self.n = sample.x.shape[0]

    @classmethod
    def of(cls, cloud: Cloud) -> NeighbourDistances:
        """Of the matched rows of a cloud without NaN and infinity, as many neighbours as the cloud keeps."""
        return cls(cloud.matched, lambda: cloud.neighbours[0], cloud.matched_n)

    @classmethod
    def across_examples(cls, cloud: Cloud) -> NeighbourDistances:
        """The two nearest of each matched row among the rows of other examples.

        A row with copies in several examples belongs to none of them and may be anybody's neighbour. Rows whose two are
        not among the neighbours that the cloud keeps are searched for again.
        """
        sample = cloud.matched

        def search() -> Tensor:
            kept, rows = cloud.neighbours
            nearest = kept.masked_fill(same_group(sample.example[:, None], sample.example[rows]), torch.inf)
            nearest = nearest.sort(1).values[:, :2]
            short = torch.nonzero(nearest[:, 1].isinf()).flatten()
            nearest[short] = nearest_neighbours(sample.x, 2, short, exclude=sample.example)[0]
            return nearest

        return cls(sample, search, cloud.matched_n)

    @classmethod
    def of_first(cls, cloud: Cloud, n: int) -> NeighbourDistances:
        sample = cloud.distinct.first(n)

        def search() -> Tensor:
            already_searched = cloud.matched.x.shape[0] == n  # the matched rows are the first ones too
            return cloud.neighbours[0] if already_searched else nearest_neighbours(sample.x, 2)[0]

        return cls(sample, search)

    @cached_property
    def distances(self) -> Tensor:
        """float64 (n, k), in units of the mean norm of the centred rows."""
        return self.search() / self._mean_norm

    @cached_property
    def _mean_norm(self) -> float:
        x = self.sample.x
        return float((x - x.mean(0)).square().sum(1).sqrt().mean())

    @cached_property
    def problem(self) -> str | None:
        if self.n < 3:
            return f"neighbour distances need at least 3 tokens, got {self.n} distinct ones"
        if not self._mean_norm > 0:
            return "all tokens are the same"
        alone = int(self.distances[:, 1].isinf().sum())
        return f"{alone} of the {self.n} tokens have fewer than two neighbours in other examples" if alone else None

    @cached_property
    def flags(self) -> tuple[str, ...]:
        flags: tuple[str, ...] = ()
        if self.sample.duplicates > 0:
            flags = (f"duplicates={self.sample.duplicates:.4f}",)
        if self.wanted is not None and self.n < self.wanted:
            flags = (*flags, f"unmatched_n={self.n}/{self.wanted}")
        zero = 0 if self.problem else int((self.distances[:, 0] == 0).sum())
        return (*flags, f"zero_distance={zero / self.n:.4f}") if zero else flags

    def estimate(self, compute: Callable[[Tensor], float | None]) -> Estimate:
        """The estimate by a statistic of float64 (m, k) distances, which is None where too few rows have any.

        The standard error leaves out the ratios of one fold at a time but keeps every token's neighbours: searching
        the neighbours anew in a thinner cloud would measure the effect of its thinness as well.
        """
        if self.problem:
            return self.null(self.problem)
        sample, distances = self.sample, self.distances

        def outcome(without: int | None) -> float:
            value = compute(distances if without is None else distances[sample.fold != without])
            if value is None:
                raise NoValue(f"too few of the {self.n} tokens have two neighbours at different distances")
            return value

        return jackknifed(outcome, range(sample.n_folds), self.n, sample.n_examples, self.flags)

    def null(self, reason: str) -> Estimate:
        return Estimate(None, None, self.n, self.sample.n_examples, self.flags, reason)


def log_ratios(nearer: Tensor, farther: Tensor) -> Tensor:
    """Logarithms of farther/nearer, both float64 (n,), of the rows whose nearer distance is above 0."""
    apart = nearer > 0
    return (farther[apart] / nearer[apart]).log()


def scores_of_each(
    cloud: Cloud, estimators: Iterable[str], estimate: Callable[[str], Estimate]
) -> Iterator[EstimatorScore]:
    """What ``estimate`` gives for each estimator; no values for a cloud that holds NaN or infinity."""
    bad = cloud.moments.non_finite_x  # of all rows: the sample may have missed them
    for name in estimators:
        yield name, None, non_finite(bad, cloud.n_tokens, cloud.n_examples) if bad else estimate(name)
