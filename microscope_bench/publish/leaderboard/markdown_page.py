"""The leaderboard page: a deterministic function of result files. It describes models; it does not rank them."""

from __future__ import annotations

from itertools import groupby

from microscope_bench.metrics.record import Headline
from microscope_bench.publish.escape import code, escape, link, table
from microscope_bench.publish.leaderboard.board import Board, ModalityRow, ResultRow, Table
from microscope_bench.publish.leaderboard.columns import MODEL_COLUMNS, Notes, meanings, short_reason, summary_lines
from microscope_bench.publish.summary import MODALITIES, Summary, Withheld, accuracy_of, show_range, with_token_set

INTRODUCTION = """\
# Leaderboard

The geometry of the residual stream inside multimodal LLMs, per modality. **These describe, they do not rank**: no value
is better than another, and the rows are sorted by name. This page is made from the files it links to by
`microscope-bench leaderboard`; do not edit it.

**How to read it.** Each cell holds the mean over all layers and the extreme with the layer where it occurs (`@`), each
± its standard error (jackknife over groups of examples, of the mean itself: the layers share their tokens). A dash
stands where a layer has no value; the note says why.
"""

NO_BREAK = "\N{NO-BREAK SPACE}"


def render_board(board: Board) -> str:
    """The page of a board as markdown."""
    meaning = [list(map(escape, pair)) for pair in meanings(board.headlines)]
    parts = [INTRODUCTION, table(["column", "meaning"], meaning, "left") + "\n"]
    if not board.tables:
        parts.append("There are no results yet.\n")
    for protocol, tables in groupby(board.tables, key=lambda entry: entry.protocol):
        parts.append(f"## {protocol.markdown}\n")
        for entry in tables:
            parts += _task_section(entry)
    if board.hidden:
        parts.append("## Not shown\n")
        parts.append("\n".join(map(_hidden_line, board.hidden)) + "\n")
    return "\n".join(parts)


def _task_section(entry: Table) -> list[str]:
    notes = Notes()
    parts = [f"### {entry.data.title}\n", f"{entry.data.description}\n"]
    for modality in MODALITIES:
        body = [
            _geometry_cells(row, line, notes) for row in entry.rows for line in row.lines if line.modality == modality
        ]
        if body:
            headers = ["model", *(escape(one.title) for one in entry.headlines), "sinks", "tokens", "examples"]
            parts += [f"#### {modality}\n", table(headers, body) + "\n"]
    headers = ["model", *(column.title for column in MODEL_COLUMNS), "accuracy", "signature", "file"]
    parts += ["#### models\n", table(headers, [_model_cells(row, notes) for row in entry.rows]) + "\n"]
    if notes:
        parts.append(_notes_text(notes) + "\n")
    parts.append("Signatures:\n")
    parts.append("\n".join(f"- {row.label.markdown}: {code(row.result.signature)}" for row in entry.rows) + "\n")
    return parts


def _geometry_cells(row: ResultRow, line: ModalityRow, notes: Notes) -> list[str]:
    label = with_token_set(row.label.markdown, line.tokens)
    cells = [_summary_cell(*pair, notes) for pair in zip(row.headlines, line.summaries, strict=True)]
    sinks = "" if line.n_sinks is None else f"{line.n_sinks:,}"
    counts = ["" if ends is None else show_range(ends) for ends in (line.n_tokens, line.n_examples)]
    return [label, *cells, sinks, *counts]


def _summary_cell(headline: Headline, summary: Summary | Withheld, notes: Notes) -> str:
    if isinstance(summary, Withheld):
        return f"—{_mark(notes, summary.reason)}"
    marks = "".join(_mark(notes, caution) for caution in summary.cautions)
    lines = [f"{what} {number}" for what, number in summary_lines(headline, summary)]
    return "<br>".join(lines).replace(" ", NO_BREAK) + marks  # a number and its error stay on one line


def _model_cells(row: ResultRow, notes: Notes) -> list[str]:
    accuracy = accuracy_of(row.result)
    if isinstance(accuracy, Withheld):
        accuracy = f"—{_mark(notes, f'accuracy: {accuracy.reason}')}"
    facts = [escape(column.text(row.result)) for column in MODEL_COLUMNS]
    return [row.label.markdown, *facts, accuracy, code(row.result.short_id), link("JSON", row.path)]


def _mark(notes: Notes, reason: str) -> str:
    return f"<sup>{notes.number(reason)}</sup>"


def _notes_text(notes: Notes) -> str:
    return "<br>\n".join(f"<sup>{k}</sup> {escape(reason)}" for reason, k in notes.items())


def _hidden_line(row: ResultRow) -> str:
    shown = short_reason(str(row.hidden_because))
    return f"- {link(row.label.markdown, row.path)} on {escape(row.result.identity.task.name)}: {escape(shown)}"
