"""What every metric returns."""

from __future__ import annotations

import math
from dataclasses import dataclass


class NoValue(Exception):
    """Raised by a statistic that the rows at hand do not have; says why."""


@dataclass(frozen=True)
class Estimate:
    """One number with its uncertainty, or the reason why there is none.

    Attributes:
        value: the estimate, finite, or None.
        stderr: standard error of ``value`` by a delete-a-group jackknife over folds of examples, or None.
        n_tokens: rows the value was computed on (after duplicates were removed, where a metric removes them).
        n_examples: distinct examples among those rows.
        flags: short machine-readable remarks, ``name`` or ``name=value`` ("rank=100/384", "duplicates=0.2310").
        reason: why ``value`` is None; None when there is a value.
        replicates: the value without fold k, for k = 0, 1, ...; None where no row is of that fold, or where the value
            without it failed. Folds behind the last that holds rows are left out.
    """

    value: float | None
    stderr: float | None
    n_tokens: int
    n_examples: int
    flags: tuple[str, ...] = ()
    reason: str | None = None
    replicates: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        if (self.value is None) == (self.reason is None):
            raise ValueError(f"an Estimate has either a value or a reason, got {self.value!r} and {self.reason!r}")
        for name, number in (("value", self.value), ("stderr", self.stderr)):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} of an Estimate must be finite or None, got {number!r}")
