"""Tolerances learned from repeats: how far values move between runs that ought to agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Context
from pathlib import Path

from microscope_bench.errors import ResultError
from microscope_bench.publish.compare.comparison import MOVED, NOT_COMPARABLE, compare_results, values_of
from microscope_bench.publish.compare.tolerances import Tolerance, parse_tolerances
from microscope_bench.results.result import Result
from microscope_bench.system.disk import read_regular

MARGIN = 3
"""A learned tolerance is this many times the widest range seen: a few repeats do not show the widest there is."""

LARGEST_FILE = 1_000_000
"""Bytes of a file of tolerances, at most."""


def learn_tolerances(repeats: Sequence[tuple[str, Result]], allow: Iterable[str] = ()) -> dict[str, Tolerance]:
    """``metric.estimator`` → three times the widest range (largest minus smallest) of any of its values, two digits."""
    if len(repeats) < 2:
        raise ResultError("a spread takes at least two repeats of one run")
    first_name, first = repeats[0]
    for name, other in repeats[1:]:
        comparison = compare_results(first, other, allow=allow)
        odd = next((drift for drift in comparison.drifts if drift.kind != MOVED), None)
        if comparison.status == NOT_COMPARABLE or odd:
            what = f"{odd.series} at layer {odd.layer} is in one alone" if odd else comparison.verdict
            raise ResultError(f"{first_name} and {name} are not repeats of one run: {what}")
    ranges: dict[str, float] = {}
    tables = [values_of(result) for _, result in repeats]
    for key in tables[0]:
        found = [value for table in tables if (value := table[key].value) is not None]
        name = ".".join(filter(None, (key[0].metric, key[0].estimator)))
        if found:
            ranges[name] = max(ranges.get(name, 0.0), max(found) - min(found))
    return {name: Tolerance(_rounded_up(MARGIN * widest)) for name, widest in ranges.items()}


def to_lines(tolerances: dict[str, Tolerance], n_repeats: int) -> str:
    rows = "".join(f"{name}={tolerance}\n" for name, tolerance in sorted(tolerances.items()))
    return f"# {MARGIN} times the widest range among {n_repeats} repeats; 0 asks for equality to the last bit\n{rows}"


def read_tolerances(path: str | Path) -> dict[str, Tolerance]:
    """A file of lines METRIC=TOLERANCE; what follows a # is a comment. Raises ResultError with the file's name."""
    try:
        lines = read_regular(Path(path), LARGEST_FILE).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResultError(f"cannot read the tolerances {path}: {reason}") from error
    stripped = (line.partition("#")[0].strip() for line in lines)
    try:
        return parse_tolerances(line for line in stripped if line)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error


def _rounded_up(value: float) -> float:
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal_from_float(value))
