"""How far a value may move before it counts as drift: per metric, absolute, relative, or both."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from microscope_bench.errors import ResultError
from microscope_bench.metrics.record import USUAL_TOLERANCE, ToleranceByDtype
from microscope_bench.metrics.registry import find_metric

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
        """Reads ``0.002`` (absolute), ``3%`` (of the baseline), or ``0.002+3%`` (the sum); else raises ResultError."""
        match = _TOLERANCE.fullmatch(text.strip())
        found = match.groupdict(default="0") if match else {"absolute": "inf", "relative": "0", "only": "0"}
        absolute, relative = float(found["absolute"]), float(found["relative"]) + float(found["only"])
        if not (math.isfinite(absolute) and math.isfinite(relative)):
            raise ResultError(f"{text!r} is not a tolerance; write 0.002 (absolute), 3% (relative) or 0.002+3%")
        return cls(absolute, relative / 100)

    def limit(self, baseline: float) -> float:
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


DTYPES = tuple(f.name for f in fields(ToleranceByDtype))
"""Of the hidden states, from fine to coarse: what defaults are known for."""

_OTHERS = {
    ACCURACY: ToleranceByDtype("0", "0.02", "0.02"),
    SKIPPED: ToleranceByDtype("0", "0", "0"),
    SINKS: ToleranceByDtype("0", "0.001", "0.001"),
}


def default_tolerance(metric: str, estimator: str, dtype: str) -> Tolerance:
    """The default of a metric's record; the usual one where nobody registers it."""
    record = find_metric(metric)
    texts = record.estimator_tolerances.get(estimator, record.tolerance) if record else USUAL_TOLERANCE
    return Tolerance.parse(getattr(_OTHERS.get(metric, texts), dtype))


@dataclass(frozen=True)
class Tolerances:
    """The tolerances of one comparison: what the user chose, and the defaults of the results' dtype.

    Attributes:
        chosen: Tolerance of a metric, of a metric.estimator, or of accuracy, skipped or sinks.
    """

    chosen: Mapping[str, Tolerance] = field(default_factory=dict)

    def find(self, metric: str, estimator: str, dtypes: Iterable[str]) -> Tolerance:
        """The tolerance of a score, or with an empty estimator of accuracy, skipped or sinks.

        The defaults of the coarsest of ``dtypes`` count; a type without defaults is the coarsest, float64 is float32.
        """
        for name in (f"{metric}.{estimator}", metric):
            if name in self.chosen:
                return self.chosen[name]
        known = ["float32" if dtype == "float64" else dtype if dtype in DTYPES else DTYPES[-1] for dtype in dtypes]
        return default_tolerance(metric, estimator, max(known, key=DTYPES.index))


DEFAULTS = Tolerances()


def parse_tolerances(texts: Iterable[str]) -> dict[str, Tolerance]:
    """Reads texts of the form ``linearity=0.002``; a ResultError for another form, or two tolerances for one name."""
    found: dict[str, Tolerance] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ResultError(f"{text!r} is not of the form METRIC=TOLERANCE, such as intrinsic_dimension=3%")
        tolerance = Tolerance.parse(value)
        if found.setdefault(name.strip(), tolerance) != tolerance:
            raise ResultError(f"two tolerances for {name.strip()}: {found[name.strip()]} and {tolerance}")
    return found
