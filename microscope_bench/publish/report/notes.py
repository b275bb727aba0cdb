"""What stands beside a curve: why values are missing, what their flags say, and where two results differ."""

from __future__ import annotations

from collections.abc import Sequence

from microscope_bench.metrics.registry import find_metric
from microscope_bench.publish.compare.comparison import Quantity
from microscope_bench.publish.difference.differences import LEVEL, layer_rows, unpaired, untrue
from microscope_bench.publish.report.curves import ShownSeries
from microscope_bench.publish.summary import cautions_of, show_layers, show_range, sinks_of

BARE_FLAGS = ("tokens/d", "examples/d")
"""Flags that every value carries; only ``few_...`` makes them a warning."""


def notes_of(series: Sequence[ShownSeries]) -> list[tuple[str, list[int]]]:
    """(sentence, numbers of the results that it concerns), a sentence once."""
    notes: dict[str, dict[int, None]] = {}
    for one in series:
        for text in _of_one(one):
            notes.setdefault(text, {})[one.shown.key] = None
    for text, keys in _flags(series).items():
        notes.setdefault(text, {}).update(dict.fromkeys(keys))
    return [(text, list(keys)) for text, keys in notes.items()]


def _of_one(series: ShownSeries) -> list[str]:
    rows, result = series.rows, series.shown.result
    half = series.title.rpartition(", ")[2] + ": " if series.tokens.startswith(("correct", "wrong")) else ""
    cautions = cautions_of(rows, series.headline.metric, result.identity.model.dtype)
    found = [half + caution for caution in cautions.values()]
    by_reason: dict[str, list[int]] = {}
    for row in rows:
        if row.value is None:
            by_reason.setdefault(str(row.reason), []).append(row.layer)
    found += [f"{half}no value at {_layers(layers)}: {reason}" for reason, layers in by_reason.items()]
    if missing := set(series.layers) - {row.layer for row in rows}:
        found.append(f"{half}no score of {_layers(sorted(missing))}")
    if bare := [row.layer for row in rows if row.value is not None and row.stderr is None]:
        found.append(f"{half}no standard error at {_layers(bare)}")
    sinks = sinks_of(result, series.modality)
    if sinks is not None and sinks.n_sinks and series.tokens in ("all", "correct", "wrong"):
        found.append(
            f"{sinks.n_sinks:,} of {sinks.n_tokens:,} tokens are sinks, which can dominate this metric: "
            f"see “{series.modality}, no sinks”"
        )
    return found


def _flags(series: Sequence[ShownSeries]) -> dict[str, list[int]]:
    values: dict[str, list[str]] = {}
    layers: dict[str, set[int]] = {}
    keys: dict[str, dict[int, None]] = {}
    for one in series:
        record = find_metric(one.headline.metric)
        cautions = record.cautions if record else {}
        for row in one.rows:
            for flag in row.flags:
                name, _, value = flag.partition("=")
                # of a caution only what its sentence does not tell: its values
                if name in BARE_FLAGS or (name in cautions and not value):
                    continue
                values.setdefault(name, []).append(value)
                layers.setdefault(name, set()).add(row.layer)
                keys.setdefault(name, {})[one.shown.key] = None
    return {
        f"flag {name}{_value_range(values[name])} at {_layers(sorted(layers[name]))}": list(keys[name])
        for name in sorted(values)
    }


def _value_range(values: Sequence[str]) -> str:
    distinct = sorted(set(values))
    if len(distinct) == 1:
        return f" = {distinct[0]}" if distinct[0] else ""
    try:
        ordered = sorted(distinct, key=float)
    except ValueError:
        return f" = {', '.join(distinct[:3])}{', …' if len(distinct) > 3 else ''}"
    return f" = {ordered[0]} to {ordered[-1]}"


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'' if len(layers) == 1 else 's'} {show_layers(layers)}"


def comparison(first: ShownSeries, second: ShownSeries) -> tuple[str, frozenset[int]]:
    """How the second differs from the baseline, in one sentence, and the layers at which it does: those whose paired
    p-value, adjusted for the layers of the series, is below :data:`LEVEL`.
    """
    a, b = first.shown.result, second.shown.result
    if a.identity.model.n_layers != b.identity.model.n_layers:
        depths = f"{a.identity.model.n_layers} and {b.identity.model.n_layers}"
        return f"not compared layer by layer: {depths} blocks", frozenset()
    if problem := unpaired(a, b) or untrue(a, first.rows) or untrue(b, second.rows):
        return f"not compared in pairs: {problem}", frozenset()
    head = first.headline
    quantity = Quantity(head.metric, head.estimator, head.stream, first.modality, first.tokens)
    tested = {row.layers[0]: row.found for row in layer_rows(b, a, quantity) if row.found}
    differ = [layer for layer, found in tested.items() if found.p_holm < LEVEL]
    where = f"differs at {_layers(differ)}" if differ else "no layer differs"
    said = f"{second.shown.label} against {first.shown.label}: {where} ({len(differ)} of {len(tested)} compared)"
    if apart := [layer for layer in first.layers if layer not in tested]:
        said += f"; {_layers(apart)} not compared (no value or no standard error)"
    return said, frozenset(differ)


def counted(series: ShownSeries) -> str:
    rows = [row for row in series.rows if row.value is not None] or list(series.rows)
    tokens, examples = [row.n_tokens for row in rows], [row.n_examples for row in rows]
    return f"n = {show_range((min(tokens), max(tokens)))} tokens, {show_range((min(examples), max(examples)))} examples"
