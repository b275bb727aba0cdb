"""Examples answered rightly and examples answered wrongly, as many of each: their tokens are clouds of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.measure.clouds import ALL
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.folds import assign_folds

HALVES = ("correct", "wrong")
VERSION = 1
"""Of the rule by which :func:`halves` chooses; part of a result's identity."""


def halves(records: Sequence[ExampleRecord], seed: int) -> dict[str, np.ndarray]:
    """Which examples are of token set ``correct`` and which of ``wrong``.

    Every metric depends on the number of tokens, intrinsic dimension and held-out linearity the most. So of the more
    frequent of the two as many examples are drawn, by a hash of (seed, id), as there are of the other. Returns bool
    (len(records),) for each; raises NoValue where there are no two halves.
    """
    if all(record.right is None for record in records):
        why = next((record.unscored for record in records if record.unscored), None)
        raise NoValue(f"no answer was scored: {why or 'the task has no choices, or several right ones'}")
    right = np.array([record.right is True for record in records])
    wrong = np.array([record.right is False for record in records])
    n = min(right.sum(), wrong.sum())
    if n == 0:
        every, other = ("right", "wrong") if right.any() else ("wrong", "right")
        n_scored = (right | wrong).sum()
        raise NoValue(f"all {n_scored} scored answers are {every}: there is no {other} one to hold them against")
    rank = assign_folds([record.id for record in records], len(records), seed)
    return dict(zip(HALVES, (_first(right, rank, n), _first(wrong, rank, n)), strict=True))


def token_set_of(half: str, token_set: str) -> str:
    """The name of a token set within a half.

    >>> token_set_of("wrong", "all"), token_set_of("wrong", "no_sinks")
    ('wrong', 'wrong_no_sinks')
    """
    return half if token_set == ALL else f"{half}_{token_set}"


def _first(which: np.ndarray, rank: np.ndarray, n: int) -> np.ndarray:
    candidates = np.flatnonzero(which)
    chosen = np.zeros(len(which), dtype=bool)
    chosen[candidates[np.argsort(rank[candidates])[:n]]] = True
    return chosen
