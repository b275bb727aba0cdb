"""Anisotropy: how much of a cloud's variance lies along its widest direction."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from microscope_bench.metrics.cloud import Cloud
from microscope_bench.metrics.estimate import Estimate
from microscope_bench.metrics.linear_solve import ROUNDING
from microscope_bench.metrics.moments import Moments
from microscope_bench.metrics.registry import EstimatorScore
from microscope_bench.metrics.resampling import jackknife_stderr

FULL_SPECTRUM_UP_TO = 512
"""Width up to which all eigenvalues are computed; above it Lanczos is faster."""

LANCZOS_STEPS = 400
LANCZOS_TOLERANCE = 1e-12


def top_eigenvalue(gram: Tensor) -> float:
    """Largest eigenvalue of a positive semidefinite matrix, to about 1e-12 of itself.

    Args:
        gram: float64 (d, d), symmetric, on any device.
    """
    if gram.shape[0] <= FULL_SPECTRUM_UP_TO:
        return float(torch.linalg.eigvalsh(gram)[-1])
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


def top_share(moments: Moments) -> float | None:
    """σ₁² / Σ σᵢ² of the centred rows; None where they have no variance."""
    variance = moments.c_xx.diagonal().sum()
    if float(variance) <= moments.n * ROUNDING**2 * float(moments.mean_x.square().sum()):
        return None
    return min(top_eigenvalue(moments.c_xx) / float(variance), 1.0)


def estimate_anisotropy(cloud: Cloud) -> Estimate:
    """Anisotropy with its jackknife standard error."""
    moments, n = cloud.moments.x_only(), cloud.n_tokens

    def null(reason: str, *flags: str) -> Estimate:
        return Estimate(None, None, n, cloud.n_examples, flags, reason)

    if moments.non_finite_x:
        return null(f"{moments.non_finite_x} of {n} tokens hold NaN or infinity", "non_finite")
    if n < 2:
        return null(f"anisotropy needs at least 2 tokens, got {n}")
    value = top_share(moments.total())
    if value is None:
        return null("the states have no variance: they are the same for every token")
    occupied = moments.occupied
    stderr, flags = jackknife_stderr([top_share(moments.without(k)) for k in occupied] if len(occupied) > 1 else [])
    return Estimate(value, stderr, n, cloud.n_examples, flags)


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """The one estimator of anisotropy."""
    yield "top_share", None, estimate_anisotropy(cloud)
