"""The fits of linearity on the leading principal axes of the states: as few dimensions in every model."""

from __future__ import annotations

from torch import Tensor

from microscope_bench.metrics.core.axes import RANK_CUTOFF, leading_axes
from microscope_bench.metrics.core.cached import cached_property
from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.linear_folds import FitSummary, LinearFolds
from microscope_bench.metrics.core.moments import Moments


class LeadingFolds(LinearFolds):
    """The fits of x and y as they are seen on the first ``dim`` principal axes of the x that each is fitted on.

    A fold must not choose the axes on which it is looked at: along axes that it has helped to find, its own x spreads
    further than that of other examples, and more of its y would be explained. So each fold has axes of its own.
    """

    def __init__(self, cloud: Cloud, dim: int) -> None:
        super().__init__(cloud.moments)
        self.cloud, self.dim = cloud, dim

    @cached_property
    def replicates(self) -> dict[int, FitSummary]:
        """Fold → the fit without it, evaluated on it; needs two folds that hold rows."""
        folds = self.folds.folds
        axes = {k: axes_of(rest, self.dim) for k, rest in self.folds.x_only().each_left_out()}
        squares = self._squares_along(axes)
        found = {}
        for k in self.folds.occupied:
            seen = [_seen(fold, axes[k], squares[k] if j == k else folds[0].rr * 0) for j, fold in enumerate(folds)]
            rest = Moments.merged([fold for j, fold in enumerate(seen) if j != k])
            found[k] = FitSummary.of(rest, k, seen)
        return found

    def _squares_along(self, axes: dict[int, Tensor]) -> dict[int, Tensor]:
        """Fold → Σ ‖r − r̄‖² of its rows along its axes, which the moments do not tell: the rows are read once more."""
        squares = {k: self.folds.folds[k].rr * 0 for k in axes}
        for chunk in self.cloud.chunks():
            assert chunk.y is not None
            for k, of_fold in axes.items():
                rows = chunk.fold == k
                r = chunk.y[rows].double() - chunk.x[rows].double()
                squares[k] += ((r - self.folds.folds[k].mean_r) @ of_fold).square().sum()
        return squares


def _seen(fold: Moments, axes: Tensor, rr: Tensor) -> Moments:
    """The moments of the rows' coordinates along some axes, of which Σ ‖r − r̄‖² is given."""
    c_xx, c_xr = (axes.T @ (matrix @ axes) for matrix in fold.matrices())
    yy = rr + (c_xx + 2 * c_xr).diagonal().sum()
    return Moments(fold.n, fold.mean_x @ axes, fold.mean_r @ axes, c_xx, c_xr, rr, yy)


def axes_of(moments: Moments, n: int) -> Tensor:
    """The first n principal axes as columns, but those along which there is only rounding."""
    if not moments.has_variance:
        raise NoValue("the states have no variance, and so no leading axes")
    values, axes = leading_axes(moments.c_xx, n)
    return axes[:, values > RANK_CUTOFF * values[0]]
