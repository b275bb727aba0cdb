"""ChartQA's relaxed accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TOLERANCE = 0.05


def relaxed_accuracy(row: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """``relaxed_accuracy``: 1 for a number within 5 % of the right one, or for the right text in any case; else 0."""
    answer, right = results[0].strip(), row["answer"].strip()
    number, right_number = _number(answer), _number(right)
    if number is not None and right_number:  # a share of zero is no tolerance: zero is compared as text
        return {"relaxed_accuracy": float(abs(number - right_number) <= TOLERANCE * abs(right_number))}
    return {"relaxed_accuracy": float(answer.lower() == right.lower())}


def _number(text: str) -> float | None:
    """A number, or a percentage as a share; None for anything else."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
