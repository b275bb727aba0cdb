"""The distance from the Pareto law against scipy, and its critical value against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from microscope_bench.errors import MetricError
from microscope_bench.metrics import pareto_distance
from microscope_bench.metrics.core.neighbours import nearest_neighbours
from microscope_bench.metrics.core.pareto_law import is_rejected, ks_distance
from tests.metrics.oracles import gaussian


def test_equals_scipy() -> None:
    x = gaussian(300, 5)
    r1, r2 = nearest_neighbours(x, 2)[0].numpy().T
    log_mu = np.log(r2 / r1)
    expected = stats.kstest(log_mu, "expon", args=(0, log_mu.mean())).statistic
    assert pareto_distance(x).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n", [20, 200, 2000])
def test_one_in_twenty_samples_of_the_law_is_rejected(n: int) -> None:
    ratios = np.random.default_rng(n).pareto(3.0, (3000, n)) + 1
    distances = torch.from_numpy(np.stack([np.ones_like(ratios), ratios], 2))
    rejected = np.mean([is_rejected(ks_distance(sample), n) for sample in distances])
    assert 0.038 < rejected < 0.062  # three standard errors


def test_clouds_without_the_law_are_flagged_and_others_are_not() -> None:
    even = gaussian(500, 3)
    assert pareto_distance(even).flags == ()
    pairs = torch.cat([even, even + 1e-4 * gaussian(500, 3, 1)])  # two scales, so two dimensions
    found = pareto_distance(pairs)
    assert found.flags == ("near_copies=1.0000", "pareto_rejected") and found.value > 0.2
    assert found.stderr < 0.05


def test_tokens_without_two_neighbours_apart_are_an_error() -> None:
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    with pytest.raises(MetricError, match=r"different distances.*more distinct tokens"):
        pareto_distance(square)
    with pytest.raises(MetricError, match="at least 3 tokens, got 0"):
        pareto_distance(gaussian(0, 3))
