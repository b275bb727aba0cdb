"""One metric of a report: a picture of its panels, drawn as ``plot`` draws, and the panels' words and tables."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import find_metric
from microscope_bench.publish.depth_lines import (
    DepthPanel,
    PlottedLine,
    limits_of,
    line_of,
    panels_figure,
    styles_of,
)
from microscope_bench.publish.figure_file import drawing, shown
from microscope_bench.publish.report.curves import Panels, Shown, ShownSeries, panels_of
from microscope_bench.publish.report.panels import Panel, panel_of

BASELINE = "#767676"
IN_A_ROW = 3


@dataclass(frozen=True)
class Chart:
    """Some panels of one metric: their picture as a data URI ("" without any value), the same in words, the rest."""

    picture: str
    says: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class MetricCharts:
    title: str
    explained: str
    whole: Chart
    halves: Chart | None


def charts_of(headline: Headline, several: Sequence[Shown]) -> MetricCharts:
    whole, halves = panels_of(several, headline), panels_of(several, headline, halves=True)
    limits = _limits([*whole, *halves], headline)
    return MetricCharts(
        headline.title,
        headline.in_report or headline.explanation,
        _chart(headline, whole, limits),
        _chart(headline, halves, limits) if halves else None,
    )


def _limits(panels: Panels, headline: Headline) -> dict[str, tuple[float, float]]:
    """Modality → the axis that its panels share, whatever their token set; without those that have no value at all."""
    record = find_metric(headline.metric)
    lines: dict[str, list[PlottedLine]] = {}
    for _, series in panels:
        lines.setdefault(series[0].modality, []).extend(filter(None, map(_line, series)))
    floor = record.axis_floor if record else None
    return {modality: limits_of(found, floor) for modality, found in lines.items() if found}


def _chart(headline: Headline, panels: Panels, limits: dict[str, tuple[float, float]]) -> Chart:
    made = [panel_of(title, series, limits.get(series[0].modality)) for title, series in panels]
    drawn: list[DepthPanel] = []
    for (title, series), panel in zip(panels, made, strict=True):
        lines = [line for one in series if (line := _line(one, panel.differing if one is series[-1] else frozenset()))]
        drawn.append(DepthPanel(title, headline.title, lines, limits.get(series[0].modality)))
    every = {_label(one): one for _, series in panels for one in series if one.drawn}
    words = " ".join(panel.says for panel in made)
    says = f"{headline.title} over relative depth. {words} The tables have every value."
    return Chart(_picture(drawn, every) if every else "", says, tuple(made))


def _line(series: ShownSeries, differing: frozenset[int] = frozenset()) -> PlottedLine | None:
    line = line_of(series.shown.result, _label(series), series.headline, series.modality, series.tokens)
    return line and replace(line, ringed=tuple(k for k, layer in enumerate(series.layers) if layer in differing))


def _label(series: ShownSeries) -> str:
    return f"{series.shown.key} {shown(series.title)}"


def _picture(panels: Sequence[DepthPanel], every: dict[str, ShownSeries]) -> str:
    styles = styles_of([(label, one.shown.result) for label, one in every.items()])
    for label, one in every.items():
        changes: dict[str, Any] = {"color": BASELINE} if one.shown.baseline else {}
        if one.tokens.startswith("wrong"):
            changes |= {"linestyle": (0, (1, 1)), "fillstyle": "none"}
        styles[label] |= changes
    rows = [panels[k : k + IN_A_ROW] for k in range(0, len(panels), IN_A_ROW)]
    written = io.BytesIO()
    with drawing(**{"svg.fonttype": "none"}) as Figure:
        figure = panels_figure(Figure, rows, styles, {label: label for label in every})
        with warnings.catch_warnings():  # the browser that shows the letters has fonts of its own
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(written, format="svg", metadata={"Date": None})
    # a hundredth of a point is enough, and halves the page
    svg = re.sub(rb"(\d\.\d\d)\d{2,}", rb"\1", written.getvalue())
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
