"""Fréchet distances between a modality's tokens and the text tokens, of all examples and without each fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud_rows import Chunk, Sample
from microscope_bench.metrics.core.concentration import TopShare
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.fold_moments import FoldMoments, accumulate
from microscope_bench.metrics.core.jackknife import attempted
from microscope_bench.metrics.core.moments import ROUNDING, Moments
from microscope_bench.metrics.core.text_pair import TextPair

OUTLIER_STDS = 3.0
EPS = torch.finfo(torch.float64).eps
ROOT_TOLERANCE = 1e-9
"""Relative error of the trace of a matrix square root up to which the faster way is taken."""


def without_outliers(x: Tensor) -> Tensor:
    """The rows, those of unusual norm replaced by the coordinate-wise median of all rows.

    Unusual is a norm more than 3 standard deviations off the median norm. Medians are the lower of the two middle
    values where n is even, as in the authors' code. Norms that differ by no more than rounding are equal here.
    """
    norms = x.norm(dim=1)
    middle, spread = norms.median(), norms.std()
    outliers = (norms - middle).abs() > OUTLIER_STDS * spread
    if spread <= ROUNDING * middle or not outliers.any():
        return x
    return torch.where(outliers[:, None], x.median(0).values, x)


def trace_of_root(a: Tensor, b: Tensor) -> float:
    """Trace of (AB)^(1/2) for two positive semidefinite matrices: the sum of the singular values of A^(1/2) B^(1/2).

    With A = Fᵀ F and B = Gᵀ G they are the singular values of F Gᵀ. The square roots of the eigenvalues of F B Fᵀ are
    the same numbers several times faster, but rounding relative to the largest eigenvalue becomes its square root: so
    they are taken only where the sum of those errors provably does not matter.
    """
    factor = factor_of(a)
    product = torch.linalg.eigvalsh(factor @ b @ factor.T)
    if len(product) and float(product[0]) > 0:
        error = len(product) * EPS * product[-1] / (2 * product.sqrt())
        if float(error.sum()) <= ROOT_TOLERANCE * float(product.sqrt().sum()):
            return float(product.sqrt().sum())
    return float(torch.linalg.svdvals(factor @ factor_of(b).T).sum())


def factor_of(a: Tensor) -> Tensor:
    """F with A = Fᵀ F, a row for each direction that A extends in.

    By Cholesky, several times faster, where 1/tr A⁻¹, which bounds the smallest eigenvalue from below, shows that the
    way by eigenvalues would leave none out.
    """
    lower, failed = torch.linalg.cholesky_ex(a)
    if not bool(failed):
        inverse = torch.linalg.solve_triangular(lower, torch.eye(len(a)).to(a), upper=False)
        if float(1 / inverse.square().sum()) > len(a) * EPS * float(torch.linalg.matrix_norm(a)):
            factor: Tensor = lower.T
            return factor
    values, vectors = torch.linalg.eigh(a)
    kept = above_rounding(values)
    factor = values[kept].sqrt()[:, None] * vectors[:, kept].T
    return factor


def above_rounding(eigenvalues: Tensor) -> Tensor:
    """bool: the eigenvalues of a positive semidefinite matrix that are not rounding of 0."""
    if not len(eigenvalues):
        return eigenvalues > 0
    return eigenvalues > len(eigenvalues) * EPS * eigenvalues.max().clamp(min=0)


def trace_of_product(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum())


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "exact": trace_of_root,
    "mir_fast_compat": trace_of_product,
}


@dataclass(frozen=True)
class Distances:
    """The distances of one pair of clouds; numbers only, so that no matrix outlives its fold.

    Attributes:
        n_examples: distinct examples of the sample that is not text.
        folds: those that hold rows of either.
        of: left-out fold, None for none → estimator → distance; or the reason why there is none.
        concentration: the share of tr S_x + tr S_t that the 5 % of each cloud's tokens that lie furthest from its mean
            carry; None where it is 0.
    """

    n_tokens: int
    n_examples: int
    folds: list[int]
    concentration: float | None
    of: dict[int | None, dict[str, float] | NoValue]

    def outcome(self, estimator: str, left_out: int | None) -> float:
        found = self.of[left_out]
        if isinstance(found, NoValue):
            raise found
        return found[estimator]


def distances_of(pair: TextPair, estimators: Sequence[str]) -> Distances:
    """The distances of a pair of at least 2 finite tokens each."""
    x, t = (replace(sample, x=without_outliers(sample.x)) for sample in (pair.cloud.sampled, pair.text.sampled))
    moments_x, moments_t = fold_moments(x), fold_moments(t)
    lengths = pair.text.sampled.x.norm(dim=1)
    folds = sorted({*moments_x.occupied, *moments_t.occupied})
    of: dict[int | None, dict[str, float] | NoValue] = {}
    for k in (None, *(folds if len(folds) > 1 else ())):
        rest_x, rest_t = (m.total() if k is None else m.without(k) for m in (moments_x, moments_t))
        length = float((lengths if k is None else lengths[t.fold != k]).sum()) / max(rest_t.n, 1)
        of[k] = attempted(partial(distance, rest_x, rest_t, length, estimators))
    return Distances(len(x.x) + len(t.x), x.n_examples, folds, share_of_furthest(x.x, t.x), of)


def share_of_furthest(*clouds: Tensor) -> float | None:
    """The share of the sum of the clouds' variances that the 5 % of each that lie furthest from its mean carry."""
    variance = carried = 0.0
    for x in clouds:
        squares = (x - x.mean(0)).square().sum(1)
        parts = TopShare(len(x))
        parts.add(squares)
        of_cloud = float(squares.sum()) / (len(x) - 1)
        variance += of_cloud
        carried += (parts.share or 0.0) * of_cloud
    return carried / variance if variance > 0 else None


def fold_moments(sample: Sample) -> FoldMoments:
    chunk = Chunk(sample.x, None, sample.fold, sample.group)
    return accumulate([chunk], dim=sample.x.shape[1], n_folds=sample.n_folds, has_next=False)


def distance(x: Moments, t: Moments, length: float, estimators: Sequence[str]) -> dict[str, float]:
    """‖μ_x − μ_t‖² + tr S_x + tr S_t − 2 tr (S_x S_t)^(1/2) by each estimator, in units of ``length``."""
    if min(x.n, t.n) < 2:
        raise NoValue(f"a covariance needs at least 2 tokens of each modality, got {x.n} and {t.n} text tokens")
    if not length > 0:
        raise NoValue("all text tokens are zeros: there is no length to scale by")
    cov_x, cov_t = (m.c_xx / (length**2 * (m.n - 1)) for m in (x, t))
    spread = float(cov_x.diagonal().sum() + cov_t.diagonal().sum())
    between = float(((x.mean_x - t.mean_x) / length).square().sum())
    found = {name: between + spread - 2 * ESTIMATORS[name](cov_x, cov_t) for name in estimators}
    if "exact" in found:
        found["exact"] = max(found["exact"], 0.0)  # of equal clouds it is rounding
    return found
