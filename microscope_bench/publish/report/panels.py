"""What stands with the curves of one modality: the same in words, warnings, and the table of every value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from microscope_bench.publish.difference.differences import LEVEL
from microscope_bench.publish.report.curves import ShownSeries
from microscope_bench.publish.report.notes import (
    BARE_FLAGS,
    comparison,
    counted,
    notes_of,
)
from microscope_bench.publish.summary import plus_minus
from microscope_bench.results.records import Score


@dataclass(frozen=True)
class Cell:
    text: str
    detail: str = ""
    differs: bool = False


@dataclass(frozen=True)
class Panel:
    """One modality of one metric, in words and numbers.

    ``differing`` are the layers at which the second of two series differs from the first. ``notes`` are (warning,
    numbers of the results concerned), ``columns`` (title, n), ``rows`` (layer, cells).
    """

    title: str
    says: str
    differing: frozenset[int]
    comparison: str
    notes: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[int, list[Cell]], ...]


def panel_of(title: str, series: Sequence[ShownSeries], limits: tuple[float, float] | None) -> Panel:
    """One panel; two series of which the first is a baseline are compared. ``limits`` are both ends of its axis."""
    compared = len(series) == 2 and series[0].shown.baseline and series[0].shown is not series[1].shown
    sentence, differ = comparison(*series) if compared else ("", frozenset())
    notes = notes_of(series) + (_off_axis(series, limits) if limits else [])
    columns = [(f"{one.shown.key} {one.title}", counted(one)) for one in series]
    if compared:
        columns.append(("differs", f"paired, p < {LEVEL:g} over the layers (Holm)"))
    by_layer = [{row.layer: row for row in one.rows} for one in series]
    rows = []
    for layer in sorted({layer for one in series for layer in one.layers}):
        cells = [_cell(one, by.get(layer)) for one, by in zip(series, by_layer, strict=True)]
        verdict = [Cell("yes" if layer in differ else "", differs=layer in differ)] if compared else []
        rows.append((layer, cells + verdict))
    return Panel(
        title=title,
        says=f"{title}: {'; '.join(map(_in_words, series))}.",
        differing=differ,
        comparison=sentence,
        notes=tuple((text, _whose(keys, series)) for text, keys in notes),
        columns=tuple(columns),
        rows=tuple(rows),
    )


def _whose(keys: Sequence[int], series: Sequence[ShownSeries]) -> str:
    everybody = len(keys) > 3 and set(keys) == {one.shown.key for one in series}
    return "all" if everybody else ", ".join(map(str, keys))


def _cell(series: ShownSeries, row: Score | None) -> Cell:
    if row is None or row.value is None:
        return Cell("—")
    text = plus_minus(row.value, row.stderr) if row.stderr is not None else f"{row.value:.4g} (no standard error)"
    # one number of tokens and examples for all layers stands in the head of the column
    alike = len({(one.n_tokens, one.n_examples) for one in series.rows if one.value is not None}) == 1
    details = [] if alike else [f"n = {row.n_tokens:,}; {row.n_examples:,} examples"]
    details += [flag for flag in row.flags if flag.partition("=")[0] not in BARE_FLAGS]
    return Cell(text, "; ".join(details))


def _off_axis(series: Sequence[ShownSeries], limits: tuple[float, float]) -> list[tuple[str, list[int]]]:
    notes = []
    for one in series:
        off = [row for row in one.drawn if not limits[0] <= _value(row) <= limits[1]]
        if off:
            listed = ", ".join(f"{_value(row):.4g} at layer {row.layer}" for row in off[:4])
            more = f" and {len(off) - 4} more" if len(off) > 4 else ""
            notes.append((f"off the axis (triangle at its end): {listed}{more}", [one.shown.key]))
    return notes


def _in_words(series: ShownSeries) -> str:
    rows = series.drawn
    if not rows:
        return f"{series.title} has no value"
    low, high = min(rows, key=_value), max(rows, key=_value)
    return (
        f"{series.title} from {_value(rows[0]):.3g} at layer {rows[0].layer} to {_value(rows[-1]):.3g} at layer "
        f"{rows[-1].layer}, lowest {_value(low):.3g} at {low.layer}, highest {_value(high):.3g} at {high.layer}"
    )


def _value(row: Score) -> float:
    return 0.0 if row.value is None else row.value
