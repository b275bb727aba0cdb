"""Least squares from moments: the one solve behind linearity.

The Gram matrix squares the condition number, so what it can and cannot tell apart is decided here, once: columns are
scaled to unit variance (else one massive dimension hides all others), constant columns are dropped, and directions
below :data:`RANK_CUTOFF` are rounding noise and are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microscope_bench.metrics.moments import Moments

RANK_CUTOFF = 3e-13
"""Eigenvalues of the scaled Gram matrix below this share of the largest one are taken for rounding noise.

Measured for d = 64 to 1024: float64 rounding of the Gram matrix itself leaves 1e-15, states rounded to float32 up to
2e-13 (where a column's mean is 30 of its standard deviations), and a cloud of condition number 1e6 has its smallest
true eigenvalue at 1e-12.
"""

ROUNDING = 64 * torch.finfo(torch.float64).eps
"""A spread below this share of the values' own size is the rounding of a constant."""


def whitening(moments: Moments) -> Tensor:
    """W with W C_xx Wᵀ = I on the directions that are not noise.

    With S = D^(−1/2) C_xx D^(−1/2) of unit diagonal: W = L⁻¹ D^(−1/2) where S = L Lᵀ is safely of full rank, else
    Λ^(−1/2) Vᵀ D^(−1/2) over the eigenvalues above the cutoff. 1/tr S⁻¹ bounds the smallest eigenvalue of S from below
    and ‖S‖_F the largest from above, so the first way is taken only where the second would cut nothing.

    Args:
        moments: of the rows the map is fitted on.

    Returns:
        float64 (r, d), r the numerical rank of X; columns of W that belong to constant columns of X are 0.
    """
    variance = moments.c_xx.diagonal()
    kept = variance > moments.n * (ROUNDING * moments.mean_x).square()
    scale = variance[kept].rsqrt()
    gram = scale[:, None] * moments.c_xx[kept][:, kept] * scale
    factor, failed = torch.linalg.cholesky_ex(gram)
    w = torch.linalg.solve_triangular(factor, torch.eye(len(scale)).to(factor), upper=False)
    if bool(failed) or not bool(1 / w.square().sum() > RANK_CUTOFF * torch.linalg.matrix_norm(gram)):
        values, vectors = torch.linalg.eigh(gram)
        signal = values > RANK_CUTOFF * values.max()
        w = values[signal].rsqrt()[:, None] * vectors[:, signal].T
    out = torch.zeros(w.shape[0], moments.dim, dtype=w.dtype, device=w.device)
    out[:, kept] = w * scale
    return out


class LinearFit:
    """The least-squares map from x to r = y − x, and so from x to y, of some rows.

    Args:
        moments: of the rows the map is fitted on; at least 1.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.whitening = whitening(moments)
        self.rank = self.whitening.shape[0]
        self._explained = self.whitening @ moments.c_xr  # of the update, in whitened coordinates: (r, d)

    @property
    def residual(self) -> float:
        """‖XA − T‖²_F on the rows it was fitted on, the same for T = Y − X and T = Y, since X lies in its own span."""
        return max(float(self.moments.rr - self._explained.square().sum()), 0.0)

    def on(self, rows: Moments) -> dict[str, tuple[float, float]]:
        """Residual and total sum of squares on other rows, both about the mean of the rows it was fitted on.

        Returns:
            stream → (‖(X − x̄)A − (T − t̄)‖²_F, ‖T − t̄‖²_F), with x̄ and t̄ of the fitted rows.
        """
        fitted = self.moments
        shift_x, shift_r = rows.mean_x - fitted.mean_x, rows.mean_r - fitted.mean_r
        update = self.whitening.T @ self._explained
        rss = residual_of(update, rows, rows.c_xr, rows.rr, shift_x, shift_r)
        tss = float(rows.rr + rows.n * shift_r.square().sum())
        out = {"update": (rss, tss)}
        shift_y = shift_x + shift_r
        if self.rank < rows.dim:
            # The minimum-norm map to Y predicts nothing outside the fitted span, while "x + its update" would.
            hidden = update + self.whitening.T @ (self.whitening @ fitted.c_xx)
            rss = residual_of(hidden, rows, rows.c_xx + rows.c_xr, rows.yy, shift_x, shift_y)
        out["hidden"] = rss, float(rows.yy + rows.n * shift_y.square().sum())
        return out


def residual_of(a: Tensor, rows: Moments, c_xt: Tensor, tt: Tensor, shift_x: Tensor, shift_t: Tensor) -> float:
    """‖(X − x̄)A − (T − t̄)‖²_F of rows whose means lie off the given x̄, t̄ by ``shift_x``, ``shift_t``."""
    about_own_mean = tt - 2 * (a * c_xt).sum() + (a * (rows.c_xx @ a)).sum()
    of_the_mean = rows.n * (shift_t - shift_x @ a).square().sum()
    return max(float(about_own_mean + of_the_mean), 0.0)


def is_constant(tss: Tensor, moments: Moments) -> bool:
    """Whether a target's total sum of squares is but the rounding of x and y."""
    size_x = moments.n * moments.mean_x.square().sum() + moments.c_xx.diagonal().sum()
    size_y = moments.n * (moments.mean_x + moments.mean_r).square().sum() + moments.yy
    return float(tss) <= ROUNDING**2 * float(size_x + size_y)
