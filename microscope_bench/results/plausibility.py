"""Whether a run of this package could have written a result: what a stranger's file is held against.

:func:`~microscope_bench.results.result.load_result` says whether a file may be read. This says more: whether
each value lies where its metric can lie, the counts fit each other, no layer is missing, and the signature says what
the identity says. It finds slips and careless forgery. A careful forger passes; only repeating the run tells.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

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
    identity, n_measured = result.identity, result.inputs.n_examples
    kept = {entry.modality: entry.n_tokens for entry in result.sinks}
    most = identity.protocol.tokens_per_example * n_measured
    modalities = {score.modality for score in result.scores} - {"joint"}
    for index, score in enumerate(result.scores):
        record = known.get(score.metric)
        ceiling = kept.get(score.modality, most * (len(modalities) if score.modality == "joint" else 1))
        if record is None or record.beside_text:
            ceiling += kept.get("text", most)
        found = [*_score_counts(score, ceiling, n_measured, copies=record is not None and record.drops_copies)]
        if score.value is not None:
            ends = record.range_of(score.estimator, identity.model.hidden_size) if record else (-math.inf, math.inf)
            found += _score_values(score, score.value, ends, identity.protocol.folds)
            if wrong := contradiction(score, result.inputs.folds):
                found.append(f"stderr: {wrong}")
        if found:
            where = f"scores[{index}] ({' '.join(filter(None, _series(score)))}, layer {score.layer})"
            yield from (f"{where}.{what}" for what in found)


def _score_counts(score: Score, ceiling: int, n_measured: int, *, copies: bool) -> Iterator[str]:
    if score.n_tokens > ceiling:
        yield f"n_tokens: {score.n_tokens}, but {ceiling} were kept"
    if score.n_examples > n_measured:
        yield f"n_examples: {score.n_examples} of {n_measured}"
    # where copies are dropped, the one that is kept stands for the examples of all
    if not copies and score.n_examples > score.n_tokens:
        yield f"n_examples: {score.n_examples} among {score.n_tokens} tokens"


def _score_values(score: Score, value: float, ends: tuple[float, float], folds: int) -> Iterator[str]:
    low, high = ends
    if score.n_tokens == 0 or score.n_examples == 0:
        yield f"value: {value} of no tokens"
    if not low - ROUNDING * max(1, abs(low)) <= value <= high + ROUNDING * max(1, abs(high)):
        yield f"value: {value} lies outside {low:g} to {high:g}"
    # K replicates within the range have a jackknife error of at most sqrt(K - 1) times half of it
    reach = (high - low) / 2 if math.isfinite(high - low) else FARTHEST * max(1, abs(value))
    if score.stderr is not None and score.stderr > math.sqrt(folds - 1) * reach + ROUNDING:
        yield f"stderr: {score.stderr:.4g} of a value within {low:g} to {high:g}"


def _layers(result: Result, known: dict[str, Metric]) -> Iterator[str]:
    """Every series of a metric that is known has all of its layers, and every such metric has a series."""
    found: dict[tuple[str | None, ...], set[int]] = defaultdict(set)
    for score in result.scores:
        found[_series(score)].add(score.layer)
    n_layers = result.identity.model.n_layers
    for series, layers in found.items():
        name, record = " ".join(filter(None, series)), known.get(str(series[0]))
        if record is None:
            continue
        expected = range(n_layers + (0 if record.between else 1))
        # no set of a hostile file's n_layers for each of its rows
        missing = list(islice((layer for layer in expected if layer not in layers), _SHOWN + 1))
        if missing:
            yield f"scores: {name} has no row of layer {_some(missing)}"
        if record.between and n_layers in layers:
            yield f"scores: {name} has a row of layer {n_layers}, behind which there is no other"
    measured = {series[0] for series in found}
    for metric in sorted(result.identity.metrics.keys() & known.keys() - measured):
        # what relates a modality to text has nothing to say of text alone
        if not known[metric].beside_text and not (known[metric].between and n_layers == 0):
            yield f"identity.metrics: {metric} has a version but no scores"


def _series(score: Score) -> tuple[str | None, ...]:
    return score.metric, score.estimator, score.stream, score.modality, score.tokens


def _some(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers[:_SHOWN])) + (", ..." if len(layers) > _SHOWN else "")
