"""A picture per headline metric: one line per model over relative depth, one panel per modality."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import ResultError
from microscope_bench.publish.grouping import comparable_key, grouped, protocol_key
from microscope_bench.publish.summary import HEADLINES, MODALITIES, UNTRAINED, Headline, shown_name, watched_name
from microscope_bench.results.files import safe_name
from microscope_bench.results.result import FAILED, Result, Score
from microscope_bench.results.signature import protocol_label, short_revision

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

FORMATS = ("svg", "png")
COLOURS = ("#0b5fa5", "#d95f02", "#1b7837", "#762a83", "#b2182b", "#4aa3df", "#a6761d", "#636363")
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


@dataclass(frozen=True)
class Line:
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


def line_of(result: Result, label: str, headline: Headline, modality: str, tokens: str = "all") -> Line | None:
    """The values of one result that a panel shows; None where there is none.

    A linearity lies between two boundaries and is drawn half way. A layer without a value interrupts the line, a value
    without a standard error the band. A value on another number of tokens than the other layers' is left out.
    """
    n_layers = result.identity.model.n_layers
    series = result.series(headline.metric, headline.estimator, headline.stream, modality, tokens)
    rows = {row.layer: row for row in series if not _of_another_n(row)}
    if all(row.value is None for row in rows.values()):
        return None
    layers = range(n_layers + (0 if headline.between else 1))
    values = [rows[layer].value if layer in rows else None for layer in layers]
    stderrs = [rows[layer].stderr if layer in rows else None for layer in layers]
    shift = 0.5 if headline.between else 0.0
    return Line(
        label,
        [(layer + shift) / max(n_layers, 1) for layer in layers],
        [math.nan if value is None else value for value in values],
        [math.nan if stderr is None else stderr for stderr in stderrs],
        left_out=len(series) - len(rows),
    )


def _of_another_n(row: Score) -> bool:
    return any(flag.partition("=")[0] == "unmatched_n" for flag in row.flags)


def draw_all(
    results: Iterable[Result], directory: Path, *, file_format: str = "svg", tokens: str = "all"
) -> list[Path]:
    """Draws every headline metric of every task that the results have.

    Results that the leaderboard keeps in tables apart (another protocol, other data) get pictures apart.

    Args:
        results: complete results, controls among them; failed ones are left out.
        directory: gets ``<task>.<metric>[.<stream>][.<token set>].<format>``, with ``~2`` and so on behind the task
            where its results do not all compare; files of that name are replaced.
        file_format: a member of :data:`FORMATS`.
        tokens: a member of :data:`~microscope_bench.results.records.TOKEN_SETS`.

    Returns:
        The files, in order.

    Raises:
        ResultError: matplotlib is not installed, or there is nothing to draw.
    """
    complete = [(result.signature, result) for result in results if result.status != FAILED]
    written, seen = [], Counter[str]()
    for _, in_protocol in grouped(sorted(complete, key=lambda entry: entry[0]), protocol_key):
        for _, comparable in grouped(in_protocol, comparable_key):
            together = [result for _, result in comparable]
            task = safe_name(together[0].identity.task.name)
            seen[task] += 1
            name = task if seen[task] == 1 else f"{task}~{seen[task]}"
            for headline in HEADLINES:
                parts = (name, headline.metric, headline.stream, None if tokens == "all" else tokens, file_format)
                path = directory / ".".join(part for part in parts if part)
                if draw(together, headline, path, tokens=tokens):
                    written.append(path)
    if not written:
        raise ResultError("there is nothing to draw: no complete result has a value of a headline metric")
    return written


def draw(results: Sequence[Result], headline: Headline, path: Path, *, tokens: str = "all") -> bool:
    """Draws one metric; the same results give the same file. Returns False, without a file, where no value exists.

    Args:
        results: comparable ones, one or more.
        headline: the metric.
        path: of the picture; its suffix says the format.
        tokens: token set.

    Raises:
        ResultError: matplotlib is not installed.
    """
    named = _named(results)
    panels: dict[str, list[Line]] = {}
    for modality in MODALITIES:
        for label, result in named:
            if line := line_of(result, label, headline, modality, tokens):
                panels.setdefault(modality, []).append(line)
    if not panels:
        return False
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure  # not pyplot: a caller's own figures and backend stay as they are
    except ImportError as error:
        raise ResultError("pictures need matplotlib: pip install 'microscope-bench[plots]'") from error
    settings: dict[Any, Any] = {"svg.hashsalt": "microscope_bench", "text.parse_math": False, "font.size": 9}
    settings |= {"axes.spines.top": False, "axes.spines.right": False}
    with rc_context(settings):
        figure = Figure(figsize=(4.2 * max(2, len(panels)), 3.8), layout="constrained")
        styles, handles = _styles(named), dict[str, "Artist"]()
        for axes, (modality, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            for line in lines:
                handles[line.label] = _plot(axes, line, styles[line.label])
            left_out = any(line.left_out for line in lines)
            axes.set_title(f"{modality} (layers of fewer tokens are not drawn)" if left_out else modality)
            axes.set_xlabel("depth (0: into block 1, 1: out of the last)")
            axes.set_xlim(-0.02, 1.02)
            axes.grid(linewidth=0.3)
        figure.axes[0].set_ylabel(headline.title)
        figure.suptitle(_title(results[0], headline, tokens))
        shown = [label for label, _ in named if label in handles]
        texts = [f"{label}{_counted(result, headline)}" for label, result in named if label in handles]
        figure.legend(
            [handles[label] for label in shown],
            texts,
            loc="outside lower center",
            ncols=5 if max(map(len, texts)) <= 26 else 4,
            handlelength=3.5,
            frameon=False,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        signatures = "\n".join(result.signature for _, result in named)
        metadata = {"Date": None, "Description": signatures} if path.suffix == ".svg" else {"Description": signatures}
        temporary = path.with_name(f".{path.name}{path.suffix}")
        figure.savefig(temporary, metadata=metadata, dpi=150)
        temporary.replace(path)
    return True


def _title(result: Result, headline: Headline, tokens: str) -> str:
    identity = result.identity
    what = f"{headline.title}{'' if tokens == 'all' else f', {tokens}'} ± one standard error"
    data = f"{identity.task.name} at {short_revision(identity.dataset.revision)}"
    return f"{what}: {data}, {protocol_label(identity.protocol.as_dict())}"


def _counted(result: Result, headline: Headline) -> str:
    """The number of tokens behind a label where the metric depends on it."""
    if headline.metric != "intrinsic_dimension":
        return ""
    rows = [row for row in result.scores if (row.metric, row.estimator) == (headline.metric, headline.estimator)]
    counts = sorted({row.n_tokens for row in rows if row.value is not None and not _of_another_n(row)})
    return f", n = {' / '.join(f'{count:,}' for count in counts[-2:])}" if counts else ""


def _named(results: Sequence[Result]) -> list[tuple[str, Result]]:
    """The results with a label of its own each: a model, its untrained twin and its controls one after the other."""
    plain = [_name(result) for result in results]
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


def _styles(named: Sequence[tuple[str, Result]]) -> dict[str, dict[str, Any]]:
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


def _plot(axes: Axes, line: Line, style: dict[str, Any]) -> Artist:
    low = [value - stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    high = [value + stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    axes.fill_between(line.depths, low, high, color=style["color"], alpha=0.15, linewidth=0)
    (handle,) = axes.plot(line.depths, line.values, **style, markersize=4, linewidth=1.3)
    return handle
