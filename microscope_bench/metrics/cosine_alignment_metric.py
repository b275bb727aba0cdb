"""Cosine alignment: how far a modality's tokens point the same way as the text tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.record import EstimatorScore, Metric


def cosine_alignment(
    x: core.Array,
    text: core.Array,
    estimator: str = "all_pairs",
    groups: core.Groups | None = None,
    text_groups: core.Groups | None = None,
) -> Estimate:
    """How far a modality's tokens point the same way as the text tokens; between −1 and 1.

    After the implicit multimodal alignment of Shukor & Cord 2024 (arXiv 2405.16700).

    - ``all_pairs``: mean cosine over all pairs of a token and a text token; ⟨mean(x/‖x‖), mean(t/‖t‖)⟩.
    - ``same_example``: the same over the pairs within one example, then the mean over the examples that have tokens of
      both (flag ``shared_examples=shared/all`` where some have not). Minus ``all_pairs`` it says what an image has in
      common with its own text more than with any.
    - ``mean_vectors``: cosine of x̄ and t̄; tokens of large norm weigh more.

    Tokens of zeros have no cosine and are left out of the first two (flag ``zero_norm=``). The states are not centred:
    one direction that all tokens share, such as a massive activation, takes all three towards 1 or −1.
    ``x`` is (N, d), ``text`` (M, d).

    >>> import numpy as np
    >>> image, text = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 3.0]])
    >>> cosine_alignment(image, text).value
    0.5
    >>> cosine_alignment(image, text, "same_example", groups=["a", "b"], text_groups=["a", "b"]).value
    1.0
    """
    core.arrays.known("cosine alignment estimator", estimator, ESTIMATORS)
    pair = core.arrays.pair_from(x, text, groups, text_groups)
    remedy = "Give tokens of both modalities that are not zero"
    if estimator == "same_example":
        remedy += ", and groups and text_groups that name the same examples"
    return core.arrays.required("cosine alignment", estimate_cosines(pair, (estimator,))[estimator], remedy)


class Cosines:
    def __init__(self, pair: core.TextPair) -> None:
        import torch

        self.pair = pair
        x, t = pair.cloud.directions, pair.text.directions
        examples, times = torch.unique(torch.cat([x.example[x.n > 0], t.example[t.n > 0]]), return_counts=True)
        shared = examples[times == 2]
        rows, text_rows = torch.searchsorted(x.example, shared), torch.searchsorted(t.example, shared)
        self.fold = x.fold[rows]
        self.within = (x.total[rows] * t.total[text_rows]).sum(1) / (x.n[rows] * t.n[text_rows])

    def all_pairs(self, left_out: int | None) -> float:
        return float(self.pair.cloud.directions.mean(left_out) @ self.pair.text.directions.mean(left_out))

    def same_example(self, left_out: int | None) -> float:
        within = self.within[self.fold != (-1 if left_out is None else left_out)]
        if not len(within):
            raise NoValue("no example has tokens of both modalities")
        return float(within.mean())

    def mean_vectors(self, left_out: int | None) -> float:
        x, t = (cloud.moments.centre(left_out).mean for cloud in (self.pair.cloud, self.pair.text))
        norms = float(x.norm() * t.norm())
        if not norms > 0:
            raise NoValue("the mean vector of one modality is zero")
        return float(x @ t) / norms


ESTIMATORS: dict[str, Callable[[Cosines, int | None], float]] = {
    "all_pairs": Cosines.all_pairs,
    "same_example": Cosines.same_example,
    "mean_vectors": Cosines.mean_vectors,
}


def estimate_cosines(pair: core.TextPair, estimators: tuple[str, ...] = tuple(ESTIMATORS)) -> dict[str, Estimate]:
    if problem := pair.problem("cosine alignment"):
        return dict.fromkeys(estimators, problem)
    cosines = Cosines(pair)
    flags = dict.fromkeys(estimators, pair.zero_flags) | {"mean_vectors": ()}
    if len(cosines.within) < pair.cloud.n_examples:
        flags["same_example"] = (*pair.zero_flags, f"shared_examples={len(cosines.within)}/{pair.cloud.n_examples}")
    outcomes = {name: partial(ESTIMATORS[name], cosines) for name in estimators}
    return {name: pair.estimate(outcome, *flags[name]) for name, outcome in outcomes.items()}


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    if pair := core.text_pair.TextPair.of(cloud):
        for name, estimate in estimate_cosines(pair).items():
            yield name, None, estimate


COSINE_ALIGNMENT = Metric(
    name="cosine_alignment",
    version=1,
    title="cosine alignment",
    explanation="mean cosine between a modality's tokens and the text tokens",
    estimators=tuple(ESTIMATORS),
    scores=scores,
    compares="text",
    unit="cosine",
    low=-1,
    high=1,
)
