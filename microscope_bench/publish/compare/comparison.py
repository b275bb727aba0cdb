"""Two results, value by value: what drifted, by how much more than its tolerance, and what that says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from microscope_bench.errors import ResultError, unknown_name
from microscope_bench.publish.compare.identities import (
    Difference,
    check_allowed,
    environment_differences,
    identity_differences,
    input_differences,
    is_allowed,
)
from microscope_bench.publish.compare.tolerances import ACCURACY, DEFAULTS, SINKS, SKIPPED, Tolerance, Tolerances
from microscope_bench.results.result import FAILED, Result

WITHIN, DRIFT, NOT_COMPARABLE = 0, 1, 2
"""What a comparison ends with, which is also the exit status of the command."""

MOVED, MISSING, EXTRA, NULL, FILLED = "moved", "missing", "extra", "null", "filled"
"""How a value drifted: beyond its tolerance; gone, or new, with its whole row; it became null, or was null before."""


class Quantity(NamedTuple):
    """What a value is of, but for the layer; accuracy, skipped and sinks have empty fields."""

    metric: str
    estimator: str = ""
    stream: str | None = None
    modality: str = ""
    tokens: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, self))


@dataclass(frozen=True)
class Value:
    value: float | None
    stderr: float | None = None
    reason: str | None = None
    n_tokens: int | None = None


@dataclass(frozen=True)
class Drift:
    """One value that is not what the baseline says; ``layer`` is None for a value of the whole result.

    ``stderr`` is the baseline's, for scale only. ``excess`` is the move as a multiple of the tolerance, above 1;
    infinite for every kind but "moved". ``reason`` says why a value is null.
    """

    series: Quantity
    layer: int | None
    kind: str
    baseline: float | None
    new: float | None
    stderr: float | None
    tolerance: Tolerance
    excess: float
    reason: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A result held against a baseline; either is None where it could not be read.

    ``identity``, ``inputs`` and ``environment`` are the fields that differ, ``refused`` those of the identity that may
    not (the values were then not compared). ``drifts`` come worst first. ``n_null`` values are null in both;
    ``n_other_tokens`` are of another number of tokens, which is no drift. ``problem`` says why nothing was compared.
    """

    baseline: Result | None = None
    new: Result | None = None
    identity: tuple[Difference, ...] = ()
    refused: tuple[Difference, ...] = ()
    inputs: tuple[Difference, ...] = ()
    environment: tuple[Difference, ...] = ()
    drifts: tuple[Drift, ...] = ()
    n_compared: int = 0
    n_null: int = 0
    n_other_tokens: int = 0
    problem: str = ""

    @property
    def status(self) -> int:
        if self.refused or self.problem:
            return NOT_COMPARABLE
        return DRIFT if self.drifts else WITHIN

    @property
    def verdict(self) -> str:
        if self.problem:
            return f"not comparable: {self.problem}"
        if self.refused:
            return f"not comparable: {', '.join(row.field for row in self.refused)} differ{_s(len(self.refused))}"
        extent = "all values agree within tolerance"
        if self.drifts:
            extent = f"{len(self.drifts):,} of {self.n_values:,} values drifted"
        elif self.identity:
            extent += f", though {', '.join(row.field for row in self.identity)} differ{_s(len(self.identity))}"
        if self.inputs:
            return f"the processor changed ({', '.join(row.field for row in self.inputs)}): {extent}"
        if self.drifts:
            return f"the model changed: {extent}; its inputs are the same"
        # other weights, or another config, are a change even where no value tells
        return f"{'no drift' if self.identity else 'nothing changed'}: {extent}"

    @property
    def n_values(self) -> int:
        """Values that were looked at: compared, null in both, or there in one result only or null in one only."""
        return self.n_compared + self.n_null + sum(drift.kind != MOVED for drift in self.drifts)


