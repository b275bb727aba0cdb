"""Whether a run of this package could have written a result: what a stranger's file is held against.

:func:`~microscope_bench.results.result.load_result` says whether a file may be read. This says more: whether
each value lies where its metric can lie, the counts fit each other, no layer is missing, and the signature says what
the identity says. It finds slips and careless forgery. A careful forger passes; only repeating the run tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
from functools import cache, partial
from itertools import islice
from typing import NamedTuple

from microscope_bench.metrics.record import Metric
from microscope_bench.metrics.registry import find_metric
from microscope_bench.results.records import Score
from microscope_bench.results.replicates import contradiction
from microscope_bench.results.result import FAILED, Result

ROUNDING = 1e-3
"""By how much a value may lie beyond its range, relative to an end above 1: more than arithmetic ever takes it."""

FARTHEST = 1e6
"""By how much, relative, the replicates of a value without a range may lie beside it."""

_SHOWN = 3


def implausible(result: Result) -> list[str]:
    """What in a result no run of this package writes, each with its place and rule; empty where there is nothing."""
    found = list(_signature(result))
    if result.status != FAILED:
        names = {*result.identity.metrics, *(score.metric for score in result.scores)}
        # of a metric that is not registered here, a plug-in's, nobody knows the range and the layers
        known = {name: metric for name in names if (metric := find_metric(name))}
        found += [*_counts(result), *_accuracy(result), *_scores(result, known), *_layers(result, known)]
    return found


def _signature(result: Result) -> Iterator[str]:
    expected = result.identity.signature(result.environment.package_version)
    if result.signature != expected:
        yield f"signature: identity and package_version make it {expected}, the file says {result.signature}"


def _counts(result: Result) -> Iterator[str]:
    identity, inputs = result.identity, result.inputs
    limit = identity.protocol.limit
    if limit is not None and identity.n_examples > limit:
        yield f"identity.n_examples: {identity.n_examples} were asked for under limit = {limit}"
    tried = inputs.n_examples + len(inputs.skipped)
    if tried != identity.n_examples:
        yield (
            f"inputs.n_examples: {inputs.n_examples} measured and {len(inputs.skipped)} skipped of "
            f"{identity.n_examples}"
        )
    if len(inputs.skipped) > int(identity.protocol.max_skipped * tried + ROUNDING):
        yield (
            f"inputs.skipped: {len(inputs.skipped)} of {tried} examples, the protocol allows a share of "
            f"{identity.protocol.max_skipped}"
        )
    most = identity.protocol.tokens_per_example * inputs.n_examples
    seen = inputs.tokens_seen
    for entry in result.sinks:
        where = f"sinks of {entry.modality}"
        ceiling = most if entry.modality != "joint" else most * max(1, len(result.sinks) - 1)
        if entry.n_tokens > ceiling:
            yield (
                f"{where}.n_tokens: {entry.n_tokens} of {inputs.n_examples} examples, at most "
                f"{identity.protocol.tokens_per_example} of each modality"
            )
        # another tap sees other positions than the decoder, of which alone tokens_seen tells
        if "tap" not in identity.model.options and entry.modality in seen and entry.n_tokens > seen[entry.modality]:
            yield f"{where}.n_tokens: {entry.n_tokens}, but inputs.tokens_seen counts {seen[entry.modality]}"


def _accuracy(result: Result) -> Iterator[str]:
    accuracy, n = result.accuracy, result.inputs.n_examples
    if accuracy is None:
        return
    if accuracy.n > n + len(result.inputs.skipped):
        yield f"accuracy.n: {accuracy.n} of {n} examples"
    if accuracy.value is not None:
        right = accuracy.value * accuracy.n
        if abs(right - round(right)) > 1e-6 * max(1, accuracy.n):
            yield f"accuracy.value: {accuracy.value} of {accuracy.n} examples is no whole number of right answers"
        if accuracy.n > 1 and accuracy.stderr is not None:
            expected = math.sqrt(accuracy.value * (1 - accuracy.value) / (accuracy.n - 1))
            if abs(accuracy.stderr - expected) > ROUNDING:
                yield f"accuracy.stderr: {accuracy.stderr}; that of {accuracy.value} of {accuracy.n} is {expected:.4g}"


def _scores(result: Result, known: dict[str, Metric]) -> Iterator[str]:
    limits_of = cache(partial(_limits, result, known, {score.modality for score in result.scores} - {"joint"}))
    folds, n_measured = result.inputs.folds, result.inputs.n_examples
    for index, score in enumerate(result.scores):
        found = list(_in_score(score, limits_of(score.metric, score.estimator, score.modality), n_measured))
        if score.value is not None and (wrong := contradiction(score, folds)):
            found.append(f"stderr: {wrong}")
        if found:
            series = score.metric, score.estimator, score.stream, score.modality, score.tokens
            where = f"scores[{index}] ({' '.join(filter(None, series))}, layer {score.layer})"
            yield from (f"{where}.{what}" for what in found)


class _Limits(NamedTuple):
    """What the rows of one metric, estimator and modality are held against; ``spread`` times how far the replicates may
    lie from their mean, ``reach``, is the largest standard error.
    """

    low: float
    high: float
    reach: float | None
    spread: float
    tokens: int
    copies: bool


def _limits(
    result: Result, known: dict[str, Metric], modalities: Set[str], metric: str, estimator: str, modality: str
) -> _Limits:
    protocol, record = result.identity.protocol, known.get(metric)
    kept: dict[str, int] = {entry.modality: entry.n_tokens for entry in result.sinks}
    most = protocol.tokens_per_example * result.inputs.n_examples
    tokens = kept.get(modality, most * (len(modalities) if modality == "joint" else 1))
    if record is None or record.beside_text:
        tokens += kept.get("text", most)
    low, high = record.range_of(estimator, result.identity.model.hidden_size) if record else (-math.inf, math.inf)
    reach = (high - low) / 2 if math.isfinite(high - low) else None
    # K replicates within the range have a jackknife error of at most sqrt(K - 1) times half of it
    spread = math.sqrt(protocol.folds - 1)
    return _Limits(low, high, reach, spread, tokens, copies=record is not None and record.drops_copies)


def _in_score(score: Score, limits: _Limits, n_measured: int) -> Iterator[str]:
    low, high, reach, spread, tokens, copies = limits
    value, stderr, n_tokens, n_examples = score.value, score.stderr, score.n_tokens, score.n_examples
    if n_tokens > tokens:
        yield f"n_tokens: {n_tokens}, but {tokens} were kept"
    if n_examples > n_measured:
        yield f"n_examples: {n_examples} of {n_measured}"
    # where copies are dropped, the one that is kept stands for the examples of all
    if not copies and n_examples > n_tokens:
        yield f"n_examples: {n_examples} among {n_tokens} tokens"
    if value is None:
        return
    if n_tokens == 0 or n_examples == 0:
        yield f"value: {value} of no tokens"
    if not low <= value <= high and not _nearly_within(value, low, high):
        yield f"value: {value} lies outside {low:g} to {high:g}"
    reach = FARTHEST * max(1, abs(value)) if reach is None else reach
    if stderr is not None and stderr > spread * reach + ROUNDING:
        yield f"stderr: {stderr:.4g} of a value within {low:g} to {high:g}"


def _nearly_within(value: float, low: float, high: float) -> bool:
    return low - ROUNDING * max(1, abs(low)) <= value <= high + ROUNDING * max(1, abs(high))


def _layers(result: Result, known: dict[str, Metric]) -> Iterator[str]:
    """Every series of a metric that is known has all of its layers, and every such metric has a series."""
    n_layers = result.identity.model.n_layers
    for series, rows in result.by_series.items():
        record = known.get(series[0])
        if record is None:
            continue
        name, expected = " ".join(filter(None, series)), range(n_layers + (0 if record.between else 1))
        layers = {row.layer for row in rows}
        # no set of a hostile file's n_layers for each of its rows
        missing = list(islice((layer for layer in expected if layer not in layers), _SHOWN + 1))
        if missing:
            yield f"scores: {name} has no row of layer {_some(missing)}"
        if record.between and n_layers in layers:
            yield f"scores: {name} has a row of layer {n_layers}, behind which there is no other"
    measured = {series[0] for series in result.by_series}
    for metric in sorted(result.identity.metrics.keys() & known.keys() - measured):
        # what relates a modality to text has nothing to say of text alone
        if not known[metric].beside_text and not (known[metric].between and n_layers == 0):
            yield f"identity.metrics: {metric} has a version but no scores"


def _some(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers[:_SHOWN])) + (", ..." if len(layers) > _SHOWN else "")
