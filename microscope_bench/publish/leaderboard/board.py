"""What every form of the leaderboard is made of: one row per result, its summaries computed once.

A row holds its result without the scores: a thousand results fit into memory as rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import DEFAULT_METRICS, headlines
from microscope_bench.publish.escape import code, escape
from microscope_bench.publish.grouping import DataHeading, ProtocolHeading, side_by_side
from microscope_bench.publish.summary import (
    Summary,
    Withheld,
    columns_of,
    has_own_n,
    measured_modalities,
    shown_name,
    sinks_of,
    summarise,
    token_sets,
)
from microscope_bench.results.result import FAILED, Result


@dataclass(frozen=True)
class Label:
    """A model's name in one table, with what tells it from the others there: plain text, not to be trusted."""

    name: str
    dtype: str = ""
    short_id: str = ""
    path: str = ""

    @property
    def markdown(self) -> str:
        parts = (escape(self.name), escape(self.dtype), code(self.short_id) if self.short_id else "", escape(self.path))
        return " ".join(part for part in parts if part)

    @property
    def text(self) -> str:
        """The label as it is; whoever prints it escapes it."""
        return " ".join(part for part in (self.name, self.dtype, self.short_id, self.path) if part)


@dataclass(frozen=True)
class ModalityRow:
    """What one result says of one modality in one token set.

    Per headline there is a summary, or why there is none, and a curve of (layer, value or None). ``n_sinks`` is None
    where nobody looked for them; ``n_tokens`` and ``n_examples`` are the fewest and the most of any value.
    """

    modality: str
    tokens: str
    summaries: tuple[Summary | Withheld, ...]
    curves: tuple[tuple[tuple[int, float | None], ...], ...]
    n_sinks: int | None
    n_tokens: tuple[int, int] | None
    n_examples: tuple[int, int] | None


@dataclass(frozen=True)
class ResultRow:
    """One result, without its scores, at a path relative to the page; the label tells rows of one table apart.

    ``hidden_because`` is why no table shows it, or None: a control, attention knockout, a failed run.
    """

    path: str
    result: Result
    headlines: tuple[Headline, ...]
    lines: tuple[ModalityRow, ...]
    label: Label
    hidden_because: str | None


@dataclass(frozen=True)
class Table:
    """Rows that may stand side by side: one protocol with the same changes, the same data, the same metric versions."""

    protocol: ProtocolHeading
    data: DataHeading
    rows: tuple[ResultRow, ...]

    @property
    def headlines(self) -> tuple[Headline, ...]:
        """The columns that all rows have: what is comparable has the same metrics."""
        return self.rows[0].headlines


@dataclass(frozen=True)
class Board:
    tables: tuple[Table, ...]
    hidden: tuple[ResultRow, ...]

    @property
    def headlines(self) -> tuple[Headline, ...]:
        """The columns that any table has; those of the default metrics where there is no table."""
        found = [one for table in self.tables for one in table.headlines] or headlines()
        return tuple(dict.fromkeys(found))


def board_of(entries: Iterable[tuple[str, Result]]) -> Board:
    """The leaderboard of (path relative to the page, result), in any order; the results' scores are not kept."""
    return board_of_rows(row_of(path, result) for path, result in entries)


def board_of_rows(rows: Iterable[ResultRow]) -> Board:
    rows = sorted(rows, key=lambda row: row.path)
    return Board(
        tables_of([row for row in rows if row.hidden_because is None]),
        tuple(row for row in rows if row.hidden_because is not None),
    )


def tables_of(rows: Iterable[ResultRow]) -> tuple[Table, ...]:
    by_result = {id(row.result): row for row in rows}
    return tuple(
        Table(together.protocol, together.data, _told_apart([by_result[id(result)] for result in together.results]))
        for together in side_by_side(row.result for row in by_result.values())
    )


def row_of(path: str, result: Result) -> ResultRow:
    columns = columns_of(result)
    lines = [
        _modality_row(result, columns, modality, token_set)
        for modality in measured_modalities(result)
        for token_set in token_sets(result, modality)
    ]
    return ResultRow(
        path=path,
        result=structs.replace(result, scores=()),
        headlines=columns,
        lines=tuple(lines),
        label=Label(shown_name(result)),
        hidden_because=_why_hidden(result),
    )


def _why_hidden(result: Result) -> str | None:
    control = result.identity.model.control
    reasons = [f"control: {control}"] if control else []
    if result.identity.protocol.window is not None:
        reasons.append("attention knockout, of which no table tells")
    if result.status == FAILED:
        error = result.error
        reasons.append(f"failed in {error.where}: {error.type}: {error.message}" if error else "failed")
    return "; ".join(reasons) or None


def _modality_row(result: Result, columns: Sequence[Headline], modality: str, token_set: str) -> ModalityRow:
    # the metrics that keep duplicates count every token; those that drop them name their own n
    counting = {name for name in DEFAULT_METRICS if not has_own_n(name)}
    of_set = {series: rows for series, rows in result.by_series.items() if series[3:] == (modality, token_set)}
    counted = [s for (metric, *_), rows in of_set.items() if metric in counting for s in rows]
    counted = counted or [s for rows in of_set.values() for s in rows]
    sinks = sinks_of(result, modality)
    n_sinks = 0 if token_set != "all" else None if sinks is None else sinks.n_sinks
    series = [result.series(one.metric, one.estimator, one.stream, modality, token_set) for one in columns]
    return ModalityRow(
        modality=modality,
        tokens=token_set,
        summaries=tuple(summarise(result, one, modality, token_set) for one in columns),
        curves=tuple(tuple((s.layer, s.value) for s in rows) for rows in series),
        n_sinks=n_sinks,
        n_tokens=_ends([s.n_tokens for s in counted]),
        n_examples=_ends([s.n_examples for s in counted]),
    )


def _ends(numbers: Sequence[int]) -> tuple[int, int] | None:
    return (min(numbers), max(numbers)) if numbers else None


def _told_apart(rows: Sequence[ResultRow]) -> tuple[ResultRow, ...]:
    def order(row: ResultRow) -> tuple[str, ...]:
        model = row.result.identity.model
        return (model.name.casefold(), model.name, model.repo, model.revision, row.result.short_id, row.path)

    rows = sorted(rows, key=order)
    names = [row.label.name for row in rows]
    ids = [row.result.short_id[:8] for row in rows]
    choices = (
        [Label(name) for name in names],
        [Label(name, dtype=row.result.identity.model.dtype) for name, row in zip(names, rows, strict=True)],
        [Label(name, short_id=digits) for name, digits in zip(names, ids, strict=True)],
        [Label(n, short_id=digits, path=row.path) for n, digits, row in zip(names, ids, rows, strict=True)],
    )
    seen = [Counter(label.markdown for label in labels) for labels in choices]
    labels = [
        next((c[k] for c, count in zip(choices[:-1], seen, strict=False) if count[c[k].markdown] == 1), choices[-1][k])
        for k in range(len(rows))
    ]
    return tuple(replace(row, label=label) for row, label in zip(rows, labels, strict=True))
