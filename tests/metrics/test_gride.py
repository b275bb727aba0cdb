"""GRIDE against direct maximisation of its likelihood, DADApy's figures, and TwoNN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import betaln
from torch import Tensor

from microscope_bench.errors import MetricError
from microscope_bench.metrics import METRICS, gride, intrinsic_dimension
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.gride_metric import SCALES, gride_mle
from tests.metrics.oracles import gaussian

DADAPY = {1: 5.323050, 2: 4.735592, 4: 4.691278, 8: 4.302281, 16: 4.071965, 32: 3.904322, 64: 3.464653}
"""What DADApy 0.3.4 finds in :func:`noisy_plane`; its likelihood counts one token fewer."""


def noisy_plane() -> NDArray[np.float64]:
    """600 points of a 5-dimensional Gaussian in 12 dimensions, with noise in all of them."""
    rng = np.random.default_rng(7)
    flat = rng.standard_normal((600, 5)) @ rng.standard_normal((5, 12))
    return flat + 0.05 * rng.standard_normal((600, 12))


def sorted_distances(x: NDArray[np.float64]) -> NDArray[np.float64]:
    distances = np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), 1)
    return distances[:, 1:]


def likeliest(distances: NDArray[np.float64], k: int) -> float:
    mu = distances[:, 2 * k - 1] / distances[:, k - 1]

    def cost(d: float) -> float:
        log_density = np.log(d) + (k - 1) * np.log(mu**d - 1) - betaln(k, k) - (d * (2 * k - 1) + 1) * np.log(mu)
        return -float(log_density.sum())

    return float(minimize_scalar(cost, bounds=(0.5, 50), method="bounded", options={"xatol": 1e-9}).x)


@pytest.mark.parametrize("k", DADAPY)
def test_equals_the_maximum_of_the_likelihood_and_dadapy(k: int) -> None:
    x = noisy_plane()
    found = gride(x, k).value
    assert found == pytest.approx(likeliest(sorted_distances(x), k), rel=1e-6)
    assert 0 < found / DADAPY[k] - 1 < 1.01 / 599


def test_the_first_scale_is_the_biased_form_of_twonn() -> None:
    x = gaussian(400, 6)
    assert gride(x).value == pytest.approx(400 / 399 * intrinsic_dimension(x, "twonn_mle").value, rel=1e-12)


@pytest.mark.parametrize("k", [1, 3, 64])
@pytest.mark.parametrize("spread", [1e-7, 1e-3, 1.0, 30.0])
def test_the_root_is_found_for_any_ratios(k: int, spread: float) -> None:
    """Ratios within rounding of 1, ties among them, and ratios of many orders of magnitude."""
    log_mu = spread * gaussian(50, 1)[:, 0].abs()
    log_mu[:5] = 0
    distances = torch.ones(50, 2 * k, dtype=torch.float64)
    distances[:, 2 * k - 1] = log_mu.exp()
    d = gride_mle(distances, k)
    t = d * distances[:, -1].log()
    phi = torch.where(t > 0, t / -torch.expm1(-t), 1.0)
    assert 50 + (k - 1) * phi.sum() == pytest.approx(float((2 * k - 1) * t.sum()), rel=1e-9)


@pytest.mark.parametrize("k", [1, 4, 16])
def test_an_even_cloud_reads_as_its_dimension(k: int) -> None:
    circle = 2 * torch.pi * torch.rand(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torus = torch.cat([circle.sin(), circle.cos()], 1)  # no boundary
    assert gride(torus, k).value == pytest.approx(2, rel=0.06 / k**0.5)


def test_the_curve_of_the_metric_is_the_function_at_each_scale() -> None:
    x, groups = torch.from_numpy(noisy_plane()), torch.arange(600) // 4
    cloud = cloud_of(x, None, groups)
    metric = METRICS.get("intrinsic_dimension_by_scale")
    cloud.n_neighbours = metric.neighbours
    for (name, k), (found, _, estimate) in zip(SCALES.items(), metric.scores(cloud), strict=True):
        assert name == found == f"gride_{k}"
        if k > 15:  # 150 groups of four tokens
            assert estimate.reason == f"GRIDE at k = {k} needs tokens of {10 * k} groups, got 150"
            continue
        alone = gride(x, k, groups)
        assert (estimate.value, estimate.stderr) == pytest.approx((alone.value, alone.stderr), rel=1e-8)


def test_scales_beyond_the_tokens_are_null_with_a_reason_and_errors_in_the_function() -> None:
    x: Tensor = gaussian(64, 3)
    cloud = cloud_of(x, None, None)
    cloud.n_neighbours = 128
    *others, last = [e for _, _, e in METRICS.get("intrinsic_dimension_by_scale").scores(cloud)]
    assert sum(e.value is not None for e in others) == 5  # k = 1 .. 16; for k = 32, n = 2k
    assert last.reason == "GRIDE at k = 64 needs tokens of 129 groups, got 64"
    with pytest.raises(MetricError, match=r"of 65 groups, got 64.*smaller k"):
        gride(x, 32)
    with pytest.raises(MetricError, match="k = 1 or more"):
        gride(x, 0)
    with pytest.raises(MetricError, match=r"1 of 64 tokens hold NaN.*isfinite"):
        gride(torch.where(torch.arange(64)[:, None] == 3, torch.nan, x))


def test_the_standard_error_is_of_the_size_of_the_spread_between_data_sets() -> None:
    runs = [gride(gaussian(400, 4, seed), 8, torch.arange(400) // 5) for seed in range(40)]
    spread = np.std([e.value for e in runs])
    assert 0.8 < np.mean([e.stderr for e in runs]) / spread < 1.45
