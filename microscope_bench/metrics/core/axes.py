"""The principal axes of a cloud: one eigendecomposition for all rows, one without each fold, shared by the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from microscope_bench.metrics.core.fold_moments import FoldMoments
from microscope_bench.metrics.core.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

AXES_KEPT = 64

FULL_SPECTRUM_UP_TO = 768
"""Width up to which computing all eigenvalues takes no longer than the largest 64."""

RANK_CUTOFF = 3e-13
"""Eigenvalues of a Gram matrix below this share of the largest one are taken for rounding noise.

float64 rounding of the Gram matrix leaves 1e-15, states rounded to float32 up to 2e-13, and a cloud of condition
number 1e6 has its smallest true eigenvalue at 1e-12 (measured for d = 64 to 1024 and columns of unit variance).
"""


@dataclass(frozen=True)
class Spectrum:
    """Principal axes of some rows.

    Attributes:
        values: float64 (d,), squared singular values of the centred rows, descending, none below 0.
        axes: float64 (min(d, 64), d), the unit directions of the largest of them, as rows.
    """

    values: Tensor
    axes: Tensor

    @property
    def rank(self) -> int:
        """Number of axes along which the rows spread by more than rounding."""
        return int((self.values > RANK_CUTOFF * self.values[0]).sum())


def spectrum_of(moments: Moments) -> Spectrum | None:
    if not moments.has_variance:
        return None
    values, axes = torch.linalg.eigh(moments.c_xx)
    return Spectrum(values.flip(0).clamp(min=0), axes[:, -AXES_KEPT:].T.flip(0).clone())


def spectra_of(folds: FoldMoments) -> dict[int | None, Spectrum | None]:
    """The principal axes of all rows, under None, and without each fold that holds rows, under its number."""
    out: dict[int | None, Spectrum | None] = {None: spectrum_of(folds.total())}
    if len(folds.occupied) > 1:
        out |= {k: spectrum_of(rest) for k, rest in folds.each_left_out()}
    elif len(folds.folds) > 1:
        out |= dict.fromkeys(folds.occupied)
    return out


def top_axis(gram: Tensor) -> tuple[float, Tensor]:
    """Largest eigenvalue of a positive semidefinite matrix, to about 1e-12 of itself, and its unit eigenvector."""
    values, axes = leading_axes(gram, 1)
    return float(values[0]), axes[:, 0]


def leading_axes(gram: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n largest eigenvalues of a positive semidefinite matrix, descending, and their unit eigenvectors as columns.

    A matrix that is wider than 768, and much wider than n, is multiplied with vectors only: where it is of 4,096
    columns, all its eigenvectors would take minutes.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    def product(vector: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = (gram @ torch.from_numpy(vector).to(gram).flatten()).cpu().numpy()
        return found

    if len(gram) > max(FULL_SPECTRUM_UP_TO, 4 * n):
        # seeded random, always the same: no cloud is orthogonal to it other than by intent
        start = torch.randn(len(gram), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
        operator = LinearOperator(tuple(gram.shape), matvec=product, dtype=start.dtype)
        try:
            values, axes = eigsh(operator, k=n, which="LA", v0=start)
            order = values.argsort()[::-1].copy()
            return torch.from_numpy(values[order]).to(gram), torch.from_numpy(axes[:, order]).to(gram)
        except ArpackError:  # not converged, or nothing but zeros
            pass
    every, vectors = torch.linalg.eigh(gram)
    return every[-n:].flip(0), vectors[:, -n:].flip(1)
