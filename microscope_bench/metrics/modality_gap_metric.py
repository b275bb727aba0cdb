"""Modality gap: how far the centre of a modality's tokens lies from that of the text tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.record import EstimatorScore, Headline, Metric


def modality_gap(
    x: core.Array,
    text: core.Array,
    estimator: str = "unit",
    groups: core.Groups | None = None,
    text_groups: core.Groups | None = None,
) -> Estimate:
    """Distance between the centre of a modality's tokens and that of the text tokens.

    Liang et al. 2022 (arXiv 2203.02053) define it for the outputs of contrastive models; here the points are the tokens
    at one boundary.

    - ``unit``: ‖mean(x/‖x‖) − mean(t/‖t‖)‖, theirs; between 0 and 2. Tokens of zeros are left out (flag ``zero_norm``).
    - ``raw``: ‖x̄ − t̄‖, in the units of the states.
    - ``scaled``: ‖x̄ − t̄‖ / √((v_x + v_t)/2), v = Σ ‖x − x̄‖² / (N − 1) the total variance of a modality: in units of
      the root-mean-square distance of a token from the centre of its own modality, both modalities weighing the same.

    A norm of a difference of means is never 0: two samples of one cloud lie about √(v_x/N + v_t/M) apart.
    ``x`` is (N, d), ``text`` (M, d).

    >>> import numpy as np
    >>> modality_gap(np.array([[3.0, 0.0], [5.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 5.0]]), "raw").value
    5.0
    >>> score = modality_gap(np.array([[3.0, 0.0], [5.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 5.0]]))
    >>> round(score.value, 6), score.n_tokens
    (1.414214, 4)
    """
    core.arrays.known("modality gap estimator", estimator, ESTIMATORS)
    estimate = estimate_gap(core.arrays.pair_from(x, text, groups, text_groups), estimator)
    remedy = "Give tokens of both modalities that are not zero and differ"
    return core.arrays.required("modality gap", estimate, remedy)


def unit_gap(pair: core.TextPair, left_out: int | None) -> float:
    return float((pair.cloud.directions.mean(left_out) - pair.text.directions.mean(left_out)).norm())


def raw_gap(pair: core.TextPair, left_out: int | None) -> float:
    x, t = pair.cloud.moments.centre(left_out), pair.text.moments.centre(left_out)
    if min(x.n, t.n) == 0:
        raise NoValue("no tokens of one modality")
    return float((x.mean - t.mean).norm())


def scaled_gap(pair: core.TextPair, left_out: int | None) -> float:
    x, t = pair.cloud.moments.centre(left_out), pair.text.moments.centre(left_out)
    if min(x.n, t.n) < 2:
        raise NoValue(f"a variance needs at least 2 tokens of each modality, got {x.n} and {t.n} text tokens")
    variance = (x.total_variance + t.total_variance) / 2
    if not variance:
        raise NoValue("the states have no variance beyond rounding within each modality")
    return float((x.mean - t.mean).norm()) / math.sqrt(variance)


ESTIMATORS: dict[str, Callable[[core.TextPair, int | None], float]] = {
    "unit": unit_gap,
    "raw": raw_gap,
    "scaled": scaled_gap,
}


def estimate_gap(pair: core.TextPair, estimator: str) -> Estimate:
    if problem := pair.problem("the modality gap"):
        return problem
    flags = pair.zero_flags if estimator == "unit" else ()
    return pair.estimate(lambda left_out: ESTIMATORS[estimator](pair, left_out), *flags)


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    if pair := core.text_pair.TextPair.of(cloud):
        for name in ESTIMATORS:
            yield name, None, estimate_gap(pair, name)


MODALITY_GAP = Metric(
    name="modality_gap",
    version=1,
    title="modality gap",
    explanation="distance between the centre of a modality's tokens and that of the text tokens",
    estimators=tuple(ESTIMATORS),
    scores=scores,
    headlines=(
        Headline(
            estimator="unit",
            title="modality gap (unit)",
            explanation="Distance between the centres of a modality's tokens and of text tokens, all scaled to length "
            "1.",
            extreme="max",
            in_tables=False,
        ),
    ),
    compares="text",
    unit="distance",
    low=0,
    estimator_ranges={"unit": (0, 2)},
)
