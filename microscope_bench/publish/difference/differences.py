"""The differences of two results: which rows there are, and why two results cannot be compared in pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from microscope_bench.errors import ResultError
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.publish.compare.comparison import Quantity
from microscope_bench.publish.difference.paired import Paired, holm, paired, slope_weights
from microscope_bench.publish.summary import (
    columns_of,
    measured_modalities,
    show_layers,
    token_sets,
    without_vocabulary,
)
from microscope_bench.results.records import Score
from microscope_bench.results.replicates import MOST_FOLDS, contradiction
from microscope_bench.results.result import FAILED, Result

MEAN, SLOPE, LAYER = "mean", "slope", "layer"
"""What a row is over: the mean of the layers; the slope of a line over depth l/L, first to last layer; one layer."""

LEVEL = 0.05
"""A difference whose adjusted p-value is below it is called one."""

_PROTOCOL = ("tokens_per_example", "folds", "id_tokens", "sink_rule", "seed")
_SHOWN = 5


@dataclass(frozen=True)
class Row:
    """One difference, or the reason why there is none; ``layers`` are those of a, and of b where it has others."""

    quantity: Quantity
    over: str
    layers: tuple[int, ...]
    found: Paired | None
    reason: str | None = None


@dataclass(frozen=True)
class Differences:
    """All rows of two results, Holm's p-values over them, and what was left out and why."""

    a: Result
    b: Result
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]


def difference(a: Result, b: Result, *, layers: bool = False, everything: bool = False) -> Differences:
    """How two models differ on the same examples: a − b, with paired standard errors, intervals and p-values.

    One row for the mean over the layers and one for the slope over depth (the change from boundary 0 to L, so that
    models of different depth compare) of every headline, modality and token set that both have.

    Args:
        a: a complete result.
        b: another, with the same folds of the same examples.
        layers: a row for each layer too, where both models have as many.
        everything: all metrics and estimators instead of the headlines.

    Raises:
        ResultError: the results cannot be compared in pairs; says why and what to do.

    >>> from microscope_bench import difference, load_result  # doctest: +SKIP
    >>> for row in difference(load_result("a.json"), load_result("b.json")).rows:  # doctest: +SKIP
    ...     print(row.quantity, row.over, row.found and (row.found.difference, row.found.p_holm))
    """
    if problem := unpaired(a, b) or untrue(a, a.scores) or untrue(b, b.scores):
        raise ResultError(f"the results cannot be compared in pairs: {problem}")
    rows: list[Row] = []
    left_out = list(_left_out(a, b, layers))
    for quantity in _quantities(a, b, everything):
        rows += _rows(a, b, quantity, layers)
    if not any(row.found for row in rows):
        reasons = dict.fromkeys([*left_out, *(f"{row.quantity}: {row.reason}" for row in rows)])
        raise ResultError("\n".join(["the results have nothing to compare:", *list(reasons)[:_SHOWN]]))
    return Differences(a, b, tuple(adjusted(rows)), tuple(left_out))


def unpaired(a: Result, b: Result) -> str:
    """Why two results cannot be compared in pairs, and what to do; empty where they can."""
    for name, result in (("the first", a), ("the second", b)):
        if result.status == FAILED:
            return f"{name} is of a run that failed; repeat it"
        if result.inputs.folds is None:
            return f"{name} has no replicates; measure it again with this version (microscope-bench run, or measure)"
        if result.inputs.folds.n < 2:
            return f"{name} has one fold, of which there are no replicates; measure more examples"
        if result.inputs.folds.n > MOST_FOLDS:
            return f"{name} has {result.inputs.folds.n} folds, and of more than {MOST_FOLDS} no replicates are kept"
    ours, theirs = a.identity, b.identity
    fields = [f for f in _PROTOCOL if getattr(ours.protocol, f) != getattr(theirs.protocol, f)]
    if fields:
        pairs = (f"{f} is {getattr(ours.protocol, f)} and {getattr(theirs.protocol, f)}" for f in fields)
        return f"other protocols: {', '.join(pairs)}; measure both under one"
    if ours.selection != theirs.selection:
        return f"tokens were selected by {ours.selection} and {theirs.selection}; capture both with one version"
    if ours.dataset != theirs.dataset or ours.example_ids_sha256 != theirs.example_ids_sha256:
        return f"other examples: {_examples(a)}, and {_examples(b)}; measure both on the same"
    return _other_folds(a, b) if a.inputs.folds != b.inputs.folds else ""


def untrue(result: Result, scores: Iterable[Score]) -> str:
    """Where the replicates of some scores of a result cannot be theirs; empty where they can."""
    for score in scores:
        if wrong := contradiction(score, result.inputs.folds):
            where = f"{Quantity(score.metric, score.estimator, score.stream, score.modality, score.tokens)}"
            return f"{where}, layer {score.layer}: {wrong}; microscope-bench validate says more. Repeat the run"
    return ""


def _examples(result: Result) -> str:
    data = result.identity.dataset
    name = f"{data.path}/{data.name}" if data.name else data.path
    return f"{result.identity.n_examples:,} of {name} {data.split}@{data.revision}"


