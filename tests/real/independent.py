"""The headline numbers again, in plain numpy, from the definitions in docs/protocol.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def anisotropy(x: Floats) -> float:
    """The first squared singular value of the centred rows, as a share of all."""
    squares = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    return float(squares[0] / squares.sum())


def cross_fitted_update(x: Floats, y: Floats, fold: Whole) -> float:
    """Covariance of what maps fitted without a fold predict of its update with the update, over the update's square."""
    target, covariance, square = y - x, 0.0, 0.0
    for k in np.unique(fold):
        inside, outside = fold == k, fold != k
        x_mean, t_mean = x[outside].mean(0), target[outside].mean(0)
        x_map = np.linalg.lstsq(x[outside] - x_mean, target[outside] - t_mean, rcond=None)[0]
        truth = target[inside] - t_mean
        covariance += float((((x[inside] - x_mean) @ x_map) * truth).sum())
        square += float((truth**2).sum())
    return covariance / square


def distinct_rows(x: Floats) -> NDArray[np.bool_]:
    """Rows that are no copy of an earlier one, but for rounding."""
    distance = pair_distances(x)
    scale = np.linalg.norm(x - x.mean(0), axis=1).mean()
    return ~np.tril(distance < 1e-5 * scale, -1).any(1)


def pair_distances(x: Floats) -> Floats:
    x = x - x.mean(0)
    squares = (x**2).sum(1)
    return np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * x @ x.T, 0))


def two_nn(x: Floats, group: Whole | None) -> float:
    """Slope of −log(1 − F) on log(r₂/r₁), lowest nine tenths; r₁ and r₂ lead to two groups other than the row's own.

    Without groups, to the two nearest rows.
    """
    group = np.arange(len(x)) if group is None else group
    distance = pair_distances(x)
    own = np.stack([group == g for g in np.unique(group)], 1)
    by_group = np.stack([distance[:, group == g].min(1) for g in np.unique(group)], 1)
    nearest = np.sort(np.where(own, np.inf, by_group), 1)
    log_mu = np.sort(np.log(nearest[:, 1] / nearest[:, 0]))
    used = int(0.9 * len(log_mu))
    height = -np.log(1 - np.arange(1, used + 1) / len(log_mu))
    return float((log_mu[:used] * height).sum() / (log_mu[:used] ** 2).sum())
