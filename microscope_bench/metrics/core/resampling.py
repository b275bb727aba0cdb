"""Folds of whole examples, and the delete-a-group jackknife over them.

Tokens of one example are not independent, so every split and every standard error leaves out whole examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

NO_STDERR = "no_stderr"
"""Flag of a value whose standard error could not be computed."""


def assign_folds(example_ids: Sequence[str | int], n_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of every row, such that all rows of one example share it.

    The distinct examples are ranked by a hash of (seed, id); example of rank i goes to fold i mod ``n_folds``. So the
    folds differ by at most one example and depend neither on the order of the rows nor on how often an id occurs.

    Args:
        example_ids: N ids, repeated for every token of an example; ``1`` and ``"1"`` are the same example.
        n_folds: number of folds, at least 1. With fewer examples than folds some folds stay empty.
        seed: of the hash.

    Returns:
        int64 (N,), values 0 .. n_folds − 1.

    Raises:
        ValueError: ``n_folds`` is below 1.

    >>> assign_folds(["a", "b", "a", "c"], n_folds=3, seed=0)
    array([0, 2, 0, 1])
    """
    if n_folds < 1:
        raise ValueError(f"n_folds must be at least 1, not {n_folds}")
    names = [str(example) for example in example_ids]
    ranked = sorted(set(names), key=lambda name: blake2b(f"{seed}:{name}".encode(), digest_size=16).digest())
    fold = {name: rank % n_folds for rank, name in enumerate(ranked)}
    return np.fromiter((fold[name] for name in names), dtype=np.int64, count=len(names))


def jackknife_stderr(replicates: Sequence[float | None]) -> tuple[float | None, tuple[str, ...]]:
    """Standard error of an estimate by the delete-a-group jackknife.

    sqrt((K − 1)/K · Σ_k (v_k − v̄)²), where v_k is the estimate without fold k (Shao & Tu 1995, *The Jackknife and
    Bootstrap*).

    Args:
        replicates: v_k, one per fold that holds examples; None where the estimate failed without that fold.

    Returns:
        The standard error and no flags; or None and the flag ``no_stderr``, when there are fewer than two folds or any
        replicate failed: a standard error over the folds that happened to work would be too small.

    >>> jackknife_stderr([1.0, 2.0, 3.0])
    (1.1547005383792515, ())
    >>> jackknife_stderr([1.0, None, 3.0])
    (None, ('no_stderr',))
    """
    values = [v for v in replicates if v is not None and math.isfinite(v)]
    n = len(values)
    if n < 2 or n < len(replicates):
        return None, (NO_STDERR,)
    mean = math.fsum(values) / n
    return math.sqrt((n - 1) / n * math.fsum((v - mean) ** 2 for v in values)), ()


def interval(value: float, stderr: float, n_folds: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of an estimate with a jackknife standard error.

    value ± t · stderr, with t the (1 + level)/2 quantile of Student's t with K − 1 degrees of freedom: a standard error
    from K folds is itself uncertain, and the normal quantile would make the interval too short (2.26 instead of 1.96
    for 10 folds at 95 %).

    Args:
        value: the estimate.
        stderr: its standard error, at least 0.
        n_folds: K, the folds that hold examples; at least 2.
        level: share of intervals that are to cover what the estimate converges to, between 0 and 1.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: fewer than 2 folds, a negative or non-finite ``stderr``, or a level outside (0, 1).

    >>> low, high = interval(0.5, 0.01, n_folds=10)
    >>> round(low, 4), round(high, 4)
    (0.4774, 0.5226)
    """
    if n_folds < 2:
        raise ValueError(f"an interval needs a standard error of at least 2 folds, not {n_folds}")
    if not 0 <= stderr < math.inf:
        raise ValueError(f"stderr must be finite and not negative, not {stderr!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level!r}")
    from scipy.special import stdtrit  # a quarter of a second, which folds need not wait for

    half = float(stdtrit(n_folds - 1, (1 + level) / 2)) * stderr
    return value - half, value + half
