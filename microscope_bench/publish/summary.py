"""Per-layer scores summarised for a table: the mean over the layers and the extreme, each with its standard error.

A summary is shown whole or not at all: where one layer has no value, there is no mean "over what happens to be there".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from microscope_bench.identity import UNTRAINED
from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import DEFAULT_METRICS, find_metric, headlines
from microscope_bench.results.records import Modality, Score, Sinks
from microscope_bench.results.replicates import stderr_of_sum
from microscope_bench.results.result import Result

MODALITIES: tuple[str, ...] = get_args(Modality)
UPPER_BOUND = "some layers have no replicates, so the ± of the mean is the mean of the layers' errors, an upper bound"


@dataclass(frozen=True)
class Summary:
    """One series over the layers, with the ends of its n and what a reader should know of some of the values.

    ``mean_stderr`` is the jackknife's of the mean itself; where a layer has no replicates, the mean of the layers'
    standard errors, an upper bound that a caution tells. ``layer`` is where the extreme occurs (the first of equals).
    """

    mean: float
    mean_stderr: float
    extreme: float
    extreme_stderr: float
    layer: int
    n_tokens: tuple[int, int]
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Withheld:
    reason: str


def columns_of(result: Result) -> tuple[Headline, ...]:
    """What tables show of a result: the default metrics, measured or not, and its others that declare a column."""
    return tuple(one for one in headlines({*DEFAULT_METRICS, *result.identity.metrics}) if one.in_tables)


def measured_series(result: Result) -> Iterator[tuple[str, str, Headline]]:
    columns = [one for one in columns_of(result) if one.metric in result.identity.metrics]
    for modality in measured_modalities(result):
        for tokens in token_sets(result, modality):
            yield from ((modality, tokens, headline) for headline in columns)


def with_token_set(name: str, tokens: str) -> str:
    """A model's or modality's name, with ``no sinks`` behind it for a token set without them."""
    return name if tokens == "all" else f"{name}, no sinks"


def has_own_n(metric: str) -> bool:
    """Whether a metric's values are of distinct tokens, so that their number stands beside them."""
    record = find_metric(metric)
    return record is not None and record.drops_copies


def layers_of(result: Result, headline: Headline) -> range:
    """0..L, or to L − 1 for what lies between two boundaries; its scores tell of a metric that nobody registers."""
    n_layers, record = result.identity.model.n_layers, find_metric(headline.metric)
    if record is not None:
        return range(n_layers + (0 if record.between else 1))
    layers = {score.layer for score in result.scores if score.metric == headline.metric}
    return range(n_layers + (1 if n_layers in layers else 0))


def depths_of(result: Result, headline: Headline) -> dict[int, float]:
    layers, n_layers = layers_of(result, headline), result.identity.model.n_layers
    shift = 0.5 if len(layers) == n_layers else 0.0
    return {layer: (layer + shift) / max(n_layers, 1) for layer in layers}


def summarise(result: Result, headline: Headline, modality: str, tokens: str = "all") -> Summary | Withheld:
    if headline.metric not in result.identity.metrics:
        return Withheld(f"{headline.metric} was not measured")
    rows = result.series(headline.metric, headline.estimator, headline.stream, modality, tokens)
    expected = layers_of(result, headline)
    if not expected:
        return Withheld(f"{headline.title}: there are no layers to map between")
    missing, cautions = _missing(rows, expected), cautions_of(rows, headline.metric, result.identity.model.dtype)
    rows = without_vocabulary(rows)
    for problem in (missing, _null(rows), _without_stderr(rows)):
        if problem:
            return Withheld(f"{headline.title}: {problem}")
    pick = min if headline.extreme == "min" else max
    extreme = pick(rows, key=_value)
    mean, stderr = _mean([_value(row) for row in rows]), stderr_of_sum(rows, [1 / len(rows)] * len(rows))
    if stderr is None:
        cautions["no_replicates"] = UPPER_BOUND
        stderr = _mean([row.stderr or 0.0 for row in rows])
    if not (math.isfinite(mean) and math.isfinite(stderr)):
        what = "standard error of the mean" if math.isfinite(mean) else "mean"
        return Withheld(f"{headline.title}: the {what} over the layers is not finite")
    return Summary(
        mean=mean,
        mean_stderr=stderr,
        extreme=_value(extreme),
        extreme_stderr=extreme.stderr or 0.0,
        layer=extreme.layer,
        n_tokens=(min(row.n_tokens for row in rows), max(row.n_tokens for row in rows)),
        cautions=tuple(cautions.values()),
    )


def non_finite(result: Result) -> str:
    """What is to be said of hidden states that hold NaN or infinity; empty where none do."""
    rows = [score for score in result.scores if "non_finite" in score.flags]
    # what lies between two boundaries may have no value for the sake of the second
    of_one = [row for row in rows if (record := find_metric(row.metric)) is None or not record.between] or rows
    if not rows:
        return ""
    return (
        f"hidden states at layers {show_layers({row.layer for row in of_one})} hold NaN or infinity and have no "
        f"values: `microscope-bench check` on the same model says where they begin"
    )


def without_vocabulary(rows: Sequence[Score]) -> list[Score]:
    """The rows of a summary: without boundary 0 where it has too few distinct tokens for a value.

    There text is a vocabulary, of a few dozen to a few thousand distinct vectors whatever the model.
    """
    few = {row.layer for row in rows if any(flag.partition("=")[0] == "few_distinct" for flag in row.flags)}
    return [row for row in rows if row.layer > 0 or few != {0}]


def watched_name(result: Result) -> str:
    """The model's name, with where it was watched unless in its decoder."""
    model = result.identity.model
    return f"{model.name} [{model.options['tap']}]" if "tap" in model.options else model.name


