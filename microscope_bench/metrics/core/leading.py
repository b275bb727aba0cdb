"""The fits of linearity on the leading principal axes of the states: as few dimensions in every model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microscope_bench.metrics.core.axes import FULL_SPECTRUM_UP_TO, RANK_CUTOFF, leading_axes
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
        axes = self._axes()
        squares = self._squares_along(axes)
        found = {}
        for k, seen in _seen(self.folds.folds, axes).items():
            seen[k].rr += squares[k]
            seen[k].yy += squares[k]
            rest = Moments.merged([fold for j, fold in enumerate(seen) if j != k])
            found[k] = FitSummary.of(rest, k, seen)
        return found

    def _axes(self) -> dict[int, Tensor]:
        """Fold → the first principal axes of x without it, as columns, but those along which there is only rounding."""
        out = {}
        if self.cloud.dim <= FULL_SPECTRUM_UP_TO:  # what spectra are of, too
            found = ((k, self.cloud.spectra[k]) for k in self.folds.occupied)
            both = ((k, None if one is None else (one.values[: self.dim], one.axes[: self.dim].T)) for k, one in found)
        else:
            wide = self.folds.x_only().each_left_out()
            both = ((k, leading_axes(rest.c_xx, self.dim) if rest.has_variance else None) for k, rest in wide)
        for k, pair in both:
            if pair is None:
                raise NoValue("the states have no variance, and so no leading axes")
            out[k] = pair[1][:, pair[0] > RANK_CUTOFF * pair[0][0]]
        return out

    def _squares_along(self, axes: dict[int, Tensor]) -> dict[int, Tensor]:
        """Fold → Σ ‖r − r̄‖² of its rows along its axes, which the moments do not tell: the rows are read once more."""
        squares = {k: self.folds.folds[k].rr * 0 for k in axes}
        for chunk in self.cloud.chunks():
            assert chunk.y is not None
            r = chunk.y.double() - chunk.x.double()
            for k, of_fold in axes.items():
                squares[k] += ((r[chunk.fold == k] - self.folds.folds[k].mean_r) @ of_fold).square().sum()
        return squares


def _seen(folds: Sequence[Moments], axes: dict[int, Tensor]) -> dict[int, list[Moments]]:
    """Fold → what is seen of every fold along its axes; Σ ‖r − r̄‖², which the moments do not tell, is left at 0."""
    dim, most = len(next(iter(axes.values()))), max(one.shape[1] for one in axes.values())
    padded = torch.stack([torch.nn.functional.pad(one, (0, most - one.shape[1])) for one in axes.values()])
    side_by_side = padded.transpose(0, 1).reshape(dim, -1)
    seen: dict[int, list[Moments]] = {k: [] for k in axes}
    for fold in folds:
        # one product with the axes of all folds
        products = [(matrix @ side_by_side).view(dim, -1, most).transpose(0, 1) for matrix in fold.matrices()]
        squares = [torch.bmm(padded.mT, product) for product in products]
        for number, (k, of_fold) in enumerate(axes.items()):
            rank = of_fold.shape[1]
            c_xx, c_xr = (square[number, :rank, :rank] for square in squares)
            yy = (c_xx + 2 * c_xr).diagonal().sum()
            means = fold.mean_x @ of_fold, fold.mean_r @ of_fold
            seen[k].append(Moments(fold.n, *means, c_xx, c_xr, fold.rr * 0, yy))
    return seen
