"""Rows of the leaderboard as LaTeX tables for a paper (booktabs)."""

from __future__ import annotations

from collections.abc import Iterable

from microscope_bench.metrics.record import Headline
from microscope_bench.publish.escape import latex
from microscope_bench.publish.grouping import data_of, protocol_title
from microscope_bench.publish.leaderboard.board import ModalityRow, ResultRow, Table
from microscope_bench.publish.leaderboard.columns import Notes
from microscope_bench.publish.summary import (
    MODALITIES,
    Summary,
    Withheld,
    has_own_n,
    plus_minus,
    show_range,
    with_token_set,
)
from microscope_bench.system.printable import one_line


def latex_tables(tables: Iterable[Table]) -> str:
    """One ``table*`` (booktabs) for each table of a leaderboard: the mean over the layers ± its standard error."""
    return "\n".join(map(_table, tables))


def _table(table: Table) -> str:
    first = table.rows[0].result
    data = data_of(first)
    titles = [headline.title for headline in table.headlines]
    notes = Notes()
    head = ["model", "modality", *titles, "tokens", "examples"]
    body = []
    for modality in MODALITIES:
        cells = [_cells(row, line, notes) for row in table.rows for line in row.lines if line.modality == modality]
        if cells:
            body += [" & ".join(row) + r" \\" for row in cells] + [r"\midrule"]
    caption = (
        f"Geometry of the residual stream on {data.title} ({data.source} at {data.revision}, split {data.split}), "
        f"{protocol_title(first)[0].lower()}{protocol_title(first)[1:]}. Mean over all layers, plus or minus an upper "
        f"bound of its standard error; metric versions: {data.metrics}."
    )
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{latex(caption)}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
            r"\toprule",
            " & ".join(map(latex, head)) + r" \\",
            r"\midrule",
            *body[:-1],
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par{{\footnotesize\textsuperscript{{{k}}} {latex(reason)}\par}}" for reason, k in notes.items()),
            r"\end{table*}",
            *(f"% {one_line(row.label.text)}: {row.result.signature}" for row in table.rows),
            "",
        ]
    )


def _cells(row: ResultRow, line: ModalityRow, notes: Notes) -> list[str]:
    label = with_token_set(row.label.text, line.tokens)
    counts = ["" if ends is None else latex(show_range(ends)) for ends in (line.n_tokens, line.n_examples)]
    cells = [_mean(*pair, notes) for pair in zip(row.headlines, line.summaries, strict=True)]
    return [latex(label), line.modality, *cells, *counts]


def _mean(headline: Headline, summary: Summary | Withheld, notes: Notes) -> str:
    if isinstance(summary, Withheld):
        return f"---{_marks([summary.reason], notes)}"
    value, _, stderr = plus_minus(summary.mean, summary.mean_stderr).partition(" ± ")
    own_n = f" ({latex(show_range(summary.n_tokens))})" if has_own_n(headline.metric) else ""
    return rf"${value} \pm {stderr}${own_n}{_marks(summary.cautions, notes)}"


def _marks(reasons: Iterable[str], notes: Notes) -> str:
    marks = ",".join(str(notes.number(reason)) for reason in reasons)
    return rf"\textsuperscript{{{marks}}}" if marks else ""
