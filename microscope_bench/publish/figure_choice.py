"""One picture of what was asked for: which metrics of which comparable results; nothing is guessed among several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from microscope_bench.errors import ResultError, unknown_name
from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import headlines
from microscope_bench.publish.plots import NOTHING, columns_shown, comparable
from microscope_bench.publish.summary import MODALITIES
from microscope_bench.results.result import Result


def of_task(results: Sequence[Result], task: str | None) -> list[Result]:
    """The results of one task, or all; raises UnknownNameError where there is none of it."""
    tasks = sorted({result.identity.task.name for result in results})
    if task is not None and task not in tasks:
        raise unknown_name("task", task, tasks, "No result here is of another.")
    return [result for result in results if task in (None, result.identity.task.name)]


def check_token_set(results: Sequence[Result], tokens: str) -> None:
    """Raises UnknownNameError for a token set that no result has."""
    there = {score.tokens for result in results for score in result.scores}
    if there and tokens not in there:
        raise unknown_name("token set", tokens, sorted(there), "These results hold no other.")


def one_comparison(results: Iterable[Result]) -> list[Result]:
    """The complete results, for one picture; raises ResultError where there is none, or they do not all compare."""
    groups = comparable(results)
    if not groups:
        raise ResultError(NOTHING)
    if len(groups) > 1:
        listed = "\n".join(f"  {_described(group)}" for group in groups)
        raise ResultError(
            f"these results are of {len(groups)} kinds that do not compare, and one picture shows one:\n{listed}\n"
            f"Choose with --task, or name the files instead of their directory"
        )
    return groups[0]


def chosen_headlines(
    results: Sequence[Result], metric: str | None, estimator: str | None = None, stream: str | None = None
) -> list[Headline]:
    """What to draw: the headline estimator of a metric (None: of all) or the one given, of each stream or of one.

    Raises:
        UnknownNameError: no result has the metric, the estimator or the stream.
        ResultError: an estimator without its metric, or a metric without a headline of which one has to be chosen.
    """
    if metric is None and estimator is not None:
        raise ResultError(f"--estimator {estimator} belongs to a metric; name it with --metric")
    known = columns_shown(results) if metric is None else headlines([metric])
    fitting = [one for one in known if stream in (None, one.stream)]
    if fitting and estimator is None:
        return fitting
    if metric is None:
        raise unknown_name("stream", str(stream), sorted({one.stream for one in known if one.stream}))
    rows = [score for result in results for score in result.scores]
    named = [score for score in rows if score.metric == metric]
    if not named:
        raise unknown_name("metric", metric, sorted({score.metric for score in rows}), "These results hold no other.")
    estimators = sorted({score.estimator for score in named})
    estimator = estimator or next((one.estimator for one in known), None)
    if estimator is None and len(estimators) > 1:
        raise ResultError(f"{metric} has the estimators {', '.join(estimators)}; choose one with --estimator")
    if estimator is not None and estimator not in estimators:
        raise unknown_name("estimator", estimator, estimators)
    estimator = estimator or estimators[0]
    streams = sorted({score.stream for score in named if score.estimator == estimator}, key=str)
    if stream is not None and stream not in streams:
        raise unknown_name("stream", stream, [s for s in streams if s])
    return [
        Headline(
            metric=metric,
            estimator=estimator,
            stream=one,
            title=_title(metric, estimator, one),
            explanation="",
            extreme="min",
        )
        for one in streams
        if stream in (None, one)
    ]


def chosen_modalities(results: Sequence[Result], asked: Sequence[str]) -> Sequence[str]:
    """The modalities asked for, or all, in their fixed order; raises UnknownNameError for one that was not measured."""
    there = {score.modality for result in results for score in result.scores}
    for modality in asked:
        if modality not in there:
            raise unknown_name("modality", modality, [name for name in MODALITIES if name in there])
    return [name for name in MODALITIES if name in (asked or MODALITIES)]


def _title(metric: str, estimator: str, stream: str | None) -> str:
    return f"{metric.replace('_', ' ')}\n({', '.join(part for part in (stream, estimator) if part)})"


def _described(group: Sequence[Result]) -> str:
    identity = group[0].identity
    data = f"{identity.dataset.revision[:40]}, {group[0].inputs.n_examples} examples"
    return f"{identity.task.name} ({data}; {identity.protocol.label}): {len(group)} results"
