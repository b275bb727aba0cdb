"""Least squares from moments: the one solve behind linearity.

The Gram matrix squares the condition number, so what it can and cannot tell apart is decided here, once: columns are
scaled to unit variance (else one massive dimension hides all others), constant columns are dropped, and directions
below ``RANK_CUTOFF`` are rounding noise and are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microscope_bench.metrics.core.axes import RANK_CUTOFF, top_axis
from microscope_bench.metrics.core.cached import cached_property
from microscope_bench.metrics.core.moments import ROUNDING, Moments


def scaled_gram(moments: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """The Gram matrix of columns scaled to unit variance, or 0 if constant; their scales (d, 1); which are constant."""
    variance = moments.c_xx.diagonal()
    constant = variance <= moments.n * (ROUNDING * moments.mean_x).square()
    scale = variance.rsqrt().masked_fill(constant, 0.0)[:, None]
    return (scale * moments.c_xx).mul_(scale.T), scale, constant


def numerical_rank(moments: Moments) -> int:
    """How many eigenvalues of the scaled Gram matrix S are above the cutoff τ: the rank that linearity solves with.

    By Sylvester's law of inertia it is the number of positive eigenvalues of D in S − τI = L D Lᵀ, a factorisation that
    takes a twentieth of the time of all eigenvalues and their vectors. A 2 × 2 block of D has one positive and one
    negative eigenvalue (Bunch & Kaufman 1977, doi 10.1090/S0025-5718-1977-0428694-0).
    """
    gram, _, constant = scaled_gram(moments)
    if bool(constant.all()):
        return 0
    gram.diagonal().sub_(RANK_CUTOFF * top_axis(gram)[0])
    factor, pivots, _ = torch.linalg.ldl_factor_ex(gram, hermitian=True)
    single = (factor.diagonal() > 0) & (pivots > 0)
    return int(single.sum() + (pivots < 0).sum() // 2)


class Whitening:
    """W with W C_xx Wᵀ = I on the directions that are not noise.

    With S = D^(−1/2) C_xx D^(−1/2) of unit diagonal: W = L⁻¹ D^(−1/2) where S = L Lᵀ is safely of full rank, else
    Λ^(−1/2) Vᵀ D^(−1/2) over the eigenvalues above the cutoff. 1/tr S⁻¹ bounds the smallest eigenvalue of S from below
    and ‖S‖_F the largest from above, so the first way is taken only where the second would cut nothing. ``inverse``,
    float64 (d, d), is WᵀW, the inverse of C_xx; rows and columns of constant columns of X are 0.
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
    """The least-squares map from x to r = y − x, and so from x to y, of at least one row."""

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
        """A, float64 (d, d): x to r."""
        return self.whitening.apply_transposed(self._explained).contiguous()  # as it is multiplied with

    @cached_property
    def to_next(self) -> Tensor:
        """The map from x to y of least norm, float64 (d, d), which predicts nothing outside the fitted span."""
        return self.to_update + self.whitening.inverse @ self.moments.c_xx
