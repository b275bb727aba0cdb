"""The leaderboard as one HTML file that needs no server, no network and no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microscope_bench.publish.escape import html_page, relative_url
from microscope_bench.publish.grouping import TextOf, data_of, protocol_title
from microscope_bench.publish.leaderboard.board import Board, ModalityRow, ResultRow, Table
from microscope_bench.publish.leaderboard.columns import (
    MODEL_COLUMNS,
    Notes,
    dtype_text,
    meanings,
    short_reason,
    summary_lines,
)
from microscope_bench.publish.summary import (
    MODALITIES,
    Withheld,
    accuracy_text,
    show_layers,
    show_range,
    with_token_set,
)
from microscope_bench.system.printable import one_line

FILTERS = ("task", "modality", "fusion", "dtype", "tokens")
WIDTH, HEIGHT, MARGIN = 96.0, 22.0, 2.0


def render_html(board: Board, fusion_of: TextOf) -> str:
    """The page, the same text for the same rows; ``fusion_of`` gives the fusion class of a result's model."""
    sections = [_section(table, fusion_of) for table in board.tables]
    lines = [line for section in sections for line in section["lines"]]
    found = {name: {line[name] for line in lines} - {""} for name in FILTERS}
    found["modality"] &= set(MODALITIES)
    order = {"modality": MODALITIES.index}
    filters = [(name, sorted(found[name], key=order.get(name))) for name in FILTERS if len(found[name]) > 1]
    hidden = [
        {
            "url": relative_url(row.path),
            "label": row.label.text,
            "task": row.result.identity.task.name,
            "reason": short_reason(str(row.hidden_because)),
        }
        for row in board.hidden
    ]
    values = {
        "columns": meanings(board.headlines),
        "model_columns": MODEL_COLUMNS,
        "filters": filters,
        "sections": sections,
        "hidden": hidden,
    }
    return html_page("leaderboard", values)


def sparkline(curve: Sequence[tuple[int, float | None]]) -> dict[str, Any] | None:
    """A curve as ``lines``, points of SVG polylines, and ``title``, its words; a missing value interrupts it."""
    values = [value for _, value in curve if value is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    # halves, so that the difference of two huge values stays finite
    span = high / 2 - low / 2
    first, last = curve[0][0], curve[-1][0]
    runs: list[list[str]] = [[]]
    for layer, value in curve:
        if value is None:
            runs.append([])
            continue
        x = MARGIN + (WIDTH - 2 * MARGIN) * ((layer - first) / (last - first) if last > first else 0.5)
        share = (value / 2 - low / 2) / span if span > 0 else 0.5
        runs[-1].append(f"{x:.1f},{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share:.1f}")
    # a line of one point is drawn as a dot
    lines = [" ".join(run if len(run) > 1 else run * 2) for run in runs if run]
    ends = f"{values[0]:.3g} to {values[-1]:.3g}" if len(values) > 1 else f"{values[0]:.3g}"
    return {
        "lines": lines,
        "title": f"layers {show_layers([layer for layer, value in curve if value is not None])}: {ends}; "
        f"lowest {low:.3g}, highest {high:.3g}",
    }


def _section(table: Table, fusion_of: TextOf) -> dict[str, Any]:
    notes = Notes()
    first = table.rows[0].result
    fusions = {row.path: fusion_of(row.result) for row in table.rows}
    lines = [
        _line(row, line, fusions[row.path], notes)
        for modality in MODALITIES
        for row in table.rows
        for line in row.lines
        if line.modality == modality
    ]
    return {
        "protocol": protocol_title(first),
        "data": data_of(first),
        "headlines": [headline.title for headline in table.headlines],
        "lines": lines,
        "models": [_model(row, fusions[row.path]) for row in table.rows],
        "notes": list(notes),
    }


def _line(row: ResultRow, line: ModalityRow, fusion: str, notes: Notes) -> dict[str, Any]:
    return {
        "task": one_line(row.result.identity.task.name),
        "url": relative_url(row.path),
        "label": with_token_set(row.label.text, line.tokens),
        "modality": line.modality,
        "tokens": "all tokens" if line.tokens == "all" else "without sinks",
        "fusion": fusion,
        "dtype": one_line(dtype_text(row.result)),
        "cells": [_cell(*parts, notes=notes) for parts in zip(row.headlines, line.summaries, line.curves, strict=True)],
        "n_sinks": "" if line.n_sinks is None else line.n_sinks,
        "sinks": "" if line.n_sinks is None else f"{line.n_sinks:,}",
        "most_tokens": line.n_tokens[1] if line.n_tokens else "",
        "n_tokens": show_range(line.n_tokens) if line.n_tokens else "",
        "most_examples": line.n_examples[1] if line.n_examples else "",
        "n_examples": show_range(line.n_examples) if line.n_examples else "",
    }


def _cell(headline: Any, summary: Any, curve: Any, *, notes: Notes) -> dict[str, Any]:
    if isinstance(summary, Withheld):
        return {"reason": summary.reason, "marks": [notes.number(summary.reason)]}
    return {
        "reason": "",
        "value": repr(summary.mean),
        "lines": summary_lines(headline, summary),
        "marks": [notes.number(caution) for caution in summary.cautions],
        "curve": sparkline(curve),
    }


def _model(row: ResultRow, fusion: str) -> dict[str, Any]:
    return {
        "url": relative_url(row.path),
        "label": row.label.text,
        "facts": [column.text(row.result) for column in MODEL_COLUMNS],
        "fusion": fusion,
        "accuracy": accuracy_text(row.result),
        "signature": row.result.signature,
    }
