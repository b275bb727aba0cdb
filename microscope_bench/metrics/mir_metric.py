"""Modality Integration Rate: the Fréchet distance between a modality's tokens and the text tokens at each boundary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.core.jackknife import jackknifed
from microscope_bench.metrics.record import EstimatorScore, Metric

ESTIMATORS = ("exact", "mir_fast_compat")
REMEDY = "Give at least 2 tokens of each modality, the text tokens not all zero"


def mir(
    x: core.Array,
    text: core.Array,
    estimator: str = "exact",
    groups: core.Groups | None = None,
    text_groups: core.Groups | None = None,
) -> Estimate:
    """One boundary's term of the Modality Integration Rate: the Fréchet distance of two modalities' tokens.

    ‖μ_x − μ_t‖² + tr(S_x + S_t − 2 (S_x S_t)^(1/2)) (Huang et al. 2024, arXiv 2410.07167). Before, all states are
    divided by the mean norm of the text tokens, and in each modality the tokens whose norm is more than 3 standard
    deviations off the median norm are replaced by the coordinate-wise median of that modality. MIR is log₁₀ of the sum
    over the boundaries 1..L: :func:`modality_integration_rate`.

    - ``exact``: with the matrix square root. Fewer tokens read higher: two samples of N tokens of one and the same
      cloud are not at distance 0.
    - ``mir_fast_compat``: with tr(S_x S_t) in the place of tr (S_x S_t)^(1/2), which is what the default mode of the
      authors' code gives: its Newton iteration starts at a fixed point and returns its input (in float32, with the
      rounding of two matrix inversions on top). It is no distance: two equal clouds are not at 0, and it is negative
      where the states spread far. For comparison with published values only, which also read the last layer after the
      final norm.

    Scale and, up to the replaced tokens, rotation of all states together change nothing. The standard error leaves out
    whole examples after the outliers were replaced, and scales anew. Flag ``concentrated=share`` where the 5 % of each
    modality's tokens that lie furthest from its mean, outliers replaced, carry a share above half of tr S_x + tr S_t.
    ``x``, (N, d), and ``text``, (M, d), need at least 2 tokens each, those of text not all zero.

    >>> import numpy as np
    >>> text = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> round(mir(3 * text, text).value, 6)  # (3 − 1)² times the variance 2
    8.0
    """
    core.arrays.known("MIR estimator", estimator, ESTIMATORS)
    estimate = estimate_mir(core.arrays.pair_from(x, text, groups, text_groups), (estimator,))[estimator]
    return core.arrays.required("MIR", estimate, REMEDY)


def modality_integration_rate(
    states: Sequence[core.Array],
    text_states: Sequence[core.Array],
    estimator: str = "exact",
    groups: core.Groups | None = None,
    text_groups: core.Groups | None = None,
) -> Estimate:
    """The Modality Integration Rate: log₁₀ of the sum of :func:`mir` over the boundaries 1..L.

    Huang et al. 2024, arXiv 2410.07167. A lower rate means that the two modalities lie closer together. The standard
    error leaves a fold out at all boundaries at once.

    ``states`` are L arrays (N, d), the same image, video or audio tokens at boundaries 1..L (not 0, which the authors
    leave out), ``text_states`` L arrays (M, d). A boundary without a distance is named by the MetricError; a sum that
    is not positive has no logarithm and is one too.

    >>> import numpy as np
    >>> text = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> round(modality_integration_rate([3 * text, text], [text, text]).value, 6)  # log₁₀ (8 + 0)
    0.90309
    """
    core.arrays.known("MIR estimator", estimator, ESTIMATORS)
    if len(states) != len(text_states) or len(states) == 0:
        raise ValueError(
            f"states and text_states need one array per boundary, got {len(states)} and {len(text_states)} arrays"
        )
    pairs = [core.arrays.pair_from(x, t, groups, text_groups) for x, t in zip(states, text_states, strict=True)]
    shapes = {(pair.cloud.n_tokens, pair.text.n_tokens, pair.cloud.dim) for pair in pairs}
    if len(shapes) > 1:
        found = ", ".join(f"({n}, {d}) and ({m}, {d})" for n, m, d in sorted(shapes))
        raise ValueError(f"every boundary needs the same tokens, (N, d) and text (M, d), got {found}")
    return core.arrays.required("MIR", estimate_rate(pairs, estimator), REMEDY)


def estimate_mir(pair: core.TextPair, estimators: Sequence[str] = ESTIMATORS) -> dict[str, Estimate]:
    if problem := pair.problem("MIR", least=2):
        return dict.fromkeys(estimators, problem)
    found = core.frechet.distances_of(pair, estimators)
    flags = core.concentration.flags_of(found.concentration)
    return {
        name: jackknifed(partial(found.outcome, name), found.folds, found.n_tokens, found.n_examples, flags)
        for name in estimators
    }


def estimate_rate(pairs: Sequence[core.TextPair], estimator: str) -> Estimate:
    """log₁₀ of the sum over boundaries 1..L; a fold leaves all of them together."""
    for layer, pair in enumerate(pairs, start=1):
        if problem := pair.problem("MIR", least=2):
            return replace(problem, reason=f"boundary {layer}: {problem.reason}")
    layers = [core.frechet.distances_of(pair, [estimator]) for pair in pairs]

    def outcome(left_out: int | None) -> float:
        total = 0.0
        for layer, found in enumerate(layers, start=1):
            try:
                total += found.outcome(estimator, left_out)
            except NoValue as none:
                raise NoValue(f"boundary {layer}: {none}") from none
        if total <= 0:
            raise NoValue(f"the sum over the boundaries is {total:.3g} and has no logarithm")
        return math.log10(total)

    first = layers[0]
    return jackknifed(outcome, first.folds, first.n_tokens, first.n_examples)


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    if pair := core.text_pair.TextPair.of(cloud):
        for name, estimate in estimate_mir(pair).items():
            yield name, None, estimate


MIR = Metric(
    name="mir",
    version=1,
    title="MIR",
    explanation="Frechet distance between a modality's tokens and the text tokens (a term of the rate, before its log)",
    estimators=ESTIMATORS,
    scores=scores,
    compares="text",
    unit="squared distance",
    low=0,
    estimator_ranges={"mir_fast_compat": (-math.inf, math.inf)},
    cautions={"concentrated": "5 % of the tokens carry more than half of the variance that the distance is made of"},
)
