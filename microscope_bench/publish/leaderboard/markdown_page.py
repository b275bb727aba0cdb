"""The leaderboard page: a deterministic function of result files. It describes models; it does not rank them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from microscope_bench.publish.escape import code, escape, link, table
from microscope_bench.publish.grouping import Entry
from microscope_bench.publish.leaderboard.board import Board, ModalityRow, ResultRow, Table, board_of, why_not_shown
from microscope_bench.publish.summary import (
    HEADLINES,
    MODALITIES,
    Headline,
    Summary,
    Withheld,
    accuracy_text,
    plus_minus,
    show_range,
)
from microscope_bench.results.signature import short_revision

INTRODUCTION = """\
# Leaderboard

The geometry of the residual stream inside multimodal LLMs, per modality. **These describe, they do not rank**: no value
is better than another, and the rows are sorted by name. This page is made from the files it links to by
`microscope-bench leaderboard`; do not edit it.

**How to read it.** Each cell holds the mean over all layers and the extreme with the layer where it occurs (`@`), each
± its standard error (jackknife over groups of examples). The ± of a mean is the mean of the layers' standard errors: an
upper bound, because the layers share their tokens. A dash stands where a layer has no value; the note says why.
"""

COLUMNS = (
    (
        "linearity (hidden)",
        "share of the variance of the next layer's hidden states that one linear map of this layer's explains, on "
        "examples it was not fitted on (held-out R²; 1 = linear)",
    ),
    (
        "linearity (update)",
        "the same for what the block adds to the stream; lower by nature, since the skip connection is taken out",
    ),
    (
        "intrinsic dimension",
        "how many directions the tokens locally extend in (TwoNN on the lowest nine tenths of the distance "
        "ratios), on as many distinct tokens (n) as every modality has; high dimensions are underestimated, the more "
        "so the smaller n: compare values of one n only",
    ),
    ("anisotropy", "share of the variance along the single widest direction (1 = a line)"),
    (
        "sinks",
        "massive-activation tokens, which can dominate each of these numbers; where there are some, a second row shows "
        "the values without them",
    ),
    ("tokens, examples", "what the values of one modality were computed on; joint = all modalities together"),
    ("measured", "examples measured; equal codes in brackets mean the same examples"),
    ("layers, d", "number of blocks, width of the residual stream; parameters count the whole model"),
    ("accuracy", "share of questions answered rightly in the same forward passes, where there are lettered answers"),
    ("signature", "the id to cite a row by; the whole line stands below the table"),
)

NO_BREAK = "\N{NO-BREAK SPACE}"


def render(results: Iterable[Entry]) -> str:
    """The page as markdown.

    Args:
        results: (path relative to the page, with forward slashes; result), in any order.

    Returns:
        The same text for the same results, whatever their order. Results under different protocols, or that deviate
        from one in different ways, are never in one section; results on other data or under other metric versions are
        never in one table.
    """
    return render_board(board_of(results))


def render_board(board: Board) -> str:
    """The page of a board that is there already, see :func:`render`."""
    parts = [INTRODUCTION, table(["column", "meaning"], COLUMNS, "left") + "\n"]
    if not board.tables:
        parts.append("There are no results yet.\n")
    for protocol, tables in groupby(board.tables, key=lambda entry: entry.protocol):
        parts.append(f"## {protocol[2]}\n")
        for entry in tables:
            parts += _task_section(entry)
    if board.hidden:
        parts.append("## Not shown\n")
        parts.append("\n".join(map(_hidden_line, board.hidden)) + "\n")
    return "\n".join(parts)


def _task_section(entry: Table) -> list[str]:
    title, description, _ = entry.comparable
    notes = Notes()
    parts = [f"### {title}\n", f"{description}\n"]
    for modality in MODALITIES:
        body = [
            _geometry_cells(row, line, notes) for row in entry.rows for line in row.lines if line.modality == modality
        ]
        if body:
            headers = ["model", *(headline.title for headline in HEADLINES), "sinks", "tokens", "examples"]
            parts += [f"#### {modality}\n", table(headers, body) + "\n"]
    headers = ["model", "measured", "layers", "d", "parameters", "dtype", "revision", "accuracy", "signature", "file"]
    parts += ["#### models\n", table(headers, [_model_cells(row, notes) for row in entry.rows]) + "\n"]
    if notes.reasons:
        parts.append(_notes_text(notes) + "\n")
    parts.append("Signatures:\n")
    parts.append("\n".join(f"- {row.label.markdown}: {code(row.result.signature)}" for row in entry.rows) + "\n")
    return parts


def _geometry_cells(row: ResultRow, line: ModalityRow, notes: Notes) -> list[str]:
    label = row.label.markdown if line.tokens == "all" else f"{row.label.markdown}, no sinks"
    cells = [_summary_cell(*pair, notes) for pair in zip(HEADLINES, line.summaries, strict=True)]
    sinks = "not looked for" if line.n_sinks is None else f"{line.n_sinks:,}"
    counts = ["" if ends is None else show_range(ends) for ends in (line.n_tokens, line.n_examples)]
    return [label, *cells, sinks, *counts]


def _summary_cell(headline: Headline, summary: Summary | Withheld, notes: Notes) -> str:
    if isinstance(summary, Withheld):
        return f"—{_mark(notes, summary.reason)}"
    marks = "".join(_mark(notes, caution) for caution in summary.cautions)
    lines = [f"{what} {number}" for what, number in summary_lines(headline, summary)]
    return "<br>".join(lines).replace(" ", NO_BREAK) + marks  # a number and its error stay on one line


def _model_cells(row: ResultRow, notes: Notes) -> list[str]:
    identity, accuracy = row.result.identity, accuracy_text(row.result)
    model, ids = identity.model, (identity.example_ids_sha256 or "")[:6]
    if accuracy.startswith("none: "):
        accuracy = f"—{_mark(notes, 'accuracy: ' + accuracy.removeprefix('none: '))}"
    return [
        row.label.markdown,
        f"{identity.n_examples:,} ({escape(ids)})",
        str(model.n_layers),
        str(model.hidden_size),
        show_count(model.n_parameters),
        escape(f"{model.dtype}, {model.quantization}" if model.quantization else model.dtype),
        escape(short_revision(model.revision)),
        accuracy,
        code(row.result.short_id),
        link("JSON", row.path),
    ]


class Notes:
    """Numbered reasons under the tables of one task; the same reason has the same number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def reasons(self) -> list[str]:
        """In the order of their numbers, from 1."""
        return list(self._numbers)

    def number(self, reason: str) -> int:
        """The reason's number."""
        return self._numbers.setdefault(reason, len(self._numbers) + 1)


