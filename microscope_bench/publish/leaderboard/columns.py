"""The columns of the leaderboard's tables, what each means, and the notes that their cells refer to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from microscope_bench.identity import short_revision
from microscope_bench.metrics.record import Headline
from microscope_bench.publish.summary import Summary, has_own_n, plus_minus, show_range
from microscope_bench.results.result import Result

OTHER_COLUMNS = (
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


@dataclass(frozen=True)
class ModelColumn:
    """A fact about a result's model as a column of the pages: its title, and what stands there as plain text."""

    title: str
    text: Callable[[Result], str]
    is_number: bool = False


def dtype_text(result: Result) -> str:
    model = result.identity.model
    return f"{model.dtype}, {model.quantization}" if model.quantization else model.dtype


def _measured(result: Result) -> str:
    return f"{result.inputs.n_examples:,} ({result.identity.example_ids_sha256[:6]})"


MODEL_COLUMNS = (
    ModelColumn("measured", _measured, is_number=True),
    ModelColumn("layers", lambda result: str(result.identity.model.n_layers), is_number=True),
    ModelColumn("d", lambda result: str(result.identity.model.hidden_size), is_number=True),
    ModelColumn("parameters", lambda result: show_count(result.identity.model.n_parameters), is_number=True),
    ModelColumn("dtype", dtype_text),
    ModelColumn("revision", lambda result: short_revision(result.identity.model.revision)),
)
"""Of the markdown and the HTML page; CSV and JSON have the facts of ``results.data_frame.identity_columns``."""


def meanings(columns: Sequence[Headline]) -> list[tuple[str, str]]:
    return [*((one.title, one.explanation) for one in columns), *OTHER_COLUMNS]


def summary_lines(headline: Headline, summary: Summary) -> list[tuple[str, str]]:
    """What a cell says: (word, number with its error), the mean first."""
    lines = [
        ("mean", plus_minus(summary.mean, summary.mean_stderr)),
        (headline.extreme, f"{plus_minus(summary.extreme, summary.extreme_stderr)} @ {summary.layer}"),
    ]
    return [*lines, ("n", show_range(summary.n_tokens))] if has_own_n(headline.metric) else lines


class Notes(dict[str, int]):
    """Reasons under the tables of one task, numbered from 1 in their order; the same reason has the same number."""

    def number(self, reason: str) -> int:
        return self.setdefault(reason, len(self) + 1)


def short_reason(reason: str) -> str:
    return f"{reason[:300]}..." if len(reason) > 300 else reason


def show_count(count: int) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{unit}"
    return str(count)
