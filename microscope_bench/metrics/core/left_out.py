"""What a linear map makes of the fold that it was not fitted on, and would make of it had it lost another fold too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microscope_bench.metrics.core.linear_solve import LinearFit
from microscope_bench.metrics.core.moments import Moments, add_gram

PERMUTED = "permuted"
"""Stands where a stream does, for any target whose rows are re-paired with those of x at random."""

SCORED = ("hidden", "update", PERMUTED)


class LeftOut:
    """A fit of all rows but those of fold k, evaluated on fold k: the sums that linearity is a ratio of.

    They are taken for the map A fitted without fold k, and for the one fitted without fold j as well, for each j, to
    first order in fold j. With G = XᵀX and C = XᵀT of the rows fitted on, G_j and C_j of fold j, and n of the rows,
    the map without j is exactly A − (G − G_j)⁻¹ E, E = C_j − G_j A; (n / (n − n_j)) G⁻¹ stands for (G − G_j)⁻¹. A sum
    that changes with A by ⟨·, M⟩ then changes by ⟨E, G⁻¹ M⟩, O(d²) for each j, where a new fit would be O(d³). Between
    fresh data sets the values spread by what this gives, and by less than what the fits themselves would give.
    """

    def __init__(self, fit: LinearFit, k: int, folds: Sequence[Moments]) -> None:
        self.fit, self.k, self.folds = fit, k, folds
        self.rows, rest = folds[k], fit.moments
        self.c_xx, self.c_xr = self.rows.matrices()
        device = rest.mean_x.device
        n = torch.tensor([0, *(fold.n for fold in folds)], dtype=torch.float64, device=device)
        n[k + 1] = 0
        # of each j, and before them of none: its rows by those left without it, and its means about the fitted ones
        self.share = (n / (rest.n - n).clamp(min=1))[:, None]
        self.to_x = torch.stack([rest.mean_x, *(fold.mean_x for fold in folds)]) - rest.mean_x
        self.to_r = torch.stack([rest.mean_r, *(fold.mean_r for fold in folds)]) - rest.mean_r
        self.shift_x = self.rows.mean_x - rest.mean_x + self.share * self.to_x
        self.shift_r = self.rows.mean_r - rest.mean_r + self.share * self.to_r

    def sums(self) -> Tensor:
        """float64 (3, 3, K + 1), on the CPU: of each of :data:`SCORED` ⟨(X − x̄)A, T − t̄⟩, ‖(X − x̄)A − (T − t̄)‖²_F and
        ‖T − t̄‖²_F over fold k, x̄ and t̄ of the rows fitted on; with no other fold left out, and without each.
        """
        n, a = self.rows.n, self.fit.to_update
        predicted, shift_y = self.shift_x @ a, self.shift_x + self.shift_r
        square = torch.zeros_like(a)
        add_gram(square, a.T)
        covariance = (a * self.c_xr).sum()
        rss = self.rows.rr - 2 * covariance + (square * self.c_xx).sum()
        of_update = [
            covariance + n * (predicted * self.shift_r).sum(1),
            rss + n * (self.shift_r - predicted).square().sum(1),
            self.rows.rr + n * self.shift_r.square().sum(1),
        ]
        of_hidden = [*self._of_hidden(predicted, of_update[1]), self.rows.yy + n * shift_y.square().sum(1)]
        leverage = (self.fit.whitening.inverse * self.c_xx).sum().expand(len(self.folds) + 1)
        leverage = leverage + n * ((self.shift_x @ self.fit.whitening.inverse) * self.shift_x).sum(1)
        total = torch.full_like(leverage, n * (1 + 1 / self.fit.moments.n))
        found = torch.stack([torch.stack(one) for one in (of_hidden, of_update, [total * 0, total + leverage, total])])
        return (found + self._changes(square)).cpu()

    def _of_hidden(self, predicted: Tensor, rss: Tensor) -> list[Tensor]:
        """Covariance and residual of the map to y: at full rank it is A plus the identity, and its residual A's."""
        n, shift_x, c_xy = self.rows.n, self.shift_x, self.c_xx + self.c_xr
        shift_y = shift_x + self.shift_r
        if self.fit.rank == self.rows.dim:
            covariance = (self.fit.to_update * c_xy).sum() + c_xy.diagonal().sum()
            return [covariance + n * ((predicted + shift_x) * shift_y).sum(1), rss]
        to_next = self.fit.to_next
        square = torch.zeros_like(to_next)
        add_gram(square, to_next.T)
        covariance, predicted = (to_next * c_xy).sum(), shift_x @ to_next
        rss = self.rows.yy - 2 * covariance + (square * self.c_xx).sum()
        return [
            covariance + n * (predicted * shift_y).sum(1),
            rss + n * (shift_y - predicted).square().sum(1),
        ]

    def _changes(self, square: Tensor) -> Tensor:
        """What leaving each fold out of the map changes of the sums; A Aᵀ is given."""
        fit, a, inverse = self.fit, self.fit.to_update, self.fit.whitening.inverse
        shift_x, shift_r = self.rows.mean_x - fit.moments.mean_x, self.rows.mean_r - fit.moments.mean_r
        # each product where it stays: of wide states a second copy of them would take gigabytes
        by_c, by_g = a.new_empty(3, *a.shape), a.new_empty(4, *a.shape)
        of_x = torch.mm(inverse, torch.addr(self.c_xx, shift_x, shift_x, alpha=self.rows.n), out=by_c[0])
        of_r = torch.mm(inverse, torch.addr(self.c_xr, shift_x, shift_r, alpha=self.rows.n), out=by_c[1])
        torch.mm(of_x, a, out=by_c[2])
        for product, left, right in zip(by_g, (of_x, of_r, of_x, of_x), (a.T, a.T, square, inverse), strict=True):
            torch.mm(left, right, out=product)
        # for each j the products with E, whose means are those of fold j about the rows without it; then with G_j
        weight = fit.moments.n * self.share[:, 0]
        residual = self.to_r - self.to_x @ a
        products = torch.stack([*(((self.to_x @ m) * residual).sum(1) for m in by_c), torch.zeros_like(weight)])
        products[3] = ((self.to_x @ by_g[3]) * self.to_x).sum(1)
        products *= weight
        for j, fold in enumerate(self.folds):
            if fold.n and j != self.k:
                c_xx, c_xr = fold.matrices()
                products[:3, j + 1] += by_c.flatten(1) @ c_xr.flatten()
                of_g = by_g.flatten(1) @ c_xx.flatten()
                products[:3, j + 1] -= of_g[:3]
                products[3, j + 1] += of_g[3]
        of_x, of_r, of_fit, of_leverage = products * (1 + self.share[:, 0])
        nothing = torch.zeros_like(of_x)
        rss = 2 * (of_r - of_fit)
        hidden, update = [-of_r - of_x, rss, nothing], [-of_r, rss, nothing]
        return torch.stack([torch.stack(one) for one in (hidden, update, [nothing, of_leverage, nothing])])