def _other_folds(a: Result, b: Result) -> str:
    ours, theirs = ({row.id for row in result.inputs.skipped} for result in (a, b))
    if ours == theirs:
        return "the examples have other pictures, or other folds, under the same ids; measure both with one version"
    parts = [
        f"the {which} skipped {len(only)} that the other measured ({', '.join(sorted(only)[:_SHOWN])})"
        for which, only in (("first", ours - theirs), ("second", theirs - ours))
        if only
    ]
    return f"not the same examples were measured: {'; '.join(parts)}; measure both on examples that neither skips"


def _left_out(a: Result, b: Result, layers: bool) -> Iterator[str]:
    ours, theirs = a.identity.metrics, b.identity.metrics
    for name in sorted(ours.keys() ^ theirs.keys()):
        yield f"{name}: measured in the {'first' if name in ours else 'second'} alone"
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name]:
            yield f"{name}: version {ours[name]} in the first, {theirs[name]} in the second"
    for modality in sorted(set(measured_modalities(a)) ^ set(measured_modalities(b))):
        yield f"{modality}: in the {'first' if modality in measured_modalities(a) else 'second'} alone"
    depths = (a.identity.model.n_layers, b.identity.model.n_layers)
    if layers and depths[0] != depths[1]:
        yield f"single layers: the models have {depths[0]} and {depths[1]} blocks"


def _quantities(a: Result, b: Result, everything: bool) -> Iterator[Quantity]:
    alike = {name for name, version in a.identity.metrics.items() if b.identity.metrics.get(name) == version}
    there = dict.fromkeys(
        (s.metric, s.estimator, s.stream, s.modality, s.tokens)
        for s in a.scores
        if s.metric in alike and b.series(s.metric, s.estimator, s.stream, s.modality, s.tokens)
    )
    heads = {(h.metric, h.estimator, h.stream) for h in columns_of(a)}
    sets = {m: {*token_sets(a, m), *token_sets(b, m)} for m in measured_modalities(a)}
    for metric, estimator, stream, modality, tokens in there:
        if tokens in sets[modality] and (everything or (metric, estimator, stream) in heads):
            yield Quantity(metric, estimator, stream, modality, tokens)


def _rows(a: Result, b: Result, quantity: Quantity, layers: bool) -> Iterator[Row]:
    ours, theirs = ({score.layer: score for score in result.series(*quantity)} for result in (a, b))
    depths = [result.identity.model.n_layers for result in (a, b)]
    usable = [{row.layer for row in without_vocabulary(list(rows.values()))} for rows in (ours, theirs)]
    # a vocabulary has too few vectors for some metrics; boundary 0 is then in neither sum
    skip = {0} if any(0 in rows and 0 not in of_n for rows, of_n in zip((ours, theirs), usable, strict=True)) else set()
    kept = [[layer for layer in sorted(rows) if layer not in skip] for rows in (ours, theirs)]
    scores = [[rows[layer] for layer in of] for rows, of in zip((ours, theirs), kept, strict=True)]
    shown = tuple(kept[0])
    if not all(map(_is_whole, kept, depths)):
        yield Row(quantity, MEAN, shown, None, "scores of some layers are missing")
    else:
        yield _row(quantity, MEAN, shown, scores, [[1 / len(of)] * len(of) for of in kept])
        if min(map(len, kept)) > 2:
            slopes = [slope_weights([layer / depth for layer in of]) for of, depth in zip(kept, depths, strict=True)]
            yield _row(quantity, SLOPE, shown, scores, slopes)
    if layers and depths[0] == depths[1]:
        for layer in sorted(ours.keys() & theirs.keys() - skip):
            yield _row(quantity, LAYER, (layer,), [[ours[layer]], [theirs[layer]]], [[1.0], [1.0]])


def _is_whole(layers: list[int], depth: int) -> bool:
    """Whether no layer is missing, but for boundary 0 and, between two boundaries, the last."""
    return bool(layers) and layers[0] <= 1 and layers[-1] >= depth - 1 and len(layers) == layers[-1] - layers[0] + 1


def _row(
    quantity: Quantity, over: str, layers: tuple[int, ...], scores: list[list[Score]], weights: list[list[float]]
) -> Row:
    a, b = scores
    try:
        return Row(quantity, over, layers, paired(a, b, (weights[0], weights[1])))
    except NoValue as none:
        return Row(quantity, over, layers, None, str(none))


def layer_rows(a: Result, b: Result, quantity: Quantity) -> list[Row]:
    """The differences of one series layer by layer, p-values adjusted for the layers; a and b can be paired."""
    return list(adjusted(row for row in _rows(a, b, quantity, True) if row.over == LAYER))


def adjusted(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with p-values for all of them together."""
    rows = list(rows)
    adjusted_p = iter(holm([row.found.p for row in rows if row.found]))
    for row in rows:
        yield row if row.found is None else replace(row, found=replace(row.found, p_holm=next(adjusted_p)))


def over_text(row: Row) -> str:
    """What a row is over, in words: "mean of layers 0–5", "slope over depth", "layer 3"."""
    if row.over == LAYER:
        return f"layer {row.layers[0]}"
    return f"{row.over} {'of' if row.over == MEAN else 'over'} layers {show_layers(row.layers)}"
