"""From a statistic that can leave a fold out to an estimate with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.resampling import NO_STDERR, jackknife_stderr

T = TypeVar("T")

Outcome = float | str
"""A value, or the reason why there is none."""

OUT_OF_RANGE = "its arithmetic leaves the range of float64: scale the states"


def attempted(compute: Callable[[], T]) -> T | str:
    """What a computation gives; or the reason, where that is NaN or infinity or its arithmetic fails."""
    from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # here, since metrics are listed without torch

    try:
        found = compute()
    except (ArithmeticError, LinAlgError):
        return OUT_OF_RANGE
    return OUT_OF_RANGE if isinstance(found, float) and not math.isfinite(found) else found


def jackknifed(
    outcome: Callable[[int | None], Outcome],
    folds: Sequence[int],
    n_tokens: int,
    n_examples: int,
    flags: tuple[str, ...] = (),
) -> Estimate:
    """The value of all rows, with the delete-a-group jackknife over folds.

    Args:
        outcome: of all rows for None, of all rows but fold k for k. Where its arithmetic fails there is no value.
        folds: those that hold rows; with fewer than two there is no standard error.
        n_tokens: rows the value is computed on.
        n_examples: distinct examples among them.
        flags: of the value.
    """
    value = attempted(partial(outcome, None))
    if isinstance(value, str):
        return Estimate(None, None, n_tokens, n_examples, flags, value)
    replicates = [attempted(partial(outcome, k)) for k in folds] if len(folds) > 1 else []
    spread = attempted(lambda: jackknife_stderr([None if isinstance(v, str) else v for v in replicates])[0])
    stderr = None if isinstance(spread, str) else spread
    return Estimate(value, stderr, n_tokens, n_examples, flags if stderr is not None else (*flags, NO_STDERR))


def non_finite(bad: int, n_tokens: int, n_examples: int) -> Estimate:
    """No value, because ``bad`` of the tokens are not usable: see ``moments.usable_rows``."""
    reason = f"{bad} of {n_tokens} tokens hold NaN or infinity, or are outside 1e-60 to 1e60 in magnitude"
    return Estimate(None, None, n_tokens, n_examples, ("non_finite",), reason)
