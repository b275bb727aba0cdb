"""The numerical rank of a cloud, without its eigenvectors."""

from __future__ import annotations

import torch

from microscope_bench.metrics.core.eigenvalues import top_eigenvalue
from microscope_bench.metrics.core.linear_solve import RANK_CUTOFF, scaled_gram
from microscope_bench.metrics.core.moments import Moments


def numerical_rank(moments: Moments) -> int:
    """How many eigenvalues of the scaled Gram matrix S are above the cutoff τ: the rank that linearity solves with.

    By Sylvester's law of inertia it is the number of positive eigenvalues of D in S − τI = L D Lᵀ, a factorisation that
    takes a twentieth of the time of all eigenvalues and their vectors. A 2 × 2 block of D has one positive and one
    negative eigenvalue (Bunch & Kaufman 1977, doi 10.1090/S0025-5718-1977-0428694-0).

    Args:
        moments: of at least one row.
    """
    gram, _, constant = scaled_gram(moments)
    if bool(constant.all()):
        return 0
    gram.diagonal().sub_(RANK_CUTOFF * top_eigenvalue(gram))
    factor, pivots, _ = torch.linalg.ldl_factor_ex(gram, hermitian=True)
    single = (factor.diagonal() > 0) & (pivots > 0)
    return int(single.sum() + (pivots < 0).sum() // 2)
