"""The fits of linearity on the leading principal axes of the states: as few dimensions in every model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from torch import Tensor

from microscope_bench.metrics.core.axes import RANK_CUTOFF, leading_axes
from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.cloud_rows import Chunk
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.fold_moments import FoldMoments, accumulate, merge
from microscope_bench.metrics.core.jackknife import OUT_OF_RANGE
from microscope_bench.metrics.core.linear_folds import FitSummary, LinearFolds
from microscope_bench.metrics.core.moments import Moments


class LeadingFolds(LinearFolds):
    """The fits of x and y as they are seen on the first ``dim`` principal axes of the x that each is fitted on.

    A fold must not choose the axes on which it is looked at: along axes that it has helped to find, its own x spreads
    further than that of other examples, and more of its y would be explained. So each fold has axes of its own, and the
    rows are read once more, to be projected on all of them. Sums are in units of ``unit``, the spread of x, squared.
    """

    def __init__(self, cloud: Cloud, dim: int) -> None:
        super().__init__(cloud.moments)
        self.cloud, self.dim = cloud, dim
        centre = self.folds.centre()
        self.mean, self.unit = centre.mean, (centre.squares / max(centre.n, 1)) ** 0.5

    @cached_property
    def replicates(self) -> dict[int, FitSummary]:
        """Fold → the fit without it, evaluated on it; needs two folds that hold rows."""
        axes = {k: axes_of(rest, self.dim) for k, rest in self.folds.x_only().each_left_out()}
        found: dict[int, FoldMoments] = {}
        for chunk in self.cloud.chunks():
            for k, projected in self._projected(chunk, axes):
                one = accumulate([projected], axes[k].shape[1], self.cloud.n_folds, has_next=True)
                found[k] = merge(found[k], one) if k in found else one
        if any(one.non_finite for one in found.values()):
            raise NoValue(OUT_OF_RANGE)
        return {k: FitSummary.of(found[k].without(k), k, found[k].folds) for k in self.folds.occupied}

    def _projected(self, chunk: Chunk, axes: dict[int, Tensor]) -> Iterator[tuple[int, Chunk]]:
        assert chunk.y is not None
        x, y = (((states.double() - self.mean) / self.unit) for states in (chunk.x, chunk.y))
        for k, of_fold in axes.items():
            yield k, Chunk(x @ of_fold, y @ of_fold, chunk.fold, chunk.example)


def axes_of(moments: Moments, n: int) -> Tensor:
    """The first n principal axes as columns, but those along which there is only rounding."""
    if not moments.has_variance:
        raise NoValue("the states have no variance, and so no leading axes")
    values, axes = leading_axes(moments.c_xx, n)
    return axes[:, values > RANK_CUTOFF * values[0]]
