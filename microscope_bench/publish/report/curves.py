"""Which results a report draws together, in which colours, and the series of scores that its panels and tables show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import headlines
from microscope_bench.publish.plots import STYLES
from microscope_bench.publish.summary import (
    MODALITIES,
    UNTRAINED,
    columns_of,
    depths_of,
    layers_of,
    measured_modalities,
    of_one_n,
    shown_name,
    token_sets,
    watched_name,
)
from microscope_bench.results.result import Result, Score

COLOURS = 8
"""How many colours and markers there are: classes ``c0`` to ``c7`` and symbols ``m0`` to ``m7`` of the template."""

TOKEN_SET_TITLES = {
    "all": "",
    "no_sinks": "no sinks",
    "correct": "right",
    "wrong": "wrong",
    "correct_no_sinks": "right",
    "wrong_no_sinks": "wrong",
}


@dataclass(frozen=True)
class Shown:
    """One result on the page.

    Attributes:
        key: its number on the page, by which labels, legend and tables refer to it.
        label: its name, unlike any other's in its section.
        result: the result.
        colour: CSS class of its curve.
        marker: id of its symbol.
        dash: stroke-dasharray of its curve; "" for a whole line.
        baseline: whether the other result of the section is compared with it.
    """

    key: int
    label: str
    result: Result
    colour: str
    marker: str
    dash: str
    baseline: bool = False


@dataclass(frozen=True)
class ShownSeries:
    """The scores of one result that make one curve and one column of a table.

    Attributes:
        shown: the result.
        tokens: the token set.
        title: of the column and the curve.
        rows: one score per layer, in order; layers may be missing.
        headline: what is shown.
    """

    shown: Shown
    tokens: str
    title: str
    rows: tuple[Score, ...]
    headline: Headline

    @property
    def modality(self) -> str:
        """Whose tokens."""
        return self.rows[0].modality

    @property
    def drawn(self) -> list[Score]:
        """The rows that a curve connects: those with a value, on about one number of tokens."""
        return of_one_n([row for row in self.rows if row.value is not None])

    @property
    def layers(self) -> range:
        """The layers that it should have."""
        return layers_of(self.shown.result, self.headline)

    def depth(self, layer: int) -> float:
        """Where a layer's value lies, 0 (into block 1) to 1 (out of the last); between two boundaries, half way."""
        return depths_of(self.shown.result, self.headline)[layer]


def shown_results(results: Sequence[Result], first: int) -> list[Shown]:
    """The results of one section with labels and styles; of two the first is the baseline.

    Args:
        results: comparable ones, in the order in which they are to be shown.
        first: number of the first.
    """
    plain = [_name(result) for result in results]
    with_dtype = [f"{n} {r.identity.model.dtype}" for n, r in zip(plain, results, strict=True)]
    with_id = [f"{n} {r.short_id[:8]}" for n, r in zip(plain, results, strict=True)]
    numbered = [f"{n} ({first + k})" for k, n in enumerate(with_id)]
    families: dict[tuple[str, int], int] = {}
    alike = Counter[tuple[str, str]]()
    shown = []
    for k, result in enumerate(results):
        choices = (plain, with_dtype, with_id, numbered)
        label = next((labels[k] for labels in choices if Counter(labels)[labels[k]] == 1), numbered[k])
        family, kind = result.identity.model.name.removesuffix(UNTRAINED), _kind(result)
        # a model, its untrained twin and its controls have one colour; a second of the same kind has the next
        place = families.setdefault((family, alike[family, kind]), len(families))
        alike[family, kind] += 1
        baseline = len(results) == 2 and k == 0
        shown.append(
            Shown(
                key=first + k,
                label=label,
                result=result,
                colour="base" if baseline else f"c{(0 if len(results) == 2 else place) % COLOURS}",
                # with more families than colours the markers shift, so that no two curves look the same
                marker=f"m{(k if len(results) == 2 else place + place // COLOURS) % COLOURS}",
                dash=_dash(kind),
                baseline=baseline,
            )
        )
    return shown


def series_of(shown: Shown, headline: Headline, modality: str, tokens: str, title: str = "") -> ShownSeries | None:
    """The scores of one result; None where the metric has no row for this modality and token set."""
    rows = shown.result.series(headline.metric, headline.estimator, headline.stream, modality, tokens)
    return ShownSeries(shown, tokens, title or shown.label, tuple(rows), headline) if rows else None


def panels_of(shown: Sequence[Shown], headline: Headline) -> list[tuple[str, list[ShownSeries]]]:
    """(title, series) of each panel of one metric: a modality, and again without sinks where a model has some."""
    found = []
    for modality in MODALITIES:
        sets = {tokens for s in shown for tokens in token_sets(s.result, modality)}
        for tokens in (name for name in ("all", "no_sinks") if name in sets):
            series = [s for one in shown if (s := series_of(one, headline, modality, tokens))]
            if series:
                found.append((f"{modality}, no sinks" if tokens == "no_sinks" else modality, series))
    return found


def halves_of(shown: Sequence[Shown], headline: Headline) -> list[tuple[str, list[ShownSeries]]]:
    """The same for examples answered rightly and wrongly, two series a model, where runs split their scores."""
    found = []
    for modality in MODALITIES:
        sets = {tokens for s in shown for tokens in token_sets(s.result, modality)}
        for behind in ("", *(("_no_sinks",) if "no_sinks" in sets else ())):
            series = [
                s
                for one in shown
                for half in ("correct", "wrong")
                if (s := series_of(one, headline, modality, half + behind, f"{one.label}, {TOKEN_SET_TITLES[half]}"))
            ]
            if series:
                found.append((f"{modality}, no sinks" if behind else modality, series))
    return found


def quantities(shown: Sequence[Shown]) -> list[tuple[Headline, list[Shown]]]:
    """What a section draws, each with the results that may stand in one panel: columns of the tables, then the others.

    The tables' metrics have one version in a section; those of the others may differ, and then have panels apart.
    """
    measured = {metric for one in shown for metric in one.result.identity.metrics}
    columns = columns_of(shown[0].result)
    found = []
    for headline in (*columns, *(one for one in headlines(measured) if not one.in_tables)):
        holding = [one for one in shown if headline.metric in one.result.identity.metrics]
        versions = sorted({one.result.identity.metrics[headline.metric] for one in holding})
        for version in versions:
            several = f", version {version} of the metric" if len(versions) > 1 else ""
            together = [one for one in holding if one.result.identity.metrics[headline.metric] == version]
            found.append((replace(headline, title=headline.title + several), together))
    return found


def modalities_of(shown: Sequence[Shown]) -> list[str]:
    """Every modality that a result of the section has, in the fixed order."""
    there = {modality for s in shown for modality in measured_modalities(s.result)}
    return [modality for modality in MODALITIES if modality in there]


def _name(result: Result) -> str:
    control = result.identity.model.control
    return f"{watched_name(result)}, {control}" if control else shown_name(result)


def _kind(result: Result) -> str:
    """A key of :data:`~microscope_bench.publish.plots.STYLES`."""
    model = result.identity.model
    kind = model.control or ("" if model.trained else "untrained")
    return kind if kind in STYLES else "untrained"


def _dash(kind: str) -> str:
    style = STYLES[kind]
    return "" if isinstance(style, str) else " ".join(f"{1.6 * length:g}" for length in style[1])
