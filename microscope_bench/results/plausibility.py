"""Whether a run of this package could have written a result: what a stranger's file is held against.

:func:`~microscope_bench.results.validation.check_document` says whether a file may be read. This says more: whether
each value lies where its metric can lie, the counts fit each other, no layer is missing, and the signature says what
the identity says. It finds slips and careless forgery. A careful forger passes; only repeating the run tells.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from microscope_bench.results.result import FAILED, Result, Score
from microscope_bench.results.signature import signature

ROUNDING = 1e-3
"""By how much a value may lie beyond its range, relative to an end above 1: more than arithmetic ever takes it."""

_SHOWN = 3


@dataclass(frozen=True)
class Rule:
    """What is known of every value of a metric, whatever the model.

    Attributes:
        low: the least it can be.
        high: the most; ``WIDTH`` stands for the number of dimensions.
        between: whether it lies between two boundaries, so that the last layer is L - 1 and not L.
        beside_text: whether it relates a modality to text and counts the tokens of both.
        estimators: estimator → other ends, for those that have some.
    """

    low: float
    high: float
    between: bool = False
    beside_text: bool = False
    estimators: tuple[tuple[str, float, float], ...] = ()

    def ends(self, estimator: str, width: int) -> tuple[float, float]:
        """The least and the most that an estimator can give."""
        found = next(((low, high) for name, low, high in self.estimators if name == estimator), (self.low, self.high))
        return found[0], float(width) if found[1] == WIDTH else found[1]


ANY, WIDTH = math.inf, -1.0
RULES = {
    # every R² is at most 1; only a map that was fitted on what it is scored on cannot be worse than the mean
    "linearity": Rule(-ANY, 1, between=True, estimators=(("in_sample", 0, 1), ("in_sample_permuted", 0, 1))),
    "anisotropy": Rule(0, 1),
    "intrinsic_dimension": Rule(0, ANY),
    "intrinsic_dimension_by_scale": Rule(0, ANY),
    "intrinsic_dimension_by_n": Rule(0, ANY),
    "intrinsic_dimension_across_examples": Rule(0, ANY),
    "intrinsic_dimension_fit": Rule(0, 1),
    "participation_ratio": Rule(1, WIDTH),
    "effective_rank": Rule(1, WIDTH),
    "isoscore": Rule(0, 1),
    "cka": Rule(0, 1, between=True, estimators=(("debiased", -1, 1),)),
    "modality_gap": Rule(0, ANY, beside_text=True, estimators=(("unit", 0, 2),)),
    "cosine_alignment": Rule(-1, 1, beside_text=True),
    "subspace_overlap": Rule(0, 1, beside_text=True),
    "mir": Rule(0, ANY, beside_text=True, estimators=(("mir_fast_compat", -ANY, ANY),)),
}
"""Metric → its rule. A metric that is not here is a plug-in's, whose range and layers nobody else knows."""

_DROPS_COPIES = {name for name in RULES if name.startswith("intrinsic_dimension")}


def implausible(result: Result) -> list[str]:
    """What in a result no run of this package writes, each with its place and rule; empty where there is nothing.

    A failed result has no numbers to look at.
    """
    found = list(_signature(result))
    if result.status != FAILED:
        found += [*_counts(result), *_accuracy(result), *_scores(result), *_layers(result)]
    return found


def _signature(result: Result) -> Iterator[str]:
    expected = signature(asdict(result.identity), result.environment.package_version)
    if result.signature != expected:
        yield f"signature: identity and package_version make it {expected}, the file says {result.signature}"


