"""Intrinsic dimension on disjoint draws of n tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microscope_bench.errors import MetricError
from microscope_bench.metrics import gride, intrinsic_dimension, pareto_distance
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.cloud import MOST_DRAWS, ArrayCloud
from microscope_bench.metrics.core.distances import NeighbourDistances
from microscope_bench.metrics.core.pareto_law import ks_distance, with_rejection
from microscope_bench.metrics.registry import METRICS
from tests.metrics.oracles import gaussian


def log_ratios(x: torch.Tensor, group: torch.Tensor) -> np.ndarray:
    distances = torch.cdist(x, x).masked_fill(group[:, None] == group, torch.inf)
    r1, first = distances.min(1)
    r2 = distances.masked_fill(group[first, None] == group, torch.inf).min(1).values
    return (r2 / r1).log().numpy()


@pytest.mark.parametrize(("tokens", "draws"), [(300, 1), (599, 1), (650, 2), (3000, MOST_DRAWS)])
def test_the_ratios_of_the_draws_are_taken_together(tokens: int, draws: int) -> None:
    x, groups = gaussian(tokens, 12), torch.arange(tokens) // 11
    found = intrinsic_dimension(x, "twonn_mle", groups=groups, n=300)
    drawn = cloud_of(x, None, groups).distinct
    each = [
        log_ratios(rows, group)
        for rows, group in list(zip(drawn.x.split(300), drawn.group.split(300), strict=True))[:draws]
    ]
    assert found.value == pytest.approx((300 * draws - 1) / np.concatenate(each).sum(), rel=1e-9)
    assert found.n_tokens == 300 * draws


def test_the_fewer_tokens_in_a_draw_the_lower_a_high_dimension_reads() -> None:
    x = gaussian(4096, 20)
    values = [intrinsic_dimension(x, n=n).value for n in (256, 1024, 4096)]
    assert values == sorted(values) and values[-1] < 20


def test_draws_make_the_error_smaller() -> None:
    x, groups = gaussian(2048, 5), torch.arange(2048) // 4
    one, eight = (intrinsic_dimension(x[:n], n=256, groups=groups[:n]) for n in (256, 2048))
    assert 0.2 < eight.stderr / one.stderr < 0.55


def test_copies_are_in_no_draw() -> None:
    x = gaussian(500, 4)
    copied = torch.cat([x, x[:50]])
    found = intrinsic_dimension(copied, n=300)
    assert found.n_tokens == 300 and found.n_examples < 350
    assert intrinsic_dimension(copied, n=500).value == pytest.approx(intrinsic_dimension(x).value)
    with pytest.raises(MetricError, match=r"n = 501 .* only 500 distinct ones"):
        intrinsic_dimension(copied, n=501)
    with pytest.raises(MetricError, match="at least 3"):
        intrinsic_dimension(copied, n=2)


def test_a_cloud_of_too_few_tokens_has_no_value_of_any_metric_of_draws() -> None:
    cloud = cloud_of(gaussian(50, 4), None, None)
    cloud.wanted_n = 64
    for name in ("intrinsic_dimension", "intrinsic_dimension_fit", "intrinsic_dimension_by_scale"):
        for _, _, estimate in METRICS.get(name).scores(cloud):
            assert estimate.value is None and estimate.flags == ("few_distinct=50/64",) and estimate.n_tokens == 50
            assert estimate.reason == (
                "the cloud has 50 distinct tokens and a draw takes 64: measure more examples, or take smaller draws "
                "with --id_tokens"
            )
    assert gride(gaussian(50, 4)).value is not None and pareto_distance(gaussian(50, 4)).value is not None


def test_the_law_is_judged_by_what_one_draw_would_show() -> None:
    """Ratios that a test of all of them rejects, and one of a single draw of 1,024 does not, are not flagged."""
    log_mu = torch.from_numpy(np.random.default_rng(0).weibull(1.06, 8192))
    distances = torch.stack([torch.ones(8192, dtype=torch.float64), log_mu.exp()], 1).expand(11, 8192, 2)
    flags = {}
    for n_draws in (1, 8):
        tokens = NeighbourDistances(distances, torch.arange(8192) % 10, n_draws, 8192, tuple(range(10)))
        flags[n_draws] = with_rejection(tokens.estimate(ks_distance), tokens).flags
    assert flags == {1: ("pareto_rejected",), 8: ()}
    x = gaussian(4096, 20)
    pairs = torch.cat([x, x + 1e-3 * gaussian(4096, 20, 1)])
    assert "pareto_rejected" in intrinsic_dimension(pairs, n=1024).flags


def test_a_fold_without_tokens_is_no_fold() -> None:
    x = gaussian(200, 3)
    groups, fold = torch.arange(200) // 4, torch.arange(200) // 4 % 3
    clouds = [ArrayCloud(x, None, fold, groups, n) for n in (3, 10)]
    few, many = (next(iter(METRICS.get("intrinsic_dimension").scores(cloud)))[2] for cloud in clouds)
    assert few.stderr == pytest.approx(many.stderr, rel=1e-12)
    assert many.replicates == few.replicates and len(few.replicates) == 3
