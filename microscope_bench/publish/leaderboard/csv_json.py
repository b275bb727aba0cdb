"""The leaderboard for other programs: CSV and JSON, one record per model, modality, token set and headline metric."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from microscope_bench.metrics.record import Headline
from microscope_bench.publish.escape import csv_cell
from microscope_bench.publish.grouping import TextOf
from microscope_bench.publish.leaderboard.board import Board, ModalityRow, ResultRow
from microscope_bench.publish.summary import Summary, Withheld, accuracy_of
from microscope_bench.results.data_frame import identity_columns
from microscope_bench.system.printable import seen

VERSION = 1
"""Of the layout of the JSON form; raised when a field changes its name or meaning."""


def records(board: Board, fusion_of: TextOf) -> Iterator[dict[str, Any]]:
    """One flat record per row, modality, token set and headline, in the order of the page; floats are finite."""
    for table in board.tables:
        for row in table.rows:
            same = identity_columns(row.result.identity, row.result.inputs.n_examples, row.result.signature)
            same |= {"model": row.label.name, "fusion": fusion_of(row.result)}
            for line in row.lines:
                for headline, summary in zip(row.headlines, line.summaries, strict=True):
                    yield {**same, **_line(line), **_summary(headline, summary), **_source(row)}


def to_csv(board: Board, fusion_of: TextOf) -> str:
    """The records as CSV with a head line (RFC 4180, but lines end in a line feed); unsafe text is escaped."""
    rows = list(records(board, fusion_of))
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: csv_cell(value) for name, value in row.items()})
    return file.getvalue()


def to_json(board: Board, fusion_of: TextOf) -> str:
    hidden = [
        {
            "path": row.path,
            "model": row.label.name,
            "task": row.result.identity.task.name,
            "reason": row.hidden_because,
        }
        for row in board.hidden
    ]
    document = {"version": VERSION, "rows": list(records(board, fusion_of)), "not_shown": hidden}
    return seen(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)) + "\n"


def _line(line: ModalityRow) -> dict[str, Any]:
    tokens, examples = line.n_tokens or (None, None), line.n_examples or (None, None)
    return {
        "modality": line.modality,
        "tokens": line.tokens,
        "n_sinks": line.n_sinks,
        "n_tokens_min": tokens[0],
        "n_tokens_max": tokens[1],
        "n_examples_min": examples[0],
        "n_examples_max": examples[1],
    }


def _summary(headline: Headline, summary: Summary | Withheld) -> dict[str, Any]:
    known = {"metric": headline.metric, "estimator": headline.estimator, "stream": headline.stream}
    ends = {"extreme_is": headline.extreme, "cautions": "", "reason": None}
    numbers = ("mean", "mean_stderr", "extreme", "extreme_stderr")
    if isinstance(summary, Withheld):
        empty = dict.fromkeys((*numbers, "extreme_layer", "n_min", "n_max"))
        return {**known, **empty, **ends, "reason": summary.reason}
    n_min, n_max = summary.n_tokens
    shown = {**{name: getattr(summary, name) for name in numbers}, "extreme_layer": summary.layer}
    return {**known, **shown, "n_min": n_min, "n_max": n_max, **ends, "cautions": "; ".join(summary.cautions)}


def _source(row: ResultRow) -> dict[str, Any]:
    accuracy = row.result.accuracy
    shown = not isinstance(accuracy_of(row.result), Withheld)
    return {
        "accuracy": accuracy.value if accuracy and shown else None,
        "accuracy_stderr": accuracy.stderr if accuracy and shown else None,
        "path": row.path,
    }
