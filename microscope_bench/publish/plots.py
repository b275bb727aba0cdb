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
from microscope_bench.publish.summary import HEADLINES, MODALITIES, Headline
from microscope_bench.results.files import safe_name
from microscope_bench.results.result import FAILED, Result
from microscope_bench.results.signature import protocol_label, short_revision

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

FORMATS = ("svg", "png")
COLOURS = ("#0b5fa5", "#d95f02", "#1b7837", "#762a83", "#b2182b", "#4aa3df", "#a6761d", "#636363")
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")
TWIN = "-untrained"
"""What the names of the zoo's untrained twins end in."""


@dataclass(frozen=True)
class Line:
    """One model in one panel, a value per layer; NaN where the result has none.

    Attributes:
        label: of the model.
        depths: where the values lie, 0 (what enters block 1) to 1 (what leaves the last block).
        values: of the metric.
        stderrs: their standard errors.
    """

    label: str
    depths: list[float]
    values: list[float]
    stderrs: list[float]


def line_of(result: Result, label: str, headline: Headline, modality: str, tokens: str = "all") -> Line | None:
    """The values of one result that a panel shows; None where there is none.

    A linearity lies between two boundaries and is drawn half way. A layer without a value interrupts the line, a value
    without a standard error the band.
    """
    n_layers = result.identity.model.n_layers
    rows = {
        row.layer: row for row in result.series(headline.metric, headline.estimator, headline.stream, modality, tokens)
    }
    if all(row.value is None for row in rows.values()):
        return None
    layers = range(n_layers + (0 if headline.between else 1))
    values = [rows[layer].value if layer in rows else None for layer in layers]
    stderrs = [rows[layer].stderr if layer in rows else None for layer in layers]
    shift = 0.5 if headline.between else 0.0
    return Line(
        label,
        [(layer + shift) / n_layers for layer in layers],
        [math.nan if value is None else value for value in values],
        [math.nan if stderr is None else stderr for stderr in stderrs],
    )


def draw_all(
    results: Iterable[Result], directory: Path, *, file_format: str = "svg", tokens: str = "all"
) -> list[Path]:
    """Draws every headline metric of every task that the results have.

    Results that the leaderboard keeps in tables apart (another protocol, other data) get pictures apart.

    Args:
        results: complete results, controls among them; failed ones are left out.
        directory: gets ``<task>.<metric>[.<stream>][.no_sinks].<format>``, with ``~2`` and so on behind the task where
            its results do not all compare; files of that name are replaced.
        file_format: a member of :data:`FORMATS`.
        tokens: token set, "all" or "no_sinks".

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
                handles[line.label] = _plot(axes, line, *styles[line.label])
            axes.set_title(modality)
            axes.set_xlabel("depth (0: into block 1, 1: out of the last)")
            axes.set_xlim(-0.02, 1.02)
            axes.grid(linewidth=0.3)
        figure.axes[0].set_ylabel(f"{headline.title}, {headline.estimator}")
        figure.suptitle(_title(results[0], headline, tokens))
        shown = [label for label, _ in named if label in handles]
        figure.legend([handles[label] for label in shown], shown, loc="outside lower center", ncols=4, frameon=False)
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


def _named(results: Sequence[Result]) -> list[tuple[str, Result]]:
    """The results with a label of its own each, in the order of the labels."""
    plain = [_name(result) for result in results]
    unique = [
        name if Counter(plain)[name] == 1 else f"{name} {result.short_id[:8]}"
        for name, result in zip(plain, results, strict=True)
    ]
    return sorted(zip(unique, results, strict=True), key=lambda entry: (entry[0].casefold(), entry[0]))


def _name(result: Result) -> str:
    model = result.identity.model
    untrained = "" if model.trained or model.name.endswith(TWIN) else " (untrained)"
    return f"{model.name}{untrained}{f', {model.control}' if model.control else ''}"


def _styles(named: Sequence[tuple[str, Result]]) -> dict[str, tuple[str, str, str]]:
    """Label → (colour, line style, marker): a model, its untrained twin and its controls share a colour."""
    families: dict[str, list[str]] = {}
    for label, result in named:
        families.setdefault(result.identity.model.name.removesuffix(TWIN), []).append(label)
    return {
        label: (COLOURS[i % len(COLOURS)], STYLES[k % len(STYLES)], MARKERS[i // len(COLOURS) % len(MARKERS)])
        for i, labels in enumerate(families.values())
        for k, label in enumerate(labels)
    }


def _plot(axes: Axes, line: Line, colour: str, style: str, marker: str) -> Artist:
    low = [value - stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    high = [value + stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    axes.fill_between(line.depths, low, high, color=colour, alpha=0.2, linewidth=0)
    (handle,) = axes.plot(line.depths, line.values, style, color=colour, marker=marker, markersize=3, linewidth=1.3)
    return handle