def compare_results(
    baseline: Result, new: Result, tolerances: Tolerances = DEFAULTS, allow: Iterable[str] = ()
) -> Comparison:
    """Holds a result against a baseline; ``allow`` names fields of ``identity`` that may differ besides the weights."""
    allowed = check_allowed(allow)
    differing = identity_differences(baseline, new)
    about = Comparison(
        baseline,
        new,
        identity=differing,
        refused=tuple(row for row in differing if not is_allowed(row, allowed)),
        inputs=input_differences(baseline, new),
        environment=environment_differences(baseline, new),
        problem=_failure(baseline, "the baseline") or _failure(new, "the new result"),
    )
    if about.problem or about.refused:
        return about
    dtypes = (baseline.identity.model.dtype, new.identity.model.dtype)
    return _with_values(about, values_of(baseline), values_of(new), tolerances, dtypes)


def check_names(tolerances: Tolerances, results: Iterable[Result]) -> None:
    """Raises UnknownNameError for a tolerance of something that no result has: it would be without effect."""
    known = {ACCURACY, SKIPPED, SINKS}
    for result in results:
        known |= {name for score in result.scores for name in (score.metric, f"{score.metric}.{score.estimator}")}
    for name in tolerances.chosen:
        if name not in known:
            raise unknown_name("metric to tolerate", name, sorted(known))


def _failure(result: Result, which: str) -> str:
    if result.status != FAILED:
        return ""
    return f"{which} is of a run that failed ({result.error.type if result.error else 'no reason given'})"


Key = tuple[Quantity, int | None]


def values_of(result: Result) -> dict[Key, Value]:
    rows: list[tuple[Key, Value]] = [
        (
            (Quantity(s.metric, s.estimator, s.stream, s.modality, s.tokens), s.layer),
            Value(s.value, s.stderr, s.reason, s.n_tokens),
        )
        for s in result.scores
    ]
    if (accuracy := result.accuracy) is not None:
        rows.append(((Quantity(ACCURACY), None), Value(accuracy.value, accuracy.stderr, accuracy.reason)))
    rows.append(((Quantity(SKIPPED), None), Value(len(result.inputs.skipped))))
    for sinks in result.sinks:
        share = sinks.n_sinks / sinks.n_tokens if sinks.n_tokens else 0.0
        rows.append(((Quantity(SINKS, modality=sinks.modality), None), Value(share)))
    values = dict(rows)
    if len(values) < len(rows):
        raise ResultError("a result with two values of one metric, estimator, stream, modality, tokens and layer")
    return values


def _with_values(
    about: Comparison,
    ours: Mapping[Key, Value],
    theirs: Mapping[Key, Value],
    tolerances: Tolerances,
    dtypes: tuple[str, str],
) -> Comparison:
    drifts: list[Drift] = []
    compared = scores = null = other_tokens = 0
    for key in dict.fromkeys([*ours, *theirs]):
        old, new = ours.get(key), theirs.get(key)
        other_tokens += bool(old and new and old.n_tokens != new.n_tokens)
        if old and new and old.value is None and new.value is None:
            null += 1
            continue
        if old and new and old.value is not None and new.value is not None:
            compared += 1
            scores += key[0].metric not in (ACCURACY, SKIPPED, SINKS)
        drifts += _drift(key, old, new, tolerances.find(key[0].metric, key[0].estimator, dtypes))
    if not scores and not drifts:
        return replace(about, problem="no score has a value", n_null=null)
    drifts.sort(key=lambda drift: (-drift.excess, drift.kind == MOVED))  # stable: equals stay in the order of the file
    return replace(about, drifts=tuple(drifts), n_compared=compared, n_null=null, n_other_tokens=other_tokens)


def _drift(key: Key, old: Value | None, new: Value | None, tolerance: Tolerance) -> Iterator[Drift]:
    """The drift of one value, if it is one; not both are None or null."""
    before, after = old.value if old else None, new.value if new else None
    excess = math.inf
    if old is None or new is None:
        kind = EXTRA if old is None else MISSING
    elif before is None or after is None:
        kind = FILLED if before is None else NULL
    else:
        kind, excess = MOVED, tolerance.excess(before, after)
    if not excess <= 1:  # so written, NaN is drift
        reason = next((row.reason for row in (new, old) if row and row.reason), None)
        stderr = old.stderr if old else None
        yield Drift(*key, kind, before, after, stderr, tolerance, excess, reason)


def _s(count: int) -> str:
    return "s" if count == 1 else ""
