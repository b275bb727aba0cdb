"""The principal axes of a cloud: one eigendecomposition for all rows, one without each fold, shared by the metrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from microscope_bench.metrics.core.fold_moments import FoldMoments
from microscope_bench.metrics.core.linear_solve import RANK_CUTOFF, ROUNDING
from microscope_bench.metrics.core.moments import Moments

AXES_KEPT = 10
"""Principal axes that are kept; all d of eleven decompositions would take more memory than the moments."""

FULL_SPECTRUM_UP_TO = 512
"""Width up to which all eigenvalues are computed where the largest alone is wanted; above it that takes longer."""

LANCZOS_STEPS = 400
LANCZOS_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Spectrum:
    """Principal axes of some rows.

    Attributes:
        values: float64 (d,), squared singular values of the centred rows, descending, none below 0.
        axes: float64 (min(d, 10), d), the unit directions of the largest of them, as rows.
    """

    values: Tensor
    axes: Tensor

    @property
    def rank(self) -> int:
        """Number of axes along which the rows spread by more than rounding."""
        return int((self.values > RANK_CUTOFF * self.values[0]).sum())


def spectrum_of(moments: Moments) -> Spectrum | None:
    """The principal axes; None where the rows have no variance."""
    if not has_variance(moments):
        return None
    values, axes = torch.linalg.eigh(moments.c_xx)
    return Spectrum(values.flip(0).clamp(min=0), axes[:, -AXES_KEPT:].T.flip(0).clone())


def spectra_of(folds: FoldMoments) -> dict[int | None, Spectrum | None]:
    """The principal axes of all rows, under None, and without each fold that holds rows, under its number."""
    out: dict[int | None, Spectrum | None] = {None: spectrum_of(folds.total())}
    if len(folds.folds) > 1:
        out |= {k: spectrum_of(folds.without(k)) for k in folds.occupied}
    return out


def has_variance(moments: Moments) -> bool:
    """Whether the rows spread by more than the rounding of their mean."""
    variance = float(moments.c_xx.diagonal().sum())
    return variance > moments.n * ROUNDING**2 * float(moments.mean_x.square().sum())


def top_axis(gram: Tensor) -> tuple[float, Tensor]:
    """Largest eigenvalue of a positive semidefinite matrix and its unit eigenvector.

    Args:
        gram: float64 (d, d), symmetric.
    """
    if gram.shape[0] <= FULL_SPECTRUM_UP_TO:
        values, vectors = torch.linalg.eigh(gram)
        return float(values[-1]), vectors[:, -1]
    from scipy.sparse.linalg import eigsh

    found, directions = eigsh(gram.cpu().numpy(), k=1, which="LA", v0=torch.ones(len(gram)).double().numpy())
    return float(found[0]), torch.from_numpy(directions[:, 0].copy()).to(gram)


def top_eigenvalue(gram: Tensor) -> float:
    """Largest eigenvalue of a positive semidefinite matrix, to about 1e-12 of itself.

    Args:
        gram: float64 (d, d), symmetric, on any device.
    """
    found = lanczos(gram)
    return float(torch.linalg.eigvalsh(gram)[-1]) if found is None else found


def lanczos(gram: Tensor) -> float | None:
    """Largest eigenvalue by Lanczos with full reorthogonalisation, or None if it has not converged.

    The start vector is seeded random, always the same: no cloud is orthogonal to it other than by intent. A Ritz value
    θ with residual ρ is off by at most ρ²/gap (Kato-Temple); the distance to the next Ritz value stands for the gap.
    """
    d = gram.shape[0]
    basis = torch.zeros(min(LANCZOS_STEPS, d) + 1, d, dtype=gram.dtype, device=gram.device)
    start = torch.randn(d, dtype=gram.dtype, generator=torch.Generator().manual_seed(0)).to(gram.device)
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(basis.shape[0] - 1):
        w = gram @ basis[step]
        diagonal.append(float(w @ basis[step]))
        known = basis[: step + 1]
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            w = w - known.T @ (known @ w)
        beside.append(float(w.norm()))
        exhausted = beside[-1] <= 0.1 * LANCZOS_TOLERANCE * max(diagonal)  # the basis spans all there is
        if step % 10 == 9 or exhausted:
            off = torch.tensor(beside[:-1], dtype=torch.float64).diag(1)
            values, vectors = torch.linalg.eigh(torch.tensor(diagonal, dtype=torch.float64).diag() + off + off.T)
            theta, residual = float(values[-1]), beside[-1] * abs(float(vectors[-1, -1]))
            gap = theta - float(values[-2]) if len(values) > 1 else theta
            if min(residual, residual**2 / gap if gap > 0 else residual) <= LANCZOS_TOLERANCE * theta:
                return theta
        if exhausted:
            return None
        basis[step + 1] = w / beside[-1]
    return None
