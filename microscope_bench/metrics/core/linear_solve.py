"""Least squares from moments: the one solve behind linearity.

The Gram matrix squares the condition number, so what it can and cannot tell apart is decided here, once: columns are
scaled to unit variance (else one massive dimension hides all others), constant columns are dropped, and directions
below :data:`RANK_CUTOFF` are rounding noise and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from microscope_bench.metrics.core.moments import Moments, add_gram

RANK_CUTOFF = 3e-13
"""Eigenvalues of the scaled Gram matrix below this share of the largest one are taken for rounding noise.

Measured for d = 64 to 1024: float64 rounding of the Gram matrix itself leaves 1e-15, states rounded to float32 up to
2e-13 (where a column's mean is 30 of its standard deviations), and a cloud of condition number 1e6 has its smallest
true eigenvalue at 1e-12.
"""

ROUNDING = 64 * torch.finfo(torch.float64).eps
"""A spread below this share of the values' own size is the rounding of a constant."""

PERMUTED = "permuted"
"""Stands where a stream does, for any target whose rows are re-paired with those of x at random."""


def scaled_gram(moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """The Gram matrix of columns scaled to unit variance; rows and columns of constant columns are 0.

    Returns:
        float64 (d, d); float64 (d, 1), the scale of each column, 0 for a constant one; bool (d,), which are constant.
    """
    variance = moments.c_xx.diagonal()
    constant = variance <= moments.n * (ROUNDING * moments.mean_x).square()
    scale = variance.rsqrt().masked_fill(constant, 0.0)[:, None]
    return (scale * moments.c_xx).mul_(scale.T), scale, constant


class Whitening:
    """W with W C_xx Wᵀ = I on the directions that are not noise.

    With S = D^(−1/2) C_xx D^(−1/2) of unit diagonal: W = L⁻¹ D^(−1/2) where S = L Lᵀ is safely of full rank, else
    Λ^(−1/2) Vᵀ D^(−1/2) over the eigenvalues above the cutoff. 1/tr S⁻¹ bounds the smallest eigenvalue of S from below
    and ‖S‖_F the largest from above, so the first way is taken only where the second would cut nothing.

    Args:
        moments: of the rows the map is fitted on.

    Attributes:
        rank: r, the numerical rank of X.
        inverse: float64 (d, d), WᵀW, the inverse of C_xx; rows and columns of constant columns of X are 0.
    """

    def __init__(self, moments: Moments) -> None:
        gram, self._scale, constant = scaled_gram(moments)
        # A one for each constant column leaves the others' factor as it is; its own rows are scaled to 0 in the end.
        gram.diagonal().masked_fill_(constant, 1.0)
        self._factor, failed = torch.linalg.cholesky_ex(gram)
        self._eigen: Tensor | None = None
        if not bool(failed):
            inverse = torch.cholesky_inverse(self._factor).mT  # symmetric, and so laid out row by row
            if bool(1 / inverse.trace() > RANK_CUTOFF * torch.linalg.matrix_norm(gram)):
                self.rank = int((~constant).sum())
                self.inverse = inverse.mul_(self._scale).mul_(self._scale.T)
                return
        gram.diagonal().masked_fill_(constant, 0.0)
        values, vectors = torch.linalg.eigh(gram)
        signal = values > RANK_CUTOFF * values.max()
        self._eigen = self._scale * vectors[:, signal] * values[signal].rsqrt()
        self.rank = self._eigen.shape[1]
        self.inverse = self._eigen @ self._eigen.T

    def apply(self, c: Tensor) -> Tensor:
        """W c, float64 (r or d, e); in a full-rank Cholesky factor the rows of constant columns are 0."""
        if self._eigen is not None:
            return self._eigen.T @ c
        # from the right, since a transposed row-major matrix is what LAPACK takes without a copy
        out: Tensor = torch.linalg.solve_triangular(self._factor.mT, (self._scale * c).mT, upper=True, left=False)
        return out.mT

    def apply_transposed(self, w: Tensor) -> Tensor:
        """Wᵀ w, float64 (d, e)."""
        if self._eigen is not None:
            return self._eigen @ w
        out: Tensor = torch.linalg.solve_triangular(self._factor.mT, w, upper=True).mul_(self._scale)
        return out


class LinearFit:
    """The least-squares map from x to r = y − x, and so from x to y, of some rows.

    Args:
        moments: of the rows the map is fitted on; at least 1.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.whitening = Whitening(moments)
        self.rank = self.whitening.rank
        self._explained = self.whitening.apply(moments.c_xr)  # of the update, in whitened coordinates

    @property
    def residual(self) -> float:
        """‖XA − T‖²_F on the rows it was fitted on, the same for T = Y − X and T = Y, since X lies in its own span."""
        return max(float(self.moments.rr - self._explained.square().sum()), 0.0)

    @cached_property
    def to_update(self) -> Tensor:
        """float64 (d, d): the map from x to r."""
        return self.whitening.apply_transposed(self._explained).contiguous()  # laid out as what it is multiplied with

    @cached_property
    def to_next(self) -> Tensor:
        """float64 (d, d): the map from x to y.

        The one of least norm predicts nothing outside the fitted span, while "x + its update" would.
        """
        return self.to_update + self.whitening.inverse @ self.moments.c_xx

    @cached_property
    def _update_products(self) -> Tensor:
        return products_of_rows(self.to_update)

    @cached_property
    def _next_products(self) -> Tensor:
        return products_of_rows(self.to_next)

    def on(self, rows: Moments) -> dict[str, tuple[float, float]]:
        """Residual and total sum of squares on other rows, both about the mean of the rows it was fitted on.

        Returns:
            stream → (‖(X − x̄)A − (T − t̄)‖²_F, ‖T − t̄‖²_F), with x̄ and t̄ of the fitted rows; and under
            :data:`PERMUTED` what :meth:`on_permuted` gives.
        """
        shift_x, shift_r = rows.mean_x - self.moments.mean_x, rows.mean_r - self.moments.mean_r
        shift_y = shift_x + shift_r
        c_xx, c_xr = rows.matrices()
        rss = residual_of(self.to_update, self._update_products, c_xx, c_xr, rows.rr, rows.n, shift_x, shift_r)
        tss = rows.rr + rows.n * shift_r.square().sum()
        found = {"update": (rss, tss)}
        if self.rank < rows.dim:
            c_xy = c_xx + c_xr
            rss = residual_of(self.to_next, self._next_products, c_xx, c_xy, rows.yy, rows.n, shift_x, shift_y)
        found["hidden"] = rss, rows.yy + rows.n * shift_y.square().sum()
        found[PERMUTED] = self.on_permuted(c_xx, rows.n, shift_x)
        numbers = torch.stack([one for pair in found.values() for one in pair]).tolist()
        return dict(zip(found, zip(numbers[::2], numbers[1::2], strict=True), strict=True))

    def on_permuted(self, c_xx: Tensor, n: int, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The same of any target re-paired at random, in units of its variance: the mean over all re-pairings.

        A map fitted on n rows predicts a target by fixed weights h on those rows, and Σh = 0, ‖h‖² = ‖W(x − x̄)‖².
        Under a random permutation of N rows the covariance of two rows of the target is −1/N of its variance, so that
        the squared error of one prediction is 1 + 1/n + ‖W(x − x̄)‖² on average, and the squared distance from the mean
        of the fitted rows 1 + 1/n. No permutation is drawn: this is what the mean over all N! of them is, exactly.

        Args:
            c_xx: float64 (d, d), of the rows it is evaluated on.
            n: how many they are.
            shift: float64 (d,), their mean less that of the fitted rows.
        """
        inverse = self.whitening.inverse
        leverage = (inverse * c_xx).sum() + n * (shift @ inverse @ shift)
        total = torch.full_like(leverage, n * (1 + 1 / self.moments.n))
        return total + leverage, total


def products_of_rows(a: Tensor) -> Tensor:
    """float64 (d, d): a aᵀ."""
    out = torch.zeros_like(a)
    add_gram(out, a.T)
    return out


def residual_of(
    a: Tensor, aa: Tensor, c_xx: Tensor, c_xt: Tensor, tt: Tensor, n: int, shift_x: Tensor, shift_t: Tensor
) -> Tensor:
    """‖(X − x̄)A − (T − t̄)‖²_F of n rows whose means lie off the given x̄, t̄ by ``shift_x``, ``shift_t``; aa = A Aᵀ."""
    about_own_mean = tt + (aa * c_xx).sum() - 2 * (a * c_xt).sum()
    of_the_mean = n * (shift_t - shift_x @ a).square().sum()
    return (about_own_mean + of_the_mean).clamp(min=0)


@dataclass(frozen=True)
class Spread:
    """How much some rows spread in all, at both boundaries; no matrices.

    Attributes:
        xx, rr, yy: Σ ‖x − x̄‖², Σ ‖r − r̄‖², Σ ‖y − ȳ‖².
        rounding: what is not more than the rounding of x and y.
    """

    xx: float
    rr: float
    yy: float
    rounding: float

    @classmethod
    def of(cls, parts: Sequence[Moments]) -> Spread:
        """Of the rows of all parts together, at least one of which holds some."""
        parts = [part for part in parts if part.n]
        n = torch.tensor([part.n for part in parts], dtype=torch.float64, device=parts[0].mean_x.device)
        x, r = torch.stack([part.mean_x for part in parts]), torch.stack([part.mean_r for part in parts])
        mean_x, mean_r = (m[0] + n @ (m - m[0]) / n.sum() for m in (x, r))
        within = [(part.c_xx.diagonal().sum().to(n.device), part.rr, part.yy) for part in parts]
        xx, rr, yy = torch.stack([torch.stack(sums) for sums in within]).sum(0)
        x, r = x - mean_x, r - mean_r
        xx, rr, yy = (total + n @ s.square().sum(1) for total, s in ((xx, x), (rr, r), (yy, x + r)))
        size = n.sum() * (mean_x.square().sum() + (mean_x + mean_r).square().sum()) + xx + yy
        return cls(*torch.stack([xx, rr, yy, ROUNDING**2 * size]).tolist())
