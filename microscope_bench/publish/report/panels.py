"""The panels of a report as data: curves, bands and marks with their places, and the table of the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import find_metric
from microscope_bench.publish.report.axis import (
    LABEL_GAP,
    LEFT,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    RIGHT,
    TOP,
    Scale,
    scale_of,
    shorten,
    spread,
)
from microscope_bench.publish.report.curves import TOKEN_SET_TITLES, ShownSeries
from microscope_bench.publish.report.notes import (
    BARE_FLAGS,
    comparison,
    counted,
    differing_layers,
    incomparable,
    notes_of,
)
from microscope_bench.publish.summary import plus_minus
from microscope_bench.results.result import Score

LABEL_ROOM = RIGHT - 14
"""Pixels for the label at a curve."""


@dataclass(frozen=True)
class Mark:
    """One value: its symbol's id and place, what it says, and whether it differs from the baseline."""

    symbol: str
    x: str
    y: str
    says: str
    differs: bool


@dataclass(frozen=True)
class Curve:
    """One series as drawn: SVG paths for line and band (an interruption begins a new stroke), marks and a label."""

    title: str
    colour: str
    dash: str
    line: str
    band: str
    marks: tuple[Mark, ...]
    label: str
    label_y: str
    leader: str


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    place: str
    text: str


@dataclass(frozen=True)
class Cell:
    """A value in a table, or a dash, and whether it differs from the baseline."""

    text: str
    differs: bool = False


@dataclass(frozen=True)
class Panel:
    """One modality of one metric.

    Attributes:
        title: the modality and the token set.
        says: the same as the curves in words, for who does not see them.
        height: of the area that the curves lie in.
        ticks: of the vertical axis.
        curves: one per series that has a value.
        comparison: how the second of two results differs from the first; "" where not two are compared.
        notes: (warning, the numbers of the results that it concerns).
        columns: (title, n) of each column of the table.
        rows: (layer, cells) of the table.
    """

    title: str
    says: str
    height: int
    ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    comparison: str
    notes: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[int, list[Cell]], ...]


def scales(panels: Sequence[tuple[str, list[ShownSeries]]]) -> dict[str, Scale]:
    """Modality → the axis that its panels share, whatever their token set; without those that have no value at all."""
    values: dict[str, list[tuple[float, float]]] = {}
    floor = None
    for one in (one for _, series in panels for one in series):
        record = find_metric(one.headline.metric)
        floor = record.axis_floor if record else None
        pairs = [(row.value, row.stderr or 0.0) for row in one.drawn if row.value is not None]
        values.setdefault(one.modality, []).extend(pairs)
    return {modality: scale_of(pairs, floor) for modality, pairs in values.items() if pairs}


def panel_of(title: str, series: Sequence[ShownSeries], headline: Headline, scale: Scale | None) -> Panel:
    """Places one panel; two series of which the first is a baseline are compared."""
    compared = len(series) == 2 and series[0].shown.baseline and series[0].shown is not series[1].shown
    differ: set[int] = set()
    if compared and incomparable(*series) is None:
        differ = set(differing_layers(*series)[0])
    with_values = [one for one in series if one.drawn] if scale else []
    height = max(PLOT_HEIGHT, LABEL_GAP * len(with_values))
    notes = notes_of(series)
    curves = []
    if scale:
        ends = [TOP + max(0.0, min(height, scale.place(_value(one.drawn[-1]), height))) for one in with_values]
        places = spread(ends, TOP + 3.0, TOP + height - 3.0, LABEL_GAP)
        curves = [
            _curve(one, scale, height, end, place, differ if compared and one is series[1] else set())
            for one, end, place in zip(with_values, ends, places, strict=True)
        ]
        notes += _off_axis(series, scale)
    columns = [(f"{one.shown.key} {one.title}", counted(one)) for one in series]
    if compared:
        columns.append(("differs", "beyond both standard errors"))
    layers = sorted({layer for one in series for layer in one.layers})
    by_layer = [{row.layer: row for row in one.rows} for one in series]
    return Panel(
        title=title,
        says=_in_words(title, series, headline),
        height=height,
        ticks=tuple(Tick(_short(TOP + scale.place(v, height)), text) for v, text in scale.ticks) if scale else (),
        curves=tuple(curves),
        comparison=comparison(*series) if compared else "",
        notes=tuple((text, _whose(keys, series)) for text, keys in notes),
        columns=tuple(columns),
        rows=tuple(
            (
                layer,
                [_cell(one, by.get(layer)) for one, by in zip(series, by_layer, strict=True)]
                + _verdict(compared, layer in differ),
            )
            for layer in layers
        ),
    )


def _whose(keys: Sequence[int], series: Sequence[ShownSeries]) -> str:
    everybody = len(keys) > 3 and set(keys) == {one.shown.key for one in series}
    return "all" if everybody else ", ".join(map(str, keys))


