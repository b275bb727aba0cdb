"""The leaderboard page: a deterministic function of result files. It describes models; it does not rank them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from microscope_bench.publish.grouping import Entry, comparable_key, grouped, protocol_key
from microscope_bench.publish.markdown import code, escape, link, table
from microscope_bench.publish.summary import (
    HEADLINES,
    MODALITIES,
    Headline,
    Summary,
    Withheld,
    accuracy_text,
    measured_modalities,
    plus_minus,
    show_range,
    shown_name,
    sinks_of,
    summarise,
    token_sets,
)
from microscope_bench.results.result import FAILED, Result
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


@dataclass(frozen=True)
class Row:
    """One model in one table.

    Attributes:
        label: markdown; tells rows of one model apart.
        path: of the result file, relative to the page.
        result: the result.
    """

    label: str
    path: str
    result: Result


def render(results: Iterable[Entry]) -> str:
    """The page as markdown.

    Args:
        results: (path relative to the page, with forward slashes; result), in any order.

    Returns:
        The same text for the same results, whatever their order. Results under different protocols, or that deviate
        from one in different ways, are never in one section; results on other data or under other metric versions are
        never in one table.
    """
    entries = sorted(results, key=lambda entry: entry[0])
    shown = [entry for entry in entries if _why_not_shown(entry[1]) is None]
    hidden = [entry for entry in entries if _why_not_shown(entry[1]) is not None]
    parts = [INTRODUCTION, table(["column", "meaning"], COLUMNS, "left") + "\n"]
    if not shown:
        parts.append("There are no results yet.\n")
    for protocol, in_protocol in grouped(shown, protocol_key):
        parts.append(f"## {protocol[2]}\n")
        for comparable, in_table in grouped(in_protocol, comparable_key):
            parts += _task_section(comparable, _rows(in_table))
    if hidden:
        parts.append("## Not shown\n")
        parts.append("\n".join(_hidden_line(path, result) for path, result in hidden) + "\n")
    return "\n".join(parts)


def _task_section(comparable: Sequence[str], rows: Sequence[Row]) -> list[str]:
    title, description, _ = comparable
    notes = _Notes()
    parts = [f"### {title}\n", f"{description}\n"]
    for modality in MODALITIES:
        body = [
            _geometry_cells(row, modality, token_set, notes)
            for row in rows
            if modality in measured_modalities(row.result)
            for token_set in token_sets(row.result, modality)
        ]
        if body:
            headers = ["model", *(headline.title for headline in HEADLINES), "sinks", "tokens", "examples"]
            parts += [f"#### {modality}\n", table(headers, body) + "\n"]
    headers = ["model", "measured", "layers", "d", "parameters", "dtype", "revision", "accuracy", "signature", "file"]
    parts += ["#### models\n", table(headers, [_model_cells(row, notes) for row in rows]) + "\n"]
    if notes.reasons:
        parts.append(notes.text() + "\n")
    parts.append("Signatures:\n")
    parts.append("\n".join(f"- {row.label}: {code(row.result.signature)}" for row in rows) + "\n")
    return parts


def _geometry_cells(row: Row, modality: str, token_set: str, notes: _Notes) -> list[str]:
    summaries = [(headline, summarise(row.result, headline, modality, token_set)) for headline in HEADLINES]
    cells = [_summary_cell(headline, summary, notes) for headline, summary in summaries]
    scores = [s for s in row.result.scores if s.modality == modality and s.tokens == token_set]
    # the metrics that keep duplicates count every token; intrinsic dimension names its own n
    counted = [s for s in scores if s.metric in ("linearity", "anisotropy")] or scores
    label, sinks = row.label, sinks_of(row.result, modality)
    if token_set == "all":
        cells.append("not looked for" if sinks is None else f"{sinks.n_sinks:,}")
    else:
        label, cells = f"{label}, no sinks", [*cells, "0"]
    if not counted:
        return [label, *cells, "", ""]
    tokens, examples = [s.n_tokens for s in counted], [s.n_examples for s in counted]
    n_tokens, n_examples = (show_range((min(n), max(n))) for n in (tokens, examples))
    return [label, *cells, n_tokens, n_examples]


def _summary_cell(headline: Headline, summary: Summary | Withheld, notes: _Notes) -> str:
    if isinstance(summary, Withheld):
        return f"—{notes.mark(summary.reason)}"
    marks = "".join(notes.mark(caution) for caution in summary.cautions)
    lines = [
        f"mean {plus_minus(summary.mean, summary.mean_stderr)}",
        f"{headline.extreme} {plus_minus(summary.extreme, summary.extreme_stderr)} @ {summary.layer}",
    ]
    if headline.metric == "intrinsic_dimension":
        lines.append(f"n {show_range(summary.n_tokens)}")
    return "<br>".join(lines).replace(" ", NO_BREAK) + marks  # a number and its error stay on one line


def _model_cells(row: Row, notes: _Notes) -> list[str]:
    identity, accuracy = row.result.identity, accuracy_text(row.result)
    model, ids = identity.model, (identity.example_ids_sha256 or "")[:6]
    if accuracy.startswith("none: "):
        accuracy = f"—{notes.mark('accuracy: ' + accuracy.removeprefix('none: '))}"
    return [
        row.label,
        f"{identity.n_examples:,} ({escape(ids)})",
        str(model.n_layers),
        str(model.hidden_size),
        _human(model.n_parameters),
        escape(f"{model.dtype}, {model.quantization}" if model.quantization else model.dtype),
        escape(short_revision(model.revision)),
        accuracy,
        code(row.result.short_id),
        link("JSON", row.path),
    ]


class _Notes:
    """Numbered reasons under the tables of one task; the same reason has the same number."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"<sup>{self.reasons.index(reason) + 1}</sup>"

    def text(self) -> str:
        return "<br>\n".join(f"<sup>{k}</sup> {escape(reason)}" for k, reason in enumerate(self.reasons, start=1))


