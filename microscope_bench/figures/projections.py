"""Tokens in two dimensions: the widest two axes of their cloud, or its neighbourhoods.

A projection is to look at, not to measure: SVD shows what the two widest axes hold and nothing of the others; t-SNE
keeps neighbours together and neither distances, nor sizes, nor densities of groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from microscope_bench.errors import MicroscopeError

METHODS = ("svd", "tsne")
PERPLEXITY = 30.0
"""Of t-SNE, lower where there are fewer than 91 tokens: it must stay below a third of their number."""
FIRST_AXES = 50
"""Principal axes that t-SNE starts from, where there are more dimensions (van der Maaten & Hinton 2008)."""
LEAST = 4


@dataclass(frozen=True)
class Projection:
    """Tokens in the plane, float64 (n, 2), and what the two axes are."""

    points: np.ndarray
    axes: tuple[str, str]


def project(x: np.ndarray, method: str, seed: int = 0) -> Projection:
    """Projects a cloud; the same numbers give the same points.

    Args:
        x: float64 (n, d), at least 4 rows, finite.
        method: "svd": the coordinates along the two widest principal axes of the centred cloud, each axis pointing to
            where its largest weight is positive. "tsne": scikit-learn's t-SNE (Barnes-Hut, perplexity 30, started from
            the principal axes) of the 50 widest axes.
        seed: of t-SNE.

    Raises:
        MicroscopeError: too few rows, values that are not finite, or a cloud of one point.
    """
    if len(x) < LEAST:
        raise MicroscopeError(f"a projection needs at least {LEAST} tokens, got {len(x)}")
    if not np.isfinite(x).all():
        raise MicroscopeError(
            f"{int((~np.isfinite(x).all(axis=1)).sum())} tokens hold NaN or infinity; nothing is drawn"
        )
    coordinates, shares = principal_coordinates(x)
    if method == "svd":
        first, second = (f"axis {k + 1} ({share:.1%} of the variance)" for k, share in enumerate(shares[:2]))
        return Projection(coordinates[:, :2], (first, second))
    return Projection(_tsne(coordinates[:, :FIRST_AXES], seed), ("t-SNE 1", "t-SNE 2"))


def principal_coordinates(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of x, float64 (n, d), along its principal axes, the widest first, and each one's share of variance.

    Raises:
        MicroscopeError: all rows are equal.
    """
    centred = x - x.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    if not s[0] > 0:
        raise MicroscopeError("all tokens are the same vector here; there is nothing to project")
    # the sign of an axis is free: an SVD of another library may turn it
    signs = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(axis=1)])
    return u * s * np.where(signs == 0, 1.0, signs), s**2 / (s**2).sum()


def _tsne(x: np.ndarray, seed: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MicroscopeError("t-SNE needs scikit-learn: pip install 'microscope-bench[plots]'") from error
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    with threadpool_limits(limits=1):  # sums over several threads depend on their number
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(x)
    return np.asarray(points, dtype=np.float64)


def evenly(n_layers: int, most: int = 3) -> list[int]:
    """At most so many of the layers 0..n_layers, the first and the last among them.

    >>> evenly(6), evenly(32, 4), evenly(1)
    ([0, 3, 6], [0, 11, 21, 32], [0, 1])
    """
    return sorted({round(k * n_layers / (most - 1)) for k in range(most)})


def shares(sizes: Sequence[int], most: int) -> list[int]:
    """How many of each of some groups to take, ``most`` together: equally many, or all of a smaller group.

    >>> shares([100, 100], 50), shares([10, 100], 50), shares([3, 4], 50)
    ([25, 25], [10, 40], [3, 4])
    """
    taken = [0] * len(sizes)
    left = most
    for rank, k in enumerate(sorted(range(len(sizes)), key=lambda k: sizes[k])):
        taken[k] = min(sizes[k], left // (len(sizes) - rank))
        left -= taken[k]
    return taken