def _verdict(compared: bool, differs: bool) -> list[Cell]:
    return [Cell("yes" if differs else "", differs)] if compared else []


def _curve(series: ShownSeries, scale: Scale, height: int, end: float, label_y: float, differ: set[int]) -> Curve:
    rows = series.drawn
    wrong = series.tokens.startswith("wrong")
    runs: list[list[Score]] = []
    for row in rows:
        if runs and runs[-1][-1].layer == row.layer - 1:
            runs[-1].append(row)
        else:
            runs.append([row])

    def point(row: Score, value: float) -> str:
        return f"{_short(_x(series, row.layer))} {_short(TOP + scale.place(value, height))}"

    line = "".join("M" + "L".join(point(row, _value(row)) for row in run) for run in runs if len(run) > 1)
    band = ""
    for run in runs:
        for part in _with_stderr(run):
            high = [point(row, _value(row) + (row.stderr or 0.0)) for row in part]
            low = [point(row, _value(row) - (row.stderr or 0.0)) for row in reversed(part)]
            band += "M" + "L".join(high + low) + "Z"
    marks = []
    for row in rows:
        value = _value(row)
        symbol = series.shown.marker
        if not scale.holds(value):
            symbol = "below" if value < scale.low else "above"
        y = TOP + max(0.0, min(height, scale.place(value, height)))
        marks.append(Mark(symbol, _short(_x(series, row.layer)), _short(y), says(series, row), row.layer in differ))
    label = shorten(f"{series.shown.key} {_direct(series)}", LABEL_ROOM)
    x = _x(series, rows[-1].layer)
    leader = f"M{_short(x + 4)} {_short(end)}L{LEFT + PLOT_WIDTH + 8} {_short(label_y)}"
    dash = "3 2" if wrong else series.shown.dash
    return Curve(series.title, series.shown.colour, dash, line, band, tuple(marks), label, _short(label_y), leader)


def _direct(series: ShownSeries) -> str:
    """The label at a curve: which half of the examples comes first where there are two of a model."""
    half = series.title.rpartition(", ")[2]
    return f"{half}: {series.shown.label}" if series.title != series.shown.label else series.title


def _with_stderr(run: Sequence[Score]) -> list[list[Score]]:
    """The stretches of two and more scores with a standard error."""
    parts: list[list[Score]] = [[]]
    for row in run:
        if row.stderr is None:
            parts.append([])
        else:
            parts[-1].append(row)
    return [part for part in parts if len(part) > 1]


def says(series: ShownSeries, row: Score) -> str:
    """A value in words: number of the result, layer, value ± standard error, n, flags."""
    flags = [flag for flag in row.flags if flag.partition("=")[0] not in BARE_FLAGS]
    half = f" {TOKEN_SET_TITLES[series.tokens]}" if series.tokens.startswith(("correct", "wrong")) else ""
    n = f"n = {row.n_tokens:,}; {row.n_examples:,} examples"
    said = f"{series.shown.key}{half}, layer {row.layer}: {value_text(row)} ({n})"
    return "; ".join([said, *flags])


def value_text(row: Score) -> str:
    """A value ± its standard error, or that it has none."""
    if row.value is None:
        return "no value"
    return f"{row.value:.4g} (no standard error)" if row.stderr is None else plus_minus(row.value, row.stderr)


def _cell(series: ShownSeries, row: Score | None) -> Cell:
    if row is None or row.value is None:
        return Cell("—")
    return Cell(value_text(row) + ("" if row in series.drawn else " *"))


def _off_axis(series: Sequence[ShownSeries], scale: Scale) -> list[tuple[str, list[int]]]:
    notes = []
    for one in series:
        off = [row for row in one.drawn if not scale.holds(_value(row))]
        if off:
            listed = ", ".join(f"{_value(row):.4g} at layer {row.layer}" for row in off[:4])
            more = f" and {len(off) - 4} more" if len(off) > 4 else ""
            notes.append((f"off the axis (triangle at its end): {listed}{more}", [one.shown.key]))
    return notes


def _in_words(title: str, series: Sequence[ShownSeries], headline: Headline) -> str:
    words = []
    for one in series:
        rows = one.drawn
        if not rows:
            words.append(f"{one.title} has no value")
            continue
        low, high = min(rows, key=_value), max(rows, key=_value)
        words.append(
            f"{one.title} from {_value(rows[0]):.3g} at layer {rows[0].layer} to {_value(rows[-1]):.3g} at layer "
            f"{rows[-1].layer}, lowest {_value(low):.3g} at {low.layer}, highest {_value(high):.3g} at {high.layer}"
        )
    return f"{headline.title} over relative depth, {title}. {'; '.join(words)}. The table below has every value."


def _x(series: ShownSeries, layer: int) -> float:
    return LEFT + series.depth(layer) * PLOT_WIDTH


def _value(row: Score) -> float:
    return 0.0 if row.value is None else row.value


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
