"""How numbers of docs/calibration.md are written, and the bar that coverage is held against."""

from __future__ import annotations

import math

COVERAGE_BAR = (0.90, 0.98)
NO_VALUE = "–"


def number(value: float | None, digits: int = 3) -> str:
    """A number of a table."""
    return NO_VALUE if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """A share in per cent, with as many digits as 200 draws give."""
    return f"{100 * value:.1f}".removesuffix(".0")


def in_bar(covered: float) -> bool:
    """Whether a share of covering intervals lies within the bar."""
    low, high = COVERAGE_BAR
    return low - 1e-9 <= covered <= high + 1e-9
