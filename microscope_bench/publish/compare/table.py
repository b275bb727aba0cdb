"""The words and rows that every form of a comparison is made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from microscope_bench.metrics.registry import find_metric
from microscope_bench.publish.compare.comparison import (
    DRIFT,
    EXTRA,
    FILLED,
    MISSING,
    MOVED,
    NOT_COMPARABLE,
    NULL,
    WITHIN,
    Comparison,
    Drift,
    Quantity,
)
from microscope_bench.publish.compare.paths import FilePair
from microscope_bench.publish.summary import accuracy_text, show_layers
from microscope_bench.system.printable import printable

SHOWN = 20

STATUS = {WITHIN: "within tolerance", DRIFT: "drift", NOT_COMPARABLE: "not comparable"}
HEADERS = ("what", "layers", "worst at", "baseline", "new", "move", "tolerance", "times the tolerance")
_KINDS = {
    MOVED: "moved",
    MISSING: "missing",
    EXTRA: "without a baseline",
    NULL: "became null",
    FILLED: "null in the baseline",
}


def rows_of(drifts: Iterable[Drift]) -> list[tuple[str, ...]]:
    """A row under :data:`HEADERS`, not escaped, per series that drifted: headlines first, each in order of the worst.

    What drifted alike with and without sinks is of the same tokens, and is there once.
    """
    groups: dict[Quantity, list[Drift]] = {}
    for drift in drifts:
        groups.setdefault(drift.series, []).append(drift)
    seen: set[tuple[Quantity, frozenset[tuple[object, ...]]]] = set()
    once: list[list[Drift]] = []
    for series, group in groups.items():
        tokens = series.tokens.removesuffix("no_sinks").removesuffix("_") or "all" if series.tokens else ""
        what = series._replace(tokens=tokens), frozenset((d.layer, d.kind, d.baseline, d.new) for d in group)
        if what not in seen:
            once.append(group)
        seen.add(what)
    return [_cells(group) for group in sorted(once, key=lambda group: not _is_headline(group[0].series))]


def _is_headline(series: Quantity) -> bool:
    """Whether a series is of an estimator that stands for its metric, or is no score at all, as accuracy is not."""
    record = find_metric(series.metric)
    headlines = record.headlines if record else ()
    return not series.estimator or any((h.estimator, h.stream) == (series.estimator, series.stream) for h in headlines)


def _cells(drifts: Sequence[Drift]) -> tuple[str, ...]:
    worst = drifts[0]
    layers = show_layers(drift.layer for drift in drifts if drift.layer is not None)
    move = f"{worst.new - worst.baseline:+.3g}" if worst.new is not None and worst.baseline is not None else ""
    return (
        printable(worst.series),
        layers,
        "" if worst.layer is None else str(worst.layer),
        "none" if worst.kind == EXTRA else _number(worst.baseline),
        "none" if worst.kind == MISSING else _number(worst.new),
        move if worst.kind == MOVED else _KINDS[worst.kind],
        str(worst.tolerance),
        f"{worst.excess:.3g}" if math.isfinite(worst.excess) else "∞" if worst.kind == MOVED else "",
    )


def about_lines(comparison: Comparison) -> list[str]:
    """What was compared and what else differs, one line each, not escaped."""
    lines = []
    if comparison.baseline and comparison.new:
        lines += [f"baseline: {comparison.baseline.signature}", f"new: {comparison.new.signature}"]
    for row in comparison.refused:
        lines.append(f"must agree, {row}")
    for row in comparison.identity:
        if row not in comparison.refused:
            lines.append(f"may differ, {row}")
    lines += [f"inputs differ, {row}" for row in comparison.inputs]
    lines += [f"environment differs, {row}" for row in comparison.environment]
    return [printable(line) for line in lines]


def count_lines(comparison: Comparison) -> list[str]:
    """How many values, and the accuracy of both; not escaped. Empty where nothing was compared."""
    if comparison.status == NOT_COMPARABLE or comparison.baseline is None or comparison.new is None:
        return []
    found = Counter(drift.kind for drift in comparison.drifts)
    parts = [f"{found[kind]:,} {text}" for kind, text in _KINDS.items() if found[kind]]
    if comparison.n_null:
        parts.append(f"{comparison.n_null:,} null in both")
    within = comparison.n_compared - found[MOVED]
    lines = [f"{comparison.n_values:,} values: {', '.join([f'{within:,} within tolerance', *parts])}"]
    if comparison.n_other_tokens:
        lines.append(f"{comparison.n_other_tokens:,} values are of another number of tokens than in the baseline")
    old, new = (accuracy_text(result) for result in (comparison.baseline, comparison.new))
    if old or new:
        lines.append(f"accuracy: {old or 'not measured'} → {new or 'not measured'}")
    return [printable(line) for line in lines]


def advice(pair: FilePair, comparison: Comparison) -> tuple[str, tuple[str, ...]]:
    """How to go on: a sentence, and the commands it speaks of; both empty where all is well."""
    if comparison.status == WITHIN:
        return "", ()
    if comparison.refused:
        fields = ",".join(row.field for row in comparison.refused)
        either = (
            f"Compare them all the same with --allow {fields}"
            if all(row.field.replace(".", "").replace("_", "").isalnum() for row in comparison.refused)
            else "These fields cannot be allowed one by one"
        )
        sentence = f"{either}, or measure both alike. If the new one is meant, make it the baseline:"
    elif comparison.status == DRIFT:
        sentence = "If the change is meant, accept it: make the new result the baseline:"
    elif pair.new is None:
        sentence = "Measure it again, or remove its baseline if it is to go:"
    elif pair.accept:
        sentence = "If the new result is right, make it the baseline:"
    else:
        sentence = "Repeat the run, or take the original file"
    return (printable(sentence) if pair.accept else printable(sentence).rstrip(":")), pair.accept


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.6g}"
