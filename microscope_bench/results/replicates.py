"""The replicates of a score as its file holds them, and the standard error that they must give back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

from microscope_bench.metrics.core.jackknife import jackknife_stderr
from microscope_bench.results.records import Folds, Score

DIGITS = 3
"""Replicates are rounded at the power of ten below this many digits of the standard error."""

AGREEMENT = 2e-3
"""By how much, relative, the standard error of rounded replicates may differ from the score's own."""


MOST_FOLDS = 100
"""Of more folds than these a file holds no replicates: they would fill it."""


def rounded(replicates: Sequence[float | None], stderr: float | None, n_folds: int) -> tuple[float | None, ...]:
    """The replicates of all folds, one for each, as the file holds them; empty where there are none, or too many.

    >>> rounded([0.123456789, None, 0.123987654], 0.0042, 4)
    (0.123457, None, 0.123988, None)
    """
    if not replicates or n_folds > MOST_FOLDS:
        return ()
    step = step_of(stderr)
    digits = None if step is None else -round(math.log10(step))
    short = (r if r is None or digits is None else round(r, digits) for r in replicates)
    return (*short, *[None] * (n_folds - len(replicates)))


def step_of(stderr: float | None) -> float | None:
    """The power of ten at which replicates are rounded; None where they are not."""
    return 10.0 ** (math.floor(math.log10(stderr)) - DIGITS) if stderr and stderr > 1e-290 else None


def contradiction(score: Score, folds: Folds | None) -> str | None:
    """Why the replicates of a score cannot be those that its standard error is made of, or None where they can."""
    replicates = score.replicates
    if not replicates or score.stderr is None:
        return None
    # the halves of a split have folds of their own
    if score.tokens in ("all", "no_sinks") and (folds is None or len(replicates) != folds.n):
        return f"{len(replicates)} replicates of {folds.n if folds else 'no'} folds"
    there = [replicate for replicate in replicates if replicate is not None]
    again = _quick_stderr(there)
    if again is None:
        return f"{len(there)} replicates have no standard error, the file says {score.stderr:.4g}"
    if not math.isclose(again, score.stderr, rel_tol=AGREEMENT, abs_tol=1e-14 * abs(score.value or 0.0)):
        return f"its replicates make it {again:.4g}, the file says {score.stderr:.4g}"
    return None


def _quick_stderr(replicates: Sequence[float]) -> float | None:
    """``jackknife_stderr`` but for its last digits, in a fifth of its time: every row of every file is held to it."""
    n = len(replicates)
    try:
        return math.sqrt((n - 1) / n) * math.dist(replicates, [math.fsum(replicates) / n] * n) if n > 1 else None
    except OverflowError:
        return None


def stderr_of_sum(rows: Sequence[Score], weights: Sequence[float]) -> float | None:
    """Standard error of a weighted sum of scores of one result, by the jackknife of the sum itself.

    The scores share their examples, so their errors neither add nor average out. None where a score has no replicates.
    """
    n_folds = len(rows[0].replicates)
    if any(row.stderr is None or len(row.replicates) != n_folds for row in rows):
        return None
    folds = [fold for fold in zip(*(row.replicates for row in rows), strict=True) if fold.count(None) < len(fold)]
    if not folds:
        return None
    # without a fold that holds none of its tokens a value stays what it is
    values = [row.value or 0.0 for row in rows]
    whole = [[v if r is None else r for r, v in zip(fold, values, strict=True)] for fold in folds]
    try:
        return jackknife_stderr([math.fsum(map(mul, weights, fold)) for fold in whole])
    except OverflowError:
        return None