def _mark(notes: Notes, reason: str) -> str:
    return f"<sup>{notes.number(reason)}</sup>"


def _notes_text(notes: Notes) -> str:
    return "<br>\n".join(f"<sup>{k}</sup> {escape(reason)}" for k, reason in enumerate(notes.reasons, start=1))


def _hidden_line(row: ResultRow) -> str:
    shown = shortened(str(why_not_shown(row.result)))
    return f"- {link(row.label.markdown, row.path)} on {escape(row.result.identity.task.name)}: {escape(shown)}"


def shortened(reason: str) -> str:
    """A reason of at most 300 characters."""
    return f"{reason[:300]}..." if len(reason) > 300 else reason


def summary_lines(headline: Headline, summary: Summary) -> list[tuple[str, str]]:
    """What a cell says: (word, number with its error), the mean first."""
    lines = [
        ("mean", plus_minus(summary.mean, summary.mean_stderr)),
        (headline.extreme, f"{plus_minus(summary.extreme, summary.extreme_stderr)} @ {summary.layer}"),
    ]
    if headline.metric == "intrinsic_dimension":
        lines.append(("n", show_range(summary.n_tokens)))
    return lines


def show_count(count: int) -> str:
    """A count of parameters to three digits: 7.06B, 124M, 35.2k."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{unit}"
    return str(count)
