"""Public functions of one cloud's covariance: participation ratio, effective rank, IsoScore, CKA."""

from __future__ import annotations

from microscope_bench.metrics import kernel_alignment, spectrum
from microscope_bench.metrics.core.arrays import Array, Groups, cloud_of, known, matrix, required
from microscope_bench.metrics.core.estimate import Estimate

DISTINCT_TOKENS = "Give at least 2 tokens that differ"


def participation_ratio(x: Array, groups: Groups | None = None) -> Estimate:
    """Number of directions that carry the variance, each counted by its weight.

    (Σ λᵢ)² / Σ λᵢ² over the eigenvalues of the covariance (Gao et al. 2017, doi 10.1101/214262); between 1 (a line) and
    d (the same variance in all directions). Few large directions decide it: it is nearer to 1/anisotropy than to the
    rank. Fewer tokens read lower: an isotropic Gaussian of N tokens scores about d / (1 + d/N).

    Args:
        x: (N, d) states, torch or numpy, any real dtype, on any device. Computed in float64.
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.

    Returns:
        Value and delete-a-group jackknife standard error.

    Raises:
        ValueError: an array that is not (N, d) of real numbers, or groups of another length.
        MetricError: fewer than 2 tokens, tokens that are all the same, NaN or infinity.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(participation_ratio(cross).value, 6)
    1.219512
    """
    estimate = spectrum.estimate_participation_ratio(cloud_of(matrix("x", x), None, groups))
    return required("participation ratio", estimate, DISTINCT_TOKENS)


def effective_rank(x: Array, groups: Groups | None = None) -> Estimate:
    """Number of directions that carry the variance, by the entropy of their shares.

    exp(−Σ pᵢ log pᵢ), p = λ / Σ λ (Roy & Vetterli 2007, *The effective rank*, EUSIPCO: the
    effective rank of the covariance matrix). Between 1 and d, never below the participation ratio, and more sensitive
    than that to many small directions. Fewer tokens read lower.

    Args:
        x: (N, d) states, torch or numpy, any real dtype, on any device. Computed in float64.
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.

    Returns:
        Value and delete-a-group jackknife standard error.

    Raises:
        ValueError: an array that is not (N, d) of real numbers, or groups of another length.
        MetricError: fewer than 2 tokens, tokens that are all the same, NaN or infinity.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(effective_rank(cross).value, 6)
    1.384145
    """
    estimate = spectrum.estimate_effective_rank(cloud_of(matrix("x", x), None, groups))
    return required("effective rank", estimate, DISTINCT_TOKENS)


def isoscore(x: Array, groups: Groups | None = None) -> Estimate:
    """How evenly the variance spreads over all d directions.

    IsoScore (Rudman et al. 2022, arXiv 2108.07344): with λ̂ = √d λ/‖λ‖ and δ = ‖λ̂ − 1‖ / √(2(d − √d)), it is
    ((d − δ²(d − √d))² − d) / (d(d − 1)). That comes to (participation ratio − 1) / (d − 1), so it says the same as the
    participation ratio on a scale from 0 (a line) to 1 (the same variance in all directions). Fewer tokens read lower.

    Args:
        x: (N, d) states, d at least 2, torch or numpy, any real dtype, on any device. Computed in float64.
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.

    Returns:
        Value and delete-a-group jackknife standard error.

    Raises:
        ValueError: an array that is not (N, d) of real numbers, or groups of another length.
        MetricError: d = 1, fewer than 2 tokens, tokens that are all the same, NaN or infinity.

    >>> import numpy as np
    >>> cross = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # eigenvalues 18 and 2
    >>> round(isoscore(cross).value, 6)
    0.219512
    """
    estimate = spectrum.estimate_isoscore(cloud_of(matrix("x", x), None, groups))
    return required("IsoScore", estimate, f"{DISTINCT_TOKENS}, of at least 2 dimensions")


def cka(x: Array, y: Array, estimator: str = "debiased", groups: Groups | None = None) -> Estimate:
    """How much of the pairwise similarity of tokens at one boundary is there again at the next: linear CKA.

    With X, Y centred by column and C_xy = XᵀY:

    - ``linear``: ‖C_xy‖²_F / (‖C_xx‖_F ‖C_yy‖_F) (Kornblith et al. 2019, arXiv 1905.00414); between 0 and 1. Biased
      upwards: unrelated clouds score not 0 but tr C_xx tr C_yy / ((N − 1) ‖C_xx‖ ‖C_yy‖), the mean over all
      permutations of the rows of Y, which is near 1 for wide isotropic clouds of few tokens. Flag ``chance=`` gives it.
    - ``debiased``: the same ratio of unbiased estimates of HSIC, in which no token is compared with itself (Song et al.
      2012, JMLR 13; Murphy et al. 2024, arXiv 2405.01012). Unrelated clouds score 0 on average, so it may be
      negative. The ratio of unbiased estimates is not quite unbiased itself, and tokens of one example are still
      compared with each other as if they were unrelated: where an example's tokens are alike at both boundaries, it
      reads high.

    Rotations and scales of either cloud change nothing. Wide directions count by the square of their variance, so a
    handful of massive activations decides either: it takes ``linear`` to 1, and ``debiased`` to whatever those few
    tokens have in common with each other.

    Args:
        x: (N, d) states at boundary l, torch or numpy, any real dtype, on any device. Computed in float64.
        y: (N, d) the same tokens at boundary l + 1.
        estimator: ``linear`` or ``debiased``.
        groups: (N,) the example each token belongs to, integers or strings; None: each token is its own example.

    Returns:
        Value and delete-a-group jackknife standard error.

    Raises:
        ValueError: shapes that do not fit, or an array that is not of real numbers.
        UnknownNameError: an unknown estimator.
        MetricError: fewer than 2 tokens (``debiased``: 4), tokens that are all the same, NaN or infinity.

    >>> import torch
    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> round(cka(x, 2 * x.roll(1, dims=1) + 3).value, 6)  # another basis, scale and origin
    1.0
    >>> other = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    >>> score = cka(x, other, "linear")
    >>> round(score.value, 2), score.flags
    (0.11, ('chance=0.1356',))
    """
    known("CKA estimator", estimator, kernel_alignment.ESTIMATORS)
    before, after = matrix("x", x), matrix("y", y)
    if before.shape != after.shape:
        raise ValueError(
            f"x and y are the same tokens at two boundaries and need one shape, got {tuple(before.shape)} and "
            f"{tuple(after.shape)}"
        )
    cloud = cloud_of(before, after.to(before.device), groups)
    estimate = kernel_alignment.estimate_cka(cloud, (estimator,))[estimator]
    return required("CKA", estimate, "Give more tokens that differ, at both boundaries")
