"""Lines over relative depth, as every picture of results draws them: the values, their bands, and how lines look."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microscope_bench.identity import UNTRAINED
from microscope_bench.metrics.record import Headline
from microscope_bench.publish.figure_file import COLOURS
from microscope_bench.publish.summary import depths_of, shown_name, watched_name
from microscope_bench.results.result import Result

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
FILLS = ("full", "none", "left", "right", "top", "bottom")
STYLES: dict[str, Any] = {
    "": "-",
    "untrained": (0, (4, 1.5)),
    "shuffled_image": (0, (1, 1)),
    "noise_image": (0, (4, 1, 1, 1)),
    "text_only": (0, (4, 1, 1, 1, 1, 1)),
    "permuted_tokens": (0, (8, 2)),
}
"""Control → how its line is drawn; an untrained model is drawn like the control of that name."""

DEPTH = "depth (0: into block 1, 1: out of the last)"

PANEL_WIDTH, PANEL_HEIGHT, TITLE = 3.6, 2.6, 0.45
"""Inches; TITLE is the room above all."""

_LARGEST = 1e300  # differences of larger numbers leave the range of float64


@dataclass(frozen=True)
class PlottedLine:
    """One model in one panel, a value per layer; NaN where the result has none.

    ``depths`` go from 0 (what enters block 1) to 1 (what leaves the last block). The values at the places
    ``ringed`` get a ring.
    """

    label: str
    depths: list[float]
    values: list[float]
    stderrs: list[float]
    ringed: tuple[int, ...] = ()


@dataclass(frozen=True)
class DepthPanel:
    """Lines in one axis, which says ``what`` it holds and ``over`` what; without ``limits`` matplotlib has its way."""

    title: str
    what: str
    lines: Sequence[PlottedLine]
    limits: tuple[float, float] | None = None
    over: str = DEPTH


def line_of(result: Result, label: str, headline: Headline, modality: str, tokens: str = "all") -> PlottedLine | None:
    """The values of one result that a panel shows; None where there is none.

    What lies between two boundaries is drawn half way. A layer without a value interrupts the line, a value without a
    standard error the band.
    """
    series = result.series(headline.metric, headline.estimator, headline.stream, modality, tokens)
    rows = {row.layer: row for row in series if row.value is not None}
    if not rows:
        return None
    depths = depths_of(result, headline)
    values = [rows[layer].value if layer in rows else None for layer in depths]
    stderrs = [rows[layer].stderr if layer in rows else None for layer in depths]
    return PlottedLine(
        label,
        list(depths.values()),
        [math.nan if value is None else max(-_LARGEST, min(_LARGEST, value)) for value in values],
        [math.nan if stderr is None else min(_LARGEST, stderr) for stderr in stderrs],
    )


def limits_of(lines: Iterable[PlottedLine], floor: float | None = None) -> tuple[float, float]:
    """Both ends of the axis for lines with at least one value: bands far wider than the values' range may leave it."""
    pairs = [pair for line in lines for pair in zip(line.values, line.stderrs, strict=True) if not math.isnan(pair[0])]
    if floor is not None and any(value > floor for value, _ in pairs):
        pairs = [(value, stderr) for value, stderr in pairs if value >= floor]
    low, high = min(value for value, _ in pairs), max(value for value, _ in pairs)
    reach = 1.5 * max(high - low, 1e-6, 0.005 * max(abs(low), abs(high)))
    errors = [(value, 0.0 if math.isnan(stderr) else stderr) for value, stderr in pairs]
    bottom = max(min(value - stderr for value, stderr in errors), low - reach)
    top = min(max(value + stderr for value, stderr in errors), high + reach)
    margin = 0.05 * max(top - bottom, reach / 1.5)
    return bottom - margin, top + margin