def _rows(entries: Sequence[Entry]) -> list[Row]:
    """Rows sorted by name, each with a label of its own."""

    def order(entry: Entry) -> tuple[str, ...]:
        path, result = entry
        model = result.identity.model
        return (model.name.casefold(), model.name, model.repo, model.revision, result.short_id, path)

    entries = sorted(entries, key=order)
    plain = [_name(result) for _, result in entries]
    with_dtype = [f"{name} {escape(r.identity.model.dtype)}" for name, (_, r) in zip(plain, entries, strict=True)]
    with_id = [f"{name} {code(result.short_id[:8])}" for name, (_, result) in zip(plain, entries, strict=True)]
    with_path = [f"{name} {escape(path)}" for name, (path, _) in zip(with_id, entries, strict=True)]
    labels = [_first_unique(k, plain, with_dtype, with_id, with_path) for k in range(len(entries))]
    return [Row(label, path, result) for label, (path, result) in zip(labels, entries, strict=True)]


def _first_unique(index: int, *choices: Sequence[str]) -> str:
    for labels in choices[:-1]:
        if Counter(labels)[labels[index]] == 1:
            return labels[index]
    return choices[-1][index]


def _name(result: Result) -> str:
    return escape(shown_name(result))


def _why_not_shown(result: Result) -> str | None:
    control = result.identity.model.control
    reasons = [f"control: {control}"] if control else []
    if result.status == FAILED:
        error = result.error
        reasons.append(f"failed in {error.where}: {error.type}: {error.message}" if error else "failed")
    return "; ".join(reasons) or None


def _hidden_line(path: str, result: Result) -> str:
    reason = str(_why_not_shown(result))
    shown = f"{reason[:300]}..." if len(reason) > 300 else reason
    return f"- {link(_name(result), path)} on {escape(result.identity.task.name)}: {escape(shown)}"


def _human(count: int) -> str:
    """A count of parameters to three digits: 7.06B, 124M, 35.2k."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{unit}"
    return str(count)
