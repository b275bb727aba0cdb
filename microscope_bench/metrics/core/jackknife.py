"""From a statistic that can leave a fold out to an estimate with its standard error: the delete-a-group jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from microscope_bench.metrics.core.estimate import Estimate, NoValue

T = TypeVar("T")

NO_STDERR = "no_stderr"

OUT_OF_RANGE = "its arithmetic leaves the range of float64: scale the states"


def attempted(compute: Callable[[], T]) -> T | NoValue:
    """What a computation gives; or why it gives nothing, as where it is NaN or infinity or its arithmetic fails."""
    from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # here, since metrics are listed without torch

    try:
        found = compute()
    except NoValue as none:
        return none.with_traceback(None)  # whose frames would keep the moments until cycles are looked for
    except (ArithmeticError, LinAlgError):
        return NoValue(OUT_OF_RANGE)
    return NoValue(OUT_OF_RANGE) if isinstance(found, float) and not math.isfinite(found) else found


def jackknifed(
    outcome: Callable[[int | None], float],
    folds: Sequence[int],
    n_tokens: int,
    n_examples: int,
    flags: tuple[str, ...] = (),
) -> Estimate:
    """The value of all rows, with the delete-a-group jackknife over folds and the replicates that it is made of.

    ``outcome`` gives the value of all rows for None, of all rows but fold k for k, or raises :class:`NoValue`. With
    fewer than two folds that hold rows there is no standard error.
    """
    value = attempted(partial(outcome, None))
    if isinstance(value, NoValue):
        return Estimate(None, None, n_tokens, n_examples, flags, str(value))
    without = {k: attempted(partial(outcome, k)) for k in (folds if len(folds) > 1 else ())}
    values = {k: None if isinstance(v, NoValue) else v for k, v in without.items()}
    spread = attempted(lambda: jackknife_stderr(list(values.values())))
    stderr = None if isinstance(spread, NoValue) else spread
    flags = flags if stderr is not None else (*flags, NO_STDERR)
    replicates = tuple(map(values.get, range(max(values, default=-1) + 1)))
    return Estimate(value, stderr, n_tokens, n_examples, flags, replicates=replicates)


def non_finite(bad: int, n_tokens: int, n_examples: int) -> Estimate:
    """No value, because ``bad`` of the tokens are not usable: see ``moments.usable_rows``."""
    reason = f"{bad} of {n_tokens} tokens hold NaN or infinity, or are outside 1e-60 to 1e60 in magnitude"
    return Estimate(None, None, n_tokens, n_examples, ("non_finite",), reason)


def jackknife_stderr(replicates: Sequence[float | None]) -> float | None:
    """Standard error of an estimate by the delete-a-group jackknife.

    sqrt((K − 1)/K · Σ_k (v_k − v̄)²), where v_k is the estimate without fold k (Shao & Tu 1995, *The Jackknife and
    Bootstrap*). None with fewer than two folds, or where any estimate failed: a standard error over the folds that
    happened to work would be too small.

    >>> jackknife_stderr([1.0, 2.0, 3.0])
    1.1547005383792515
    """
    values = [v for v in replicates if v is not None and math.isfinite(v)]
    n = len(values)
    if n < 2 or n < len(replicates):
        return None
    mean = math.fsum(values) / n
    return math.sqrt((n - 1) / n * math.fsum((v - mean) ** 2 for v in values))


def interval(value: float, stderr: float, n_folds: int, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of an estimate with a jackknife standard error.

    value ± t · stderr, with t the (1 + level)/2 quantile of Student's t with K − 1 degrees of freedom, K the folds that
    hold examples: a standard error from K folds is itself uncertain, and the normal quantile would make the interval
    too short (2.26 instead of 1.96 for 10 folds at 95 %).

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


def p_value(value: float, stderr: float, n_folds: int) -> float:
    """Two-sided p-value of the hypothesis that what ``value`` estimates is 0, by Student's t with K − 1 degrees of
    freedom; 1 for a value of 0, whatever its standard error, which else is positive.

    >>> round(p_value(2.2621572, 1.0, n_folds=10), 4)
    0.05
    """
    from scipy.special import stdtr

    if value == 0:
        return 1.0
    return float(2 * stdtr(n_folds - 1, -abs(value) / stderr))
