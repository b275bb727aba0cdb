"""A picture per headline metric: one line per model over relative depth, one panel per modality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import ResultError
from microscope_bench.publish.summary import HEADLINES, MODALITIES, Headline, measured_modalities
from microscope_bench.results.files import safe_name
from microscope_bench.results.result import FAILED, Result

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

FORMATS = ("svg", "png")
COLOURS = ("#0b5fa5", "#d95f02", "#1b7837", "#762a83", "#b2182b", "#4aa3df", "#a6761d", "#636363")
UNTRAINED = " (untrained)"


@dataclass(frozen=True)
class Line:
    """One model in one panel.

    Attributes:
        label: of the model.
        depths: where the values lie, 0 (what enters block 1) to 1 (what leaves the last block).
        values: of the metric.
        stderrs: their standard errors; 0 where there is none.
    """

    label: str
    depths: list[float]
    values: list[float]
    stderrs: list[float]


def line_of(result: Result, headline: Headline, modality: str, tokens: str = "all") -> Line | None:
    """The values of one result that a panel shows; layers without a value are left out, None where all are.

    A linearity lies between two boundaries and is drawn half way.
    """
    n_layers = result.identity.model.n_layers
    rows = result.series(headline.metric, headline.estimator, headline.stream, modality, tokens)
    known = [(row.layer, row.value, row.stderr or 0.0) for row in rows if row.value is not None]
    if not known:
        return None
    shift = 0.5 if headline.between else 0.0
    return Line(
        label_of(result),
        [(layer + shift) / n_layers for layer, _, _ in known],
        [value for _, value, _ in known],
        [stderr for _, _, stderr in known],
    )


def label_of(result: Result) -> str:
    """What the legend calls a result: the model, whether it is trained, and its control."""
    model = result.identity.model
    return f"{model.name}{'' if model.trained else UNTRAINED}{f', {model.control}' if model.control else ''}"


def draw_all(
    results: Iterable[Result], directory: Path, *, file_format: str = "svg", tokens: str = "all"
) -> list[Path]:
    """Draws every headline metric of every task that the results have.

    Args:
        results: complete results; failed ones are left out.
        directory: gets ``<task>.<metric>[.<stream>].<format>``; files of that name are replaced.
        file_format: a member of :data:`FORMATS`.
        tokens: token set, "all" or "no_sinks".

    Returns:
        The files, in order.

    Raises:
        ResultError: matplotlib is not installed, or there is nothing to draw.
    """
    complete = [result for result in results if result.status != FAILED]
    written = []
    for task in sorted({result.identity.task.name for result in complete}):
        of_task = [result for result in complete if result.identity.task.name == task]
        of_task.sort(key=lambda result: (label_of(result).casefold(), result.short_id))
        for headline in HEADLINES:
            stream = f".{headline.stream}" if headline.stream else ""
            path = directory / f"{safe_name(task)}.{headline.metric}{stream}.{file_format}"
            if draw(of_task, headline, path, title=task, tokens=tokens):
                written.append(path)
    if not written:
        raise ResultError("there is nothing to draw: no complete result has a value of a headline metric")
    return written


def draw(results: Sequence[Result], headline: Headline, path: Path, *, title: str, tokens: str = "all") -> bool:
    """Draws one metric; the same results give the same file. Returns False, without a file, where no value exists.

    Args:
        results: of one task, in the order of the legend.
        headline: the metric.
        path: of the picture; its suffix says the format.
        title: what it is of.
        tokens: token set.

    Raises:
        ResultError: matplotlib is not installed.
    """
    panels = {}
    for modality in MODALITIES:
        having = [result for result in results if modality in measured_modalities(result)]
        lines = [line for result in having if (line := line_of(result, headline, modality, tokens))]
        if lines:
            panels[modality] = lines
    if not panels:
        return False
    try:
        import matplotlib
    except ImportError as error:
        raise ResultError("pictures need matplotlib: pip install 'microscope-bench[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    styles = _styles(list(dict.fromkeys(label_of(result) for result in results)))
    settings: dict[Any, Any] = {"svg.hashsalt": "microscope_bench", "text.parse_math": False, "font.size": 9}
    settings |= {"axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(settings):
        figure, row = plt.subplots(
            1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False, layout="constrained"
        )
        handles: dict[str, Artist] = {}
        for axes, (modality, lines) in zip(row[0], panels.items(), strict=True):
            for line in lines:
                handles[line.label] = _plot(axes, line, *styles[line.label])
            axes.set_title(modality)
            axes.set_xlabel("depth (0: into block 1, 1: out of the last)")
            axes.set_xlim(-0.02, 1.02)
            axes.grid(linewidth=0.3)
        row[0][0].set_ylabel(f"{headline.title}, {headline.estimator}")
        shown = "" if tokens == "all" else f", {tokens}"
        figure.suptitle(f"{title}: {headline.title}{shown} ± one standard error")
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, metadata=metadata, dpi=150)
        plt.close(figure)
    return True


def _styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Label → (colour, line style): a model, its twin and its controls share a colour; the model alone is solid."""
    families = list(dict.fromkeys(_family(label) for label in labels))
    colours = {family: COLOURS[index % len(COLOURS)] for index, family in enumerate(families)}
    return {label: (colours[_family(label)], "-" if label == _family(label) else "--") for label in labels}


def _family(label: str) -> str:
    return label.partition(", ")[0].removesuffix(UNTRAINED).removesuffix("-untrained")


def _plot(axes: Axes, line: Line, colour: str, style: str) -> Artist:
    low = [value - stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    high = [value + stderr for value, stderr in zip(line.values, line.stderrs, strict=True)]
    axes.fill_between(line.depths, low, high, color=colour, alpha=0.2, linewidth=0)
    (handle,) = axes.plot(line.depths, line.values, style, color=colour, marker=".", linewidth=1.3)
    return handle