def shown_name(result: Result) -> str:
    """The watched name, and whether the weights are untrained."""
    model = result.identity.model
    name = watched_name(result)
    return name if model.trained or model.name.endswith(UNTRAINED) else f"{name} ({UNTRAINED[1:]})"


def layers_to_mir(
    result: Result, modality: str, estimator: str = "exact", tokens: str = "all"
) -> tuple[float, float] | None:
    """MIR of a result: log₁₀ of the sum of metric ``mir`` over the boundaries 1..L (Huang et al., arXiv 2410.07167).

    Beside it the most that its standard error can be; None where a value is missing.
    """
    rows = [row for row in result.series("mir", estimator, None, modality, tokens) if row.layer >= 1]
    total = math.fsum(_value(row) for row in rows)
    if len(rows) < result.identity.model.n_layers or not 0 < total < math.inf or _without_stderr(rows):
        return None
    return math.log10(total), math.fsum(row.stderr or 0.0 for row in rows) / (total * math.log(10))


def measured_modalities(result: Result) -> list[str]:
    there = {score.modality for score in result.scores}
    return [modality for modality in MODALITIES if modality in there]


def sinks_of(result: Result, modality: str) -> Sinks | None:
    """None for a modality that the result was not given."""
    return next((entry for entry in result.sinks if entry.modality == modality), None)


def token_sets(result: Result, modality: str) -> list[str]:
    """The token sets worth showing: without sinks there is but one."""
    sinks = sinks_of(result, modality)
    return ["all", "no_sinks"] if sinks is not None and sinks.n_sinks else ["all"]


def plus_minus(value: float, stderr: float) -> str:
    """A value to the precision of its standard error, which is given to two digits or, if tiny, rounded up to 1e-6.

    An error of 0 is written so: the same tokens were there whichever examples were left out.

    >>> plus_minus(0.912345, 0.00312), plus_minus(12.3456, 0.42), plus_minus(5012.3, 123.4), plus_minus(1.0, 1e-9)
    ('0.9123 ± 0.0031', '12.35 ± 0.42', '5012 ± 123', '1.000000 ± 0.000001')
    """
    if stderr == 0:
        return f"{value:.4g} ± 0"
    if stderr < 1e-6:
        stderr = 1e-6
    if max(abs(value), stderr) >= 1e7:
        return f"{value:.4g} ± {stderr:.2g}"
    exponent = int(f"{stderr:.1e}".partition("e")[2])  # after rounding to two digits: 0.0996 counts as 0.10
    decimals = max(0, min(6, 1 - exponent)) if stderr else 6
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"


def accuracy_of(result: Result) -> str | Withheld:
    """Accuracy with its uncertainty and n, or why it is not shown; empty where the task has no answer to score."""
    accuracy = result.accuracy
    if accuracy is None:
        return ""
    if accuracy.value is None:
        return Withheld(str(accuracy.reason))
    if accuracy.stderr is None:
        return Withheld(f"{accuracy.value:.4g}, without a standard error (n = {accuracy.n:,})")
    if accuracy.value in (0, 1):
        low, high = wilson_interval(accuracy.value, accuracy.n)
        return f"{accuracy.value:.4g}, 95 % interval {low:.3g} to {high:.3g} (n = {accuracy.n:,})"
    return f"{plus_minus(accuracy.value, accuracy.stderr)} (n = {accuracy.n:,})"


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson 1927), which has a width where all or none are right.

    >>> low, high = wilson_interval(1.0, 8)
    >>> round(low, 4), high
    (0.6756, 1.0)
    """
    z = 1.959963984540054  # of the normal distribution, at 97.5 %
    centre, width = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - width) / (1 + z**2 / n)), min(1.0, (centre + width) / (1 + z**2 / n))


def accuracy_text(result: Result) -> str:
    shown = accuracy_of(result)
    if not isinstance(shown, Withheld):
        return shown
    return f"none: {shown.reason}" if result.accuracy and result.accuracy.value is None else shown.reason


def show_range(ends: tuple[int, int]) -> str:
    low, high = ends
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def show_layers(layers: Iterable[int]) -> str:
    """Layer numbers with runs shortened.

    >>> show_layers([0, 1, 2, 5])
    '0–2, 5'
    """
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)


def _missing(rows: Sequence[Score], expected: range) -> str | None:
    missing = set(expected) - {row.layer for row in rows}
    return f"no scores of layers {show_layers(missing)}" if missing else None


def _null(rows: Sequence[Score]) -> str | None:
    layers_by_reason: dict[str, list[int]] = {}
    for row in rows:
        if row.value is None:
            layers_by_reason.setdefault(str(row.reason), []).append(row.layer)
    shown = [f"no value at layers {show_layers(layers)} ({reason})" for reason, layers in layers_by_reason.items()]
    return "; ".join(shown[:3]) + ("; ..." if len(shown) > 3 else "")


def _without_stderr(rows: Sequence[Score]) -> str | None:
    layers = [row.layer for row in rows if row.stderr is None]
    return f"no standard error at layers {show_layers(layers)}" if layers else None


def cautions_of(rows: Sequence[Score], metric: str, dtype: str) -> dict[str, str]:
    """What a reader should know of some of a series' values: flag, or "half_precision" → the sentence of the record."""
    record = find_metric(metric)
    if record is None:
        return {}
    found = {flag.partition("=")[0] for row in rows for flag in row.flags}
    half = {"half_precision": record.half_precision} if dtype in ("float16", "bfloat16") else {}
    flagged = {flag: text for flag, text in record.cautions.items() if flag in found}
    return {flag: text for flag, text in {**half, **flagged}.items() if text}


def _value(row: Score) -> float:
    return math.nan if row.value is None else row.value


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.inf
