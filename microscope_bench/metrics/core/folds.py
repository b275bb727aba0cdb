"""Folds of whole examples: tokens of one example are not independent, so every split leaves out whole examples."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def assign_folds(example_ids: Sequence[str | int], n_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of every row, int64 (N,), such that all rows of one example share it.

    The distinct examples are ranked by a hash of (seed, id); example of rank i goes to fold i mod ``n_folds``. So the
    folds differ by at most one example and depend neither on the order of the rows nor on how often an id occurs.

    >>> assign_folds(["a", "b", "a", "c"], n_folds=3, seed=0)
    array([0, 2, 0, 1])
    """
    if n_folds < 1:
        raise ValueError(f"n_folds must be at least 1, not {n_folds}")
    names = [str(example) for example in example_ids]
    ranked = sorted(set(names), key=lambda name: blake2b(f"{seed}:{name}".encode(), digest_size=16).digest())
    fold = {name: rank % n_folds for rank, name in enumerate(ranked)}
    return np.fromiter((fold[name] for name in names), dtype=np.int64, count=len(names))
