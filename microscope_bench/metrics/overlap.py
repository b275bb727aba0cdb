"""Subspace overlap: how far the widest directions of a modality's tokens are those of the text tokens."""

from __future__ import annotations

from collections.abc import Iterator

from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.jackknife import Outcome
from microscope_bench.metrics.core.text_pair import Pair
from microscope_bench.metrics.record import EstimatorScore

ESTIMATORS = {"k1": 1, "k10": 10}
"""Name → number of principal axes; at most as many as a spectrum keeps."""


def overlap(pair: Pair, k: int, left_out: int | None) -> Outcome:
    """‖U_x U_tᵀ‖²_F / k, the rows of U the k widest directions."""
    # a fold without tokens of one modality has no spectrum of its own there: without it nothing changes
    x, t = (cloud.spectra.get(left_out, cloud.spectra[None]) for cloud in (pair.cloud, pair.text))
    if x is None or t is None or min(x.rank, t.rank) < k:
        ranks = [spectrum.rank if spectrum else 0 for spectrum in (x, t)]
        return f"the tokens extend in {ranks[0]} directions and the text tokens in {ranks[1]}, fewer than {k}"
    return float((x.axes[:k] @ t.axes[:k].T).square().sum()) / k


def estimate_overlap(pair: Pair, estimator: str) -> Estimate:
    """One estimate; ``estimator`` is a known name."""
    if problem := pair.problem("subspace overlap", least=2):
        return problem
    k = ESTIMATORS[estimator]
    return pair.estimate(lambda left_out: overlap(pair, k, left_out), f"chance={min(k / pair.cloud.dim, 1):.4f}")


def scores(cloud: Cloud) -> Iterator[EstimatorScore]:
    """Every estimator; nothing for a cloud without text beside it."""
    if pair := Pair.of(cloud):
        for name in ESTIMATORS:
            yield name, None, estimate_overlap(pair, name)
