"""Pictures of results: one line per model over relative depth, one panel per metric and modality."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from microscope_bench.errors import ResultError
from microscope_bench.identity import short_revision
from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import find_metric
from microscope_bench.publish.depth_lines import (
    STYLES,
    DepthPanel,
    PlottedLine,
    family_of,
    kind_of,
    limits_of,
    line_of,
    name_of,
    panels_figure,
    styles_of,
    told_apart,
)
from microscope_bench.publish.figure_file import drawing, save, shown
from microscope_bench.publish.grouping import side_by_side
from microscope_bench.publish.summary import MODALITIES, columns_of, has_own_n
from microscope_bench.results.result import FAILED, Result
from microscope_bench.results.result_files import safe_name

NOTHING = "there is nothing to draw: no complete result has a value of what was asked for"


def draw_all(
    results: Iterable[Result],
    directory: Path,
    *,
    headlines: Sequence[Headline] = (),
    modalities: Sequence[str] = MODALITIES,
    file_format: str = "svg",
    tokens: str = "all",
) -> list[Path]:
    """Draws a picture per metric and task that the results have, and gives the files.

    Results that the leaderboard keeps in tables apart get pictures apart: ``<task>.<metric>[.<stream>][.<token
    set>].<format>``, with ``~2`` and so on behind the task; files of that name are replaced. Failed results are left
    out; no ``headlines`` means those that tables show. Raises ResultError without matplotlib, or where there is nothing
    to draw.
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
    return list(dict.fromkeys(column for result in results for column in columns_of(result)))


def comparable(results: Iterable[Result]) -> list[list[Result]]:
    """The complete results, those that compare together, in an order that does not depend on the given one."""
    complete = [result for result in results if result.status != FAILED]
    in_order = sorted(complete, key=lambda result: result.signature)
    return [list(together.results) for together in side_by_side(in_order)]


def draw(
    results: Sequence[Result],
    headlines: Sequence[Headline],
    path: Path,
    *,
    modalities: Sequence[str] = MODALITIES,
    tokens: str = "all",
) -> bool:
    """Draws one picture: a row per metric, a column per modality, a line per result; False where no value exists."""
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
    panels = [
        [
            DepthPanel(modality, headline.title, found := lines[headline, modality], _limits(headline, found))
            for modality in columns
        ]
        for headline in rows
    ]
    with drawing() as Figure:
        figure = panels_figure(Figure, panels, styles_of(entries), texts)
        width = int(figure.get_figwidth() * 13)
        figure.suptitle(textwrap.fill(_title(results[0], rows, tokens), width), fontsize="medium")
        save(figure, path, "\n".join(result.signature for _, result in entries))
    return True


def _limits(headline: Headline, lines: Sequence[PlottedLine]) -> tuple[float, float] | None:
    """The ends of the axis where values lie below its floor; else matplotlib chooses them."""
    record = find_metric(headline.metric)
    floor = record.axis_floor if record else None
    below = floor is not None and any(value < floor for line in lines for value in line.values)
    return limits_of(lines, floor) if below else None


def _title(result: Result, headlines: Sequence[Headline], tokens: str) -> str:
    identity = result.identity
    what = f"{headlines[0].title if len(headlines) == 1 else 'value'}{'' if tokens == 'all' else f', {tokens}'}"
    data = f"{shown(identity.task.name)} at {shown(short_revision(identity.dataset.revision))}"
    return f"{what} ± one standard error: {data}, {shown(identity.protocol.label, 200)}"


def _counted(result: Result, headlines: Sequence[Headline]) -> str:
    estimators = {(h.metric, h.estimator) for h in headlines if has_own_n(h.metric)}
    rows = [row for row in result.scores if (row.metric, row.estimator) in estimators]
    counts = sorted({row.n_tokens for row in rows if row.value is not None})
    return f", n = {' / '.join(f'{count:,}' for count in counts[-2:])}" if counts else ""


def named(results: Sequence[Result]) -> list[tuple[str, Result]]:
    """The results with a label of its own each: a model, its untrained twin and its controls one after the other."""
    labels = told_apart([shown(name_of(result)) for result in results], results)

    def order(entry: tuple[str, Result]) -> tuple[Any, ...]:
        label, result = entry
        return family_of(result).casefold(), family_of(result), list(STYLES).index(kind_of(result)), label

    return sorted(zip(labels, results, strict=True), key=order)
