"""Two series of scores of the same examples held against each other: a − b, by a jackknife of the difference itself.

Both values without fold k of the examples are without the same examples, so that what is hard or odd about them cancels
in the difference, and its replicates spread less than those of either value do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.jackknife import interval, jackknife_stderr, p_value
from microscope_bench.results.records import Score
from microscope_bench.results.replicates import step_of

ROUNDING = 1e-12
"""Two values closer than this, relative to them, are equal: they differ by the order of sums."""


@dataclass(frozen=True)
class Paired:
    """A difference of two values, a − b, with its standard error, 95 % interval and p-value.

    ``p_holm`` is the p-value adjusted for all rows that it is shown with (Holm 1979); of one row alone it is ``p``.
    """

    a: float
    b: float
    difference: float
    stderr: float
    low: float
    high: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class _Combined:
    """A weighted sum of scores: its value, its replicates, and which of the folds any of the scores knows of."""

    value: float
    replicates: tuple[float, ...]
    known: tuple[bool, ...]
    rounding_variance: float


def paired(a: Sequence[Score], b: Sequence[Score], weights: tuple[Sequence[float], Sequence[float]]) -> Paired:
    """The difference of two weighted sums over the scores of two results with the same folds.

    ``weights`` are of a's scores and of b's: 1 for one layer, 1/n for a mean, those of :func:`slope_weights` for a
    slope. Linear sums commute with leaving out a fold, so the replicates of the sum are the sums of the replicates.

    Raises:
        NoValue: a score has no value, no standard error or no replicates; or no fold changes the difference.
    """
    try:
        first, second = (_combined(scores, of) for scores, of in zip((a, b), weights, strict=True))
        found = _difference(first, second)
    except OverflowError:
        found = None
    if found is None or not all(map(math.isfinite, vars(found).values())):
        raise NoValue("its arithmetic leaves the range of float64")
    return found


def _difference(first: _Combined, second: _Combined) -> Paired | None:
    difference = first.value - second.value
    pairs = zip(first.replicates, second.replicates, first.known, second.known, strict=True)
    # a fold that holds no token of either is no fold of theirs
    replicates = [one - other for one, other, in_a, in_b in pairs if in_a or in_b]
    n_folds = len(replicates)
    stderr = jackknife_stderr(replicates)
    if stderr is None:
        return None
    if any(replicates) or difference:
        # replicates are rounded: what agrees to the last digit of both may still differ behind it
        rounding = first.rounding_variance + second.rounding_variance
        stderr = max(stderr, (n_folds - 1) * math.sqrt(rounding / n_folds))
    scale = ROUNDING * max(abs(first.value), abs(second.value))
    if stderr <= scale:
        if abs(difference) > scale:
            raise NoValue("the same whichever examples are left out: nothing to test it by")
        difference = stderr = 0.0
    low, high = interval(difference, stderr, n_folds)
    p = p_value(difference, stderr, n_folds)
    return Paired(first.value, second.value, difference, stderr, low, high, p, p)


def _combined(scores: Sequence[Score], weights: Sequence[float]) -> _Combined:
    values, replicates, steps = [], [], []
    for score in scores:
        if score.value is None:
            raise NoValue(f"no value at layer {score.layer}")
        if not score.replicates or score.stderr is None:
            raise NoValue(f"no {'replicates' if score.stderr is not None else 'standard error'} at layer {score.layer}")
        value = score.value
        values.append(value)
        # without a fold that holds none of its tokens a value stays what it is
        replicates.append([value if r is None else r for r in score.replicates])
        steps.append(step_of(score.stderr) or 0.0)
    return _Combined(
        value=_sum(weights, values),
        replicates=tuple(_sum(weights, fold) for fold in zip(*replicates, strict=True)),
        known=tuple(any(r is not None for r in fold) for fold in zip(*(s.replicates for s in scores), strict=True)),
        rounding_variance=math.fsum((w * step) ** 2 / 12 for w, step in zip(weights, steps, strict=True)),
    )


def _sum(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(w * value for w, value in zip(weights, values, strict=True))


def slope_weights(depths: Sequence[float]) -> list[float]:
    """Weights by which values at some depths sum to the slope of their least-squares line.

    >>> weights = slope_weights([0.0, 0.5, 1.0])
    >>> sum(w * value for w, value in zip(weights, [1.0, 2.0, 3.0]))
    2.0
    """
    mean = math.fsum(depths) / len(depths)
    total = math.fsum((depth - mean) ** 2 for depth in depths)
    return [(depth - mean) / total for depth in depths]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, so that one of them below α is wrong with probability α at most (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted
