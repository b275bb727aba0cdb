"""Modality gap: how far the centre of a modality's tokens lies from that of the text tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.jackknife import Outcome
from microscope_bench.metrics.core.means import centre
from microscope_bench.metrics.core.text_pair import Pair
from microscope_bench.metrics.record import EstimatorScore

ALL_ZERO = "all tokens of one modality are zeros and have no direction"


def unit_gap(pair: Pair, left_out: int | None) -> Outcome:
    """‖mean(x/‖x‖) − mean(t/‖t‖)‖."""
    x, t = pair.cloud.directions.mean(left_out), pair.text.directions.mean(left_out)
    return ALL_ZERO if x is None or t is None else float((x - t).norm())


def raw_gap(pair: Pair, left_out: int | None) -> Outcome:
    """‖x̄ − t̄‖."""
    x, t = centre(pair.cloud.moments, left_out), centre(pair.text.moments, left_out)
    return "no tokens of one modality" if min(x.n, t.n) == 0 else float((x.mean - t.mean).norm())


def scaled_gap(pair: Pair, left_out: int | None) -> Outcome:
    """‖x̄ − t̄‖ / √((v_x + v_t)/2)."""
    x, t = centre(pair.cloud.moments, left_out), centre(pair.text.moments, left_out)
    if min(x.n, t.n) < 2:
        return f"a variance needs at least 2 tokens of each modality, got {x.n} and {t.n} text tokens"
    variance = (x.total_variance + t.total_variance) / 2
    if not variance:
        return "the states have no variance beyond rounding within each modality"
    return float((x.mean - t.mean).norm()) / math.sqrt(variance)


ESTIMATORS: dict[str, Callable[[Pair, int | None], Outcome]] = {
    "unit": unit_gap,
    "raw": raw_gap,
    "scaled": scaled_gap,
}


def zero_flags(pair: Pair) -> tuple[str, ...]:
    """``zero_norm=share`` of the tokens of both clouds, where there are any without a direction."""
    zero = pair.cloud.directions.zero + pair.text.directions.zero
    return (f"zero_norm={zero / pair.n_tokens:.4f}",) if zero else ()


def estimate_gap(pair: Pair, estimator: str) -> Estimate:
    """One estimate; ``estimator`` is a known name."""
    if problem := pair.problem("the modality gap"):
        return problem
    flags = zero_flags(pair) if estimator == "unit" else ()
    return pair.estimate(lambda left_out: ESTIMATORS[estimator](pair, left_out), *flags)


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """Every estimator; nothing for a cloud without text beside it."""
    if pair := Pair.of(cloud):
        for name in ESTIMATORS:
            yield name, None, estimate_gap(pair, name)
