"""Intrinsic dimension on n tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from microscope_bench.errors import MetricError
from microscope_bench.metrics import METRICS, Estimate, intrinsic_dimension, intrinsic_dimension_metric
from microscope_bench.metrics.core import distances, neighbours
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.cloud_rows import sample_of
from tests.metrics.oracles import gaussian


def test_each_estimate_is_that_of_the_first_tokens_alone() -> None:
    x, groups = gaussian(1100, 12), torch.arange(1100) // 11
    cloud = cloud_of(torch.cat([x, x[:100]]), None, torch.cat([groups, groups[:100]]))
    found = {name: e for name, _, e in METRICS.get("intrinsic_dimension_by_n").scores(cloud)}
    for n in (256, 512, 1024):
        expected = intrinsic_dimension(cloud.distinct.x[:n], "twonn_discard10")
        assert found[f"n{n}"].value == pytest.approx(expected.value, rel=1e-12)
        assert (found[f"n{n}"].n_tokens, found[f"n{n}"].flags[0][:12]) == (n, "duplicates=0")
    assert found["n256"].value < found["n1024"].value < 12  # the fewer, the lower a high dimension reads
    assert found["n2048"].reason == "the cloud has 1100 distinct tokens, not 2048"


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000), exponent=st.integers(-12, 12), shift=st.floats(-1e3, 1e3))
def test_rotation_scale_shift_and_the_order_among_the_tokens_drawn_change_nothing(
    seed: int, exponent: int, shift: float
) -> None:
    x, groups = gaussian(512, 5), torch.arange(512) // 4

    def estimates(x: Tensor, groups: Tensor) -> list[Estimate]:
        cloud = cloud_of(x, None, None)
        cloud.distinct = sample_of(x, groups % 10, groups, None, 10)
        return [intrinsic_dimension_metric.estimate_on(cloud, n) for n in (256, 512)]

    rotation = torch.linalg.qr(gaussian(5, 5, seed))[0]
    shuffled = torch.randperm(256, generator=torch.Generator().manual_seed(seed))
    order = torch.cat([shuffled, 256 + shuffled])
    moved = 2.0**exponent * (x @ rotation + shift * gaussian(1, 5, seed))
    for found, expected in zip(estimates(moved[order], groups[order]), estimates(x, groups), strict=True):
        assert (found.value, found.stderr) == pytest.approx((expected.value, expected.stderr), rel=1e-5)


def test_the_matched_tokens_are_not_searched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []

    def search(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        searched.append(len(x))
        return neighbours.nearest_neighbours(x, k)

    monkeypatch.setattr(distances, "nearest_neighbours", search)
    cloud = cloud_of(gaussian(1100, 6), None, None)
    cloud.wanted_n = 512
    list(intrinsic_dimension_metric.scores_by_n(cloud))
    assert searched == [256, 1024]


def test_the_function_takes_n_distinct_tokens() -> None:
    x = gaussian(500, 4)
    copied = torch.cat([x, x[:50]])
    found = intrinsic_dimension(copied, n=300)
    assert found.n_tokens == 300 and found.n_examples < 350
    assert found.value != intrinsic_dimension(copied).value
    assert intrinsic_dimension(copied, n=500).value == pytest.approx(intrinsic_dimension(x).value)
    with pytest.raises(MetricError, match=r"n = 501 .* only 500 distinct ones"):
        intrinsic_dimension(copied, n=501)
    with pytest.raises(MetricError, match="at least 3"):
        intrinsic_dimension(copied, n=2)