def styles_of(named: Sequence[tuple[str, Result]]) -> dict[str, dict[str, Any]]:
    """Label → how it is drawn: colour and marker by model, line by control, filling where both are the same."""
    families = list(dict.fromkeys(family_of(result) for _, result in named))
    alike, styles = Counter[tuple[str, str]](), {}
    for label, result in named:
        family, kind = families.index(family_of(result)), kind_of(result)
        styles[label] = {
            "color": COLOURS[family % len(COLOURS)],
            "marker": MARKERS[(family + family // len(COLOURS)) % len(MARKERS)],
            "linestyle": STYLES[kind],
            "fillstyle": FILLS[alike[family_of(result), kind] % len(FILLS)],
        }
        alike[family_of(result), kind] += 1
    return styles


def panels_figure(
    Figure: type[Figure],
    panels: Sequence[Sequence[DepthPanel]],
    styles: Mapping[str, dict[str, Any]],
    texts: Mapping[str, str],
) -> Figure:
    """Panels in rows, one legend below; ``styles`` and ``texts`` (of the legend, in its order) are by label."""
    n_rows, n_columns = len(panels), max(map(len, panels))
    width = max(PANEL_WIDTH * n_columns, 4.5)
    in_a_row = max(1, min(5, int(width * 15 / (max(map(len, texts.values())) + 9))))
    legend = 0.19 * -(-len(texts) // in_a_row) + 0.15
    height = PANEL_HEIGHT * n_rows + legend + TITLE
    # in inches, not by a layout engine: it would measure every text, which takes most of the time
    figure = Figure(figsize=(width, height))
    place = {
        "left": 0.75 / width,
        "right": 1 - 0.15 / width,
        "bottom": (legend + 0.5) / height,
        "top": 1 - (TITLE + 0.4) / height,
        "wspace": 0.75 / (PANEL_WIDTH - 0.75),
        "hspace": 0.75 / (PANEL_HEIGHT - 0.75),
    }
    grid = figure.subplots(n_rows, n_columns, squeeze=False, gridspec_kw=place)
    handles: dict[str, Artist] = {}
    for row, axes_of_row in zip(panels, grid, strict=True):
        for axes in axes_of_row[len(row) :]:
            axes.set_axis_off()
        for panel, axes in zip(row, axes_of_row, strict=False):
            handles |= {line.label: _draw_line(axes, line, styles[line.label]) for line in panel.lines}
            _finish(axes, panel)
        axes_of_row[0].set_ylabel(row[0].what)
        axes_of_row[0].yaxis.set_label_coords(-0.18, 0.5)
    for panel, axes in zip(panels[-1], grid[-1], strict=False):
        axes.set_xlabel(panel.over)
        axes.xaxis.set_label_coords(0.5, -0.14)
    figure.legend(
        [handles[label] for label in texts],
        list(texts.values()),
        loc="lower center",
        ncols=in_a_row,
        handlelength=3.5,
        fontsize="small",
        frameon=False,
    )
    return figure


def _draw_line(axes: Axes, line: PlottedLine, style: dict[str, Any]) -> Artist:
    low = [value - stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    high = [value + stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    axes.fill_between(line.depths, low, high, color=style["color"], alpha=0.15, linewidth=0)
    (handle,) = axes.plot(line.depths, line.values, **style, markersize=4, linewidth=1.3)
    if line.ringed:
        xs, ys = ([values[k] for k in line.ringed] for values in (line.depths, line.values))
        axes.plot(xs, ys, "o", color="#1b1b1b", fillstyle="none", markersize=9, linestyle="none")
    return handle


def _finish(axes: Axes, panel: DepthPanel) -> None:
    axes.set_title(panel.title)
    if panel.over == DEPTH:
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.grid(linewidth=0.3)
    if not panel.lines:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color="#636363")
    if panel.limits is None:
        return
    low, high = panel.limits
    axes.set_ylim(low, high)
    points = [point for line in panel.lines for point in zip(line.depths, line.values, strict=True)]
    below, above = [d for d, value in points if value < low], [d for d, value in points if value > high]
    for places, end, marker in ((below, low, "v"), (above, high, "^")):
        if places:  # what lies off the axis is a triangle at its end
            axes.plot(places, [end] * len(places), marker, color="#1b1b1b", markersize=5, clip_on=False)


def told_apart(names: Sequence[str], results: Sequence[Result]) -> list[str]:
    alike = Counter(names)
    return [
        name if alike[name] == 1 else f"{name} {result.short_id[:8]}"
        for name, result in zip(names, results, strict=True)
    ]


def name_of(result: Result) -> str:
    control = result.identity.model.control
    return f"{watched_name(result)}, {control}" if control else shown_name(result)


def family_of(result: Result) -> str:
    """What a model, its untrained twin and its controls have in common."""
    return result.identity.model.name.removesuffix(UNTRAINED)


def kind_of(result: Result) -> str:
    model = result.identity.model
    kind = model.control or ("" if model.trained else "untrained")
    return kind if kind in STYLES else "untrained"