def _counts(result: Result) -> Iterator[str]:
    identity, inputs = result.identity, result.inputs
    limit = identity.protocol.limit
    if limit is not None and identity.n_examples > limit:
        yield f"identity.n_examples: {identity.n_examples} were measured under limit = {limit}"
    tried = identity.n_examples + len(inputs.skipped)
    if len(inputs.skipped) > int(identity.protocol.max_skipped * tried + ROUNDING):
        yield (
            f"inputs.skipped: {len(inputs.skipped)} of {tried} examples, the protocol allows a share of "
            f"{identity.protocol.max_skipped}"
        )
    most = identity.protocol.tokens_per_example * identity.n_examples
    seen = inputs.tokens_seen
    for entry in result.sinks or ():
        where = f"sinks of {entry.modality}"
        ceiling = most if entry.modality != "joint" else most * max(1, len(result.sinks or ()) - 1)
        if entry.n_tokens > ceiling:
            yield (
                f"{where}.n_tokens: {entry.n_tokens} of {identity.n_examples} examples, at most "
                f"{identity.protocol.tokens_per_example} of each modality"
            )
        # another tap sees other positions than the decoder, of which alone tokens_seen tells
        if "tap" not in identity.model.options and entry.modality in seen and entry.n_tokens > seen[entry.modality]:
            yield f"{where}.n_tokens: {entry.n_tokens}, but inputs.tokens_seen counts {seen[entry.modality]}"


def _accuracy(result: Result) -> Iterator[str]:
    accuracy, n = result.accuracy, result.identity.n_examples
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


def _scores(result: Result) -> Iterator[str]:
    identity = result.identity
    kept = {entry.modality: entry.n_tokens for entry in result.sinks or ()}
    most = identity.protocol.tokens_per_example * identity.n_examples
    modalities = {score.modality for score in result.scores} - {"joint"}
    for index, score in enumerate(result.scores):
        rule = RULES.get(score.metric)
        where = f"scores[{index}] ({_name(score)}, layer {score.layer})"
        ceiling = kept.get(score.modality, most * (len(modalities) if score.modality == "joint" else 1))
        if rule is None or rule.beside_text:
            ceiling += kept.get("text", most)
        if score.n_tokens > ceiling:
            yield f"{where}.n_tokens: {score.n_tokens}, but {ceiling} were kept"
        if score.n_examples > identity.n_examples:
            yield f"{where}.n_examples: {score.n_examples} of {identity.n_examples}"
        # where copies are dropped, the one that is kept stands for the examples of all
        if score.metric not in _DROPS_COPIES and score.n_examples > score.n_tokens:
            yield f"{where}.n_examples: {score.n_examples} among {score.n_tokens} tokens"
        if score.value is None:
            continue
        if score.n_tokens == 0 or score.n_examples == 0:
            yield f"{where}.value: {score.value} of no tokens"
        if rule is None:
            continue
        low, high = rule.ends(score.estimator, identity.model.hidden_size)
        if not low - ROUNDING * max(1, abs(low)) <= score.value <= high + ROUNDING * max(1, abs(high)):
            yield f"{where}.value: {score.value} lies outside {low:g} to {high:g}"


def _layers(result: Result) -> Iterator[str]:
    """Every series of a metric that is known has all of its layers, and every such metric has a series."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for score in result.scores:
        found[score.metric, _name(score)].add(score.layer)
    n_layers = result.identity.model.n_layers
    for (metric, name), layers in found.items():
        rule = RULES.get(metric)
        if rule is None:
            continue
        missing = sorted(set(range(n_layers + (0 if rule.between else 1))) - layers)
        if missing:
            yield f"scores: {name} has no row of layer {_some(missing)}"
        if rule.between and n_layers in layers:
            yield f"scores: {name} has a row of layer {n_layers}, behind which there is no other"
    measured = {metric for metric, _ in found}
    for metric in sorted(result.identity.metrics.keys() & RULES.keys() - measured):
        # what relates a modality to text has nothing to say of text alone
        if not RULES[metric].beside_text and not (RULES[metric].between and n_layers == 0):
            yield f"identity.metrics: {metric} has a version but no scores"


def _name(score: Score) -> str:
    parts = (score.metric, score.estimator, score.stream or "", score.modality, score.tokens)
    return " ".join(part for part in parts if part)


def _some(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers[:_SHOWN])) + (", ..." if len(layers) > _SHOWN else "")
