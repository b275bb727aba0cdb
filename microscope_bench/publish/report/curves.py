"""Which results a report draws together, and the series of scores that its panels and tables show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import headlines
from microscope_bench.publish.depth_lines import name_of, told_apart
from microscope_bench.publish.summary import (
    MODALITIES,
    columns_of,
    layers_of,
    token_sets,
)
from microscope_bench.results.records import Score
from microscope_bench.results.result import Result

HALVES = {"correct": "right", "wrong": "wrong"}


@dataclass(frozen=True)
class Shown:
    """One result on the page; labels, legend and tables refer to it by its number ``key``."""

    key: int
    label: str
    result: Result
    baseline: bool = False


@dataclass(frozen=True)
class ShownSeries:
    """The scores of one result, one per layer in order, that make one curve and one column of a table."""

    shown: Shown
    tokens: str
    title: str
    rows: tuple[Score, ...]
    headline: Headline

    @property
    def modality(self) -> str:
        return self.rows[0].modality

    @property
    def drawn(self) -> list[Score]:
        """The rows that a curve connects: those with a value."""
        return [row for row in self.rows if row.value is not None]

    @property
    def layers(self) -> range:
        return layers_of(self.shown.result, self.headline)


Panels = list[tuple[str, list[ShownSeries]]]


def shown_results(results: Sequence[Result], first: int) -> list[Shown]:
    """The results of one section in their order, numbered from ``first``; of two the first is the baseline."""
    labels = told_apart([name_of(result) for result in results], results)
    return [
        Shown(first + k, label, result, baseline=len(results) == 2 and k == 0)
        for k, (label, result) in enumerate(zip(labels, results, strict=True))
    ]


def panels_of(shown: Sequence[Shown], headline: Headline, halves: bool = False) -> Panels:
    """A panel per modality, and again without sinks where a model has some."""
    found = []
    for modality in MODALITIES:
        has_sinks = any("no_sinks" in token_sets(one.result, modality) for one in shown)
        for behind in ("", "_no_sinks") if has_sinks else ("",):
            sets = [half + behind for half in HALVES] if halves else [behind.removeprefix("_") or "all"]
            several = [_series(one, headline, modality, tokens) for one in shown for tokens in sets]
            if series := [one for one in several if one]:
                found.append((f"{modality}, no sinks" if behind else modality, series))
    return found


def _series(shown: Shown, headline: Headline, modality: str, tokens: str) -> ShownSeries | None:
    rows = shown.result.series(headline.metric, headline.estimator, headline.stream, modality, tokens)
    half = HALVES.get(tokens.removesuffix("_no_sinks"))
    title = f"{shown.label}, {half}" if half else shown.label
    return ShownSeries(shown, tokens, title, tuple(rows), headline) if rows else None


def quantities(shown: Sequence[Shown]) -> list[tuple[Headline, list[Shown]]]:
    """What a section draws, with the results that may stand in one panel: columns of the tables, then the others."""
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
