"""How far a value may move before it counts as drift: per metric, absolute, relative, or both.

The defaults stand above what rounding alone was seen to change; ``docs/ci.md`` says on what they were measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from microscope_bench.errors import ResultError

_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TOLERANCE = re.compile(rf"(?P<absolute>{_NUMBER})(?:\+(?P<relative>{_NUMBER})%)?|(?P<only>{_NUMBER})%")

ACCURACY, SKIPPED, SINKS = "accuracy", "skipped", "sinks"
"""What is compared besides scores: share of right answers; examples not measured; share of tokens that are sinks."""


@dataclass(frozen=True)
class Tolerance:
    """The largest move that is no drift: ``absolute + relative · |baseline|``; both are finite and not negative.

    >>> Tolerance.parse("0.002+3%").limit(-2.0)
    0.062
    >>> str(Tolerance.parse("3%")), str(Tolerance(0.002, 0.0))
    ('3%', '0.002')
    """

    absolute: float = 0.0
    relative: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """Reads ``0.002`` (absolute), ``3%`` (of the baseline's value), or ``0.002+3%`` (the sum).

        Raises:
            ResultError: anything else.
        """
        match = _TOLERANCE.fullmatch(text.strip())
        found = match.groupdict(default="0") if match else {"absolute": "inf", "relative": "0", "only": "0"}
        absolute, relative = float(found["absolute"]), float(found["relative"]) + float(found["only"])
        if not (math.isfinite(absolute) and math.isfinite(relative)):
            raise ResultError(f"{text!r} is not a tolerance; write 0.002 (absolute), 3% (relative) or 0.002+3%")
        return cls(absolute, relative / 100)

    def limit(self, baseline: float) -> float:
        """The largest move of a value that was ``baseline``."""
        return self.absolute + self.relative * abs(baseline)

    def excess(self, baseline: float, new: float) -> float:
        """The move as a multiple of what is allowed: above 1 is drift, infinite where nothing is or NaN is about."""
        move, limit = abs(new - baseline), self.limit(baseline)
        if move == 0:
            return 0.0
        if not math.isfinite(move) or not math.isfinite(limit):
            return math.inf
        return move / limit if limit > 0 else math.inf

    def __str__(self) -> str:
        parts = [f"{self.absolute:g}"] if self.absolute or not self.relative else []
        return "+".join([*parts, *([f"{self.relative * 100:g}%"] if self.relative else [])])


FLOAT32, FLOAT16, BFLOAT16 = "float32", "float16", "bfloat16"
_CLASS_OF_DTYPE = {"float64": FLOAT32, "float32": FLOAT32, "float16": FLOAT16}

# name: float32, float16, bfloat16. A metric that is not named (a plug-in's) has the last row's.
_DEFAULTS = {
    "linearity": ("0.0001", "0.001", "0.005"),
    "anisotropy": ("0.0001", "0.0002", "0.001"),
    "intrinsic_dimension": ("0.1%", "8%", "8%"),
    "intrinsic_dimension.twonn_mle": ("0.1%", "30%", "30%"),
    "intrinsic_dimension.twonn_regression20": ("0.1%", "12%", "12%"),
    "intrinsic_dimension_across_examples": ("0.1%", "8%", "8%"),
    "intrinsic_dimension_across_examples.twonn_mle": ("0.1%", "40%", "40%"),
    "intrinsic_dimension_across_examples.twonn_regression20": ("0.1%", "12%", "12%"),
    "intrinsic_dimension_by_n": ("0.1%", "12%", "12%"),
    "intrinsic_dimension_by_scale": ("0.1%", "12%", "12%"),
    "intrinsic_dimension_by_scale.gride_1": ("0.1%", "30%", "30%"),
    "intrinsic_dimension_fit": ("0.0001", "0.08", "0.08"),
    ACCURACY: ("0", "0.02", "0.02"),
    SKIPPED: ("0", "0", "0"),
    SINKS: ("0", "0.001", "0.001"),
    "": ("0.0001+0.1%", "0.0005+0.5%", "0.002+1%"),
}


def _parsed(column: int) -> dict[str, Tolerance]:
    return {name: Tolerance.parse(row[column]) for name, row in _DEFAULTS.items()}


DEFAULTS: Mapping[str, Mapping[str, Tolerance]] = {
    dtype: _parsed(column) for column, dtype in enumerate((FLOAT32, FLOAT16, BFLOAT16))
}
"""dtype → metric, or metric.estimator → tolerance; ``""`` stands for every metric that is not named."""


class Tolerances:
    """The tolerances of one comparison: what the user chose, and the defaults of the results' dtype.

    Args:
        chosen: ``metric`` or ``metric.estimator`` → tolerance, or its text. The more specific wins; a choice replaces
            the default.

    Raises:
        ResultError: a text that is no tolerance.
    """

    def __init__(self, chosen: Mapping[str, Tolerance | str] | None = None) -> None:
        self.chosen = {
            name: Tolerance.parse(value) if isinstance(value, str) else value for name, value in (chosen or {}).items()
        }

    def find(self, metric: str, estimator: str, dtypes: Iterable[str]) -> Tolerance:
        """The tolerance of a score, or with an empty estimator of accuracy, skipped or sinks.

        Args:
            metric: its name.
            estimator: its estimator, or "".
            dtypes: of the hidden states of the results compared; the defaults of the coarsest are taken. A type that
                is not in the table counts as the coarsest there is.
        """
        names = [f"{metric}.{estimator}", metric]
        classes = [_CLASS_OF_DTYPE.get(dtype, BFLOAT16) for dtype in dtypes]
        defaults = DEFAULTS[max(classes, key=list(DEFAULTS).index)]
        for table, keys in ((self.chosen, names), (defaults, [*names, ""])):
            for key in keys:
                if key in table:
                    return table[key]
        raise AssertionError("the defaults end with an entry for every metric")


def parse_tolerances(texts: Iterable[str]) -> dict[str, Tolerance]:
    """``["intrinsic_dimension=3%", ...]`` as a mapping.

    Raises:
        ResultError: not of the form NAME=TOLERANCE, or one name twice with different tolerances.
    """
    found: dict[str, Tolerance] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ResultError(f"{text!r} is not of the form METRIC=TOLERANCE, such as intrinsic_dimension=3%")
        tolerance = Tolerance.parse(value)
        if found.setdefault(name.strip(), tolerance) != tolerance:
            raise ResultError(f"two tolerances for {name.strip()}: {found[name.strip()]} and {tolerance}")
    return found
