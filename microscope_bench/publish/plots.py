"""Pictures of results: one line per model over relative depth, one panel per metric and modality."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import ResultError
from microscope_bench.metrics.record import Headline
from microscope_bench.publish.figure_file import COLOURS, drawing, save, shown
from microscope_bench.publish.grouping import comparable_key, grouped, protocol_key
from microscope_bench.publish.summary import (
    MODALITIES,
    UNTRAINED,
    columns_of,
    depths_of,
    has_own_n,
    of_one_n,
    shown_name,
    watched_name,
)
from microscope_bench.results.result import FAILED, Result
from microscope_bench.results.result_files import safe_name
from microscope_bench.results.signature import protocol_label, short_revision

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

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
NOTHING = "there is nothing to draw: no complete result has a value of what was asked for"


@dataclass(frozen=True)
class PlottedLine:
    """One model in one panel, a value per layer; NaN where the result has none.

    Attributes:
        label: of the model.
        depths: where the values lie, 0 (what enters block 1) to 1 (what leaves the last block).
        values: of the metric.
        stderrs: their standard errors.
        left_out: how many values are not drawn because they are of another number of tokens.
    """

    label: str
    depths: list[float]
    values: list[float]
    stderrs: list[float]
    left_out: int = 0


def line_of(result: Result, label: str, headline: Headline, modality: str, tokens: str = "all") -> PlottedLine | None:
    """The values of one result that a panel shows; None where there is none.

    A linearity lies between two boundaries and is drawn half way. A layer without a value interrupts the line, a value
    without a standard error the band. A value on less than half as many tokens as the others is left out.
    """
    series = result.series(headline.metric, headline.estimator, headline.stream, modality, tokens)
    rows = {row.layer: row for row in of_one_n(series)}
    if all(row.value is None for row in rows.values()):
        return None
    depths = depths_of(result, headline)
    values = [rows[layer].value if layer in rows else None for layer in depths]
    stderrs = [rows[layer].stderr if layer in rows else None for layer in depths]
    return PlottedLine(
        label,
        list(depths.values()),
        [math.nan if value is None else value for value in values],
        [math.nan if stderr is None else stderr for stderr in stderrs],
        left_out=len(series) - len(rows),
    )


def draw_all(
    results: Iterable[Result],
    directory: Path,
    *,
    headlines: Sequence[Headline] = (),
    modalities: Sequence[str] = MODALITIES,
    file_format: str = "svg",
    tokens: str = "all",
) -> list[Path]:
    """Draws a picture per metric and task that the results have.

    Results that the leaderboard keeps in tables apart (another protocol, other data) get pictures apart.

    Args:
        results: complete results, controls among them; failed ones are left out.
        directory: gets ``<task>.<metric>[.<stream>][.<token set>].<format>``, with ``~2`` and so on behind the task
            where its results do not all compare; files of that name are replaced.
        headlines: the metrics; none means those that tables show.
        modalities: a panel for each that has values.
        file_format: a member of :data:`~microscope_bench.publish.figure_file.FORMATS`.
        tokens: a token set that the results hold.

    Returns:
        The files, in order.

    Raises:
        ResultError: matplotlib is not installed, or there is nothing to draw.
    """
    written, seen = [], Counter[str]()
    for together in comparable(results):
        task = safe_name(together[0].identity.task.name)
        seen[task] += 1
        name = task if seen[task] == 1 else f"{task}~{seen[task]}"
        for headline in headlines or columns_shown(together):
            parts = (name, headline.metric, headline.stream, None if tokens == "all" else tokens, file_format)
            path = directory / ".".join(part for part in parts if part)
            if draw(together, (headline,), path, modalities=modalities, tokens=tokens):
                written.append(path)
    if not written:
        raise ResultError(NOTHING)
    return written


def columns_shown(results: Iterable[Result]) -> list[Headline]:
    """What tables show of any of some results."""
    return list(dict.fromkeys(column for result in results for column in columns_of(result)))


def comparable(results: Iterable[Result]) -> list[list[Result]]:
    """The complete results, those that compare together, in an order that does not depend on the given one."""
    complete = [(result.signature, result) for result in results if result.status != FAILED]
    return [
        [result for _, result in together]
        for _, in_protocol in grouped(sorted(complete, key=lambda entry: entry[0]), protocol_key)
        for _, together in grouped(in_protocol, comparable_key)
    ]


def draw(
    results: Sequence[Result],
    headlines: Sequence[Headline],
    path: Path,
    *,
    modalities: Sequence[str] = MODALITIES,
    tokens: str = "all",
) -> bool:
    """Draws one picture: a row per metric, a column per modality, a line per result.

    The same results give the same file. Returns False, without a file, where no value exists.

    Args:
        results: comparable ones, one or more.
        headlines: the metrics; one without values gets no row.
        path: of the picture; its suffix says the format.
        modalities: those to show; one without values gets no column.
        tokens: token set.

    Raises:
        ResultError: matplotlib is not installed.
    """
    entries = named(results)
    lines = {
        (headline, modality): [
            line for label, result in entries if (line := line_of(result, label, headline, modality, tokens))
        ]
        for headline in headlines
        for modality in modalities
    }
    rows = [headline for headline in headlines if any(lines[headline, modality] for modality in modalities)]
    columns = [modality for modality in modalities if any(lines[headline, modality] for headline in headlines)]
    if not rows:
        return False
    drawn = {line.label for panel in lines.values() for line in panel}
    texts = {label: f"{label}{_counted(result, rows)}" for label, result in entries if label in drawn}
    width = 3.6 * max(len(columns), 1.25)
    in_a_row = max(1, min(5, int(width * 15 / (max(map(len, texts.values())) + 9))))
    height = 2.5 * len(rows) + 0.7 + 0.19 * -(-len(texts) // in_a_row)
    with drawing() as Figure:
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True)
        styles, handles = styles_of(entries), dict[str, "Artist"]()
        for headline, axes_of_row in zip(rows, grid, strict=True):
            for modality, axes in zip(columns, axes_of_row, strict=True):
                for line in lines[headline, modality]:
                    handles[line.label] = _plot(axes, line, styles[line.label])
                left_out = any(line.left_out for line in lines[headline, modality])
                axes.set_title(f"{modality}\n(layers of fewer tokens are not drawn)" if left_out else modality)
                axes.set_xlim(-0.02, 1.02)
                axes.grid(linewidth=0.3)
                if not lines[headline, modality]:
                    axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", color="#636363")
            axes_of_row[0].set_ylabel(headline.title)
        for axes in grid[-1]:
            axes.set_xlabel("depth (0: into block 1, 1: out of the last)")
        figure.suptitle(textwrap.fill(_title(results[0], rows, tokens), int(width * 13)), fontsize="medium")
        figure.legend(
            [handles[label] for label in texts],
            list(texts.values()),
            loc="outside lower center",
            ncols=in_a_row,
            handlelength=3.5,
            fontsize="small",
            frameon=False,
        )
        save(figure, path, "\n".join(result.signature for _, result in entries))
    return True


def _title(result: Result, headlines: Sequence[Headline], tokens: str) -> str:
    identity = result.identity
    what = f"{headlines[0].title if len(headlines) == 1 else 'value'}{'' if tokens == 'all' else f', {tokens}'}"
    data = f"{shown(identity.task.name)} at {shown(short_revision(identity.dataset.revision))}"
    return f"{what} ± one standard error: {data}, {shown(protocol_label(identity.protocol.as_dict()), 200)}"


def _counted(result: Result, headlines: Sequence[Headline]) -> str:
    """The number of tokens behind a label where the metric depends on it."""
    estimators = {(h.metric, h.estimator) for h in headlines if has_own_n(h.metric)}
    rows = [row for row in result.scores if (row.metric, row.estimator) in estimators]
    counts = sorted({row.n_tokens for row in of_one_n(rows) if row.value is not None})
    return f", n = {' / '.join(f'{count:,}' for count in counts[-2:])}" if counts else ""


def named(results: Sequence[Result]) -> list[tuple[str, Result]]:
    """The results with a label of its own each: a model, its untrained twin and its controls one after the other."""
    plain = [shown(_name(result)) for result in results]
    unique = [
        name if Counter(plain)[name] == 1 else f"{name} {result.short_id[:8]}"
        for name, result in zip(plain, results, strict=True)
    ]

    def order(entry: tuple[str, Result]) -> tuple[Any, ...]:
        label, result = entry
        return _family(result).casefold(), _family(result), list(STYLES).index(_kind(result)), label

    return sorted(zip(unique, results, strict=True), key=order)


def _name(result: Result) -> str:
    control = result.identity.model.control
    return f"{watched_name(result)}, {control}" if control else shown_name(result)


def _family(result: Result) -> str:
    return result.identity.model.name.removesuffix(UNTRAINED)


def _kind(result: Result) -> str:
    """A key of :data:`STYLES`."""
    model = result.identity.model
    kind = model.control or ("" if model.trained else "untrained")
    return kind if kind in STYLES else "untrained"


def styles_of(named: Sequence[tuple[str, Result]]) -> dict[str, dict[str, Any]]:
    """Label → how it is drawn: colour and marker by model, line by control, filling where both are the same."""
    families = list(dict.fromkeys(_family(result) for _, result in named))
    alike, styles = Counter[tuple[str, str]](), {}
    for label, result in named:
        family, kind = families.index(_family(result)), _kind(result)
        styles[label] = {
            "color": COLOURS[family % len(COLOURS)],
            "marker": MARKERS[(family + family // len(COLOURS)) % len(MARKERS)],
            "linestyle": STYLES[kind],
            "fillstyle": FILLS[alike[_family(result), kind] % len(FILLS)],
        }
        alike[_family(result), kind] += 1
    return styles


def _plot(axes: Axes, line: PlottedLine, style: dict[str, Any]) -> Artist:
    low = [value - stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    high = [value + stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    axes.fill_between(line.depths, low, high, color=style["color"], alpha=0.15, linewidth=0)
    (handle,) = axes.plot(line.depths, line.values, **style, markersize=4, linewidth=1.3)
    return handle
