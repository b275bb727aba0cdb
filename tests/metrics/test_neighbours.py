"""Nearest neighbours and exact copies against brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from microscope_bench.metrics.core import neighbours
from microscope_bench.metrics.core.duplicates import first_copies, first_near_copies
from microscope_bench.metrics.core.neighbours import nearest_neighbours
from tests.metrics.oracles import gaussian, massive


def by_differences(x: Tensor, k: int) -> Tensor:
    distances = (x[:, None] - x[None]).square().sum(-1).sqrt()
    distances.fill_diagonal_(torch.inf)
    return distances.sort(1).values[:, :k]


def close_pairs() -> Tensor:
    x = gaussian(300, 20) + 1e3
    return torch.cat([x, x + 1e-6 * gaussian(300, 20, 1)])


def tight_clusters() -> Tensor:
    """Forty tight clusters far apart: products cannot rank the rows of a cluster."""
    return 1e5 * gaussian(40, 12).repeat_interleave(15, 0) + 1e-4 * gaussian(600, 12, 1)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_scikit_learn(k: int) -> None:
    x = gaussian(500, 30)
    expected, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x.numpy()).kneighbors()
    np.testing.assert_allclose(nearest_neighbours(x, k)[0].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("cloud", [close_pairs, tight_clusters, lambda: massive(500, 20), lambda: gaussian(200, 4)])
@pytest.mark.parametrize("k", [2, 128])
def test_equals_differences_where_products_cancel(
    cloud: Callable[[], Tensor], k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 600 * 64)  # several blocks
    x = cloud()
    found, expected = nearest_neighbours(x, k)[0], by_differences(x, k)
    torch.testing.assert_close(found[:, :10], expected[:, :10], rtol=1e-14, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_far_neighbours_come_from_the_product_and_close_ones_from_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = 0
    by_pairs = neighbours._squared_distances

    def count(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        nonlocal pairs
        pairs += len(a)
        return by_pairs(x, a, b)

    monkeypatch.setattr(neighbours, "_squared_distances", count)
    nearest_neighbours(gaussian(300, 20), 128)
    assert pairs == 300 * neighbours.EXACT_CANDIDATES
    nearest_neighbours(gaussian(300, 20) + 1e3 * gaussian(2, 20, 1).repeat_interleave(150, 0), 128)
    assert pairs > 300 * 128


@pytest.mark.parametrize("k", [2, 20])
@pytest.mark.parametrize("cloud", [lambda: gaussian(600, 8), tight_clusters])
def test_rows_of_the_same_group_are_no_neighbours(cloud: Callable[[], Tensor], k: int) -> None:
    x = cloud()
    group = torch.arange(600) // 5
    group[::7] = -1  # these are of no group
    distances = (x[:, None] - x[None]).square().sum(-1).sqrt()
    distances[(group[:, None] == group) & (group >= 0)] = torch.inf
    distances.fill_diagonal_(torch.inf)
    found, rows = nearest_neighbours(x, k, exclude=group)
    torch.testing.assert_close(found, distances.sort(1).values[:, :k], rtol=1e-9, atol=0)
    assert torch.equal(distances.gather(1, rows).isfinite(), torch.ones(600, k, dtype=torch.bool))


def test_neighbours_that_a_row_lacks_are_infinitely_far() -> None:
    x, group = gaussian(30, 3), torch.tensor([0] * 28 + [1] * 2)
    found = nearest_neighbours(x, 3, exclude=group)[0]
    assert found[:28, 2].isinf().all() and found[:28, :2].isfinite().all() and found[28:].isfinite().all()


def test_the_clusters_need_the_direct_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    direct = neighbours._search_directly
    monkeypatch.setattr(
        neighbours, "_search_directly", lambda x, row, *rest: searched.append(row) or direct(x, row, *rest)
    )
    nearest_neighbours(gaussian(500, 30))
    assert not searched
    nearest_neighbours(tight_clusters())
    assert searched


def test_autocast_to_a_shorter_type_change_no_neighbour() -> None:
    x = gaussian(700, 3)
    expected = nearest_neighbours(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest_neighbours(x)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_torch_may_refuse_to_say_what_its_precision_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> str:  # as it does once torch.backends.cuda.matmul.fp32_precision is "tf32"
        raise RuntimeError("you have used mix of the legacy and new APIs to set the matmul precision")

    x = gaussian(100, 3)
    expected = nearest_neighbours(x)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", refused)
    assert torch.equal(nearest_neighbours(x)[1], expected[1])


def test_copies_lie_at_distance_zero() -> None:
    x = gaussian(50, 8) + 1e4
    assert (nearest_neighbours(torch.cat([x, x]))[0][:, 0] == 0).all()


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 rows, got 2"):
        nearest_neighbours(gaussian(2, 4), 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_first_copies_name_the_first_of_each(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 6)  # copies lie in different blocks
    x = torch.tensor([[1, 2], [0, 1], [1, 2], [-0.0, 1], [2, 1], [0, -1], [1, 2]], dtype=dtype)
    assert first_copies(x).tolist() == [0, 1, 0, 1, 4, 5, 0]
    assert first_copies(x.T.contiguous().T).tolist() == [0, 1, 0, 1, 4, 5, 0]


def test_first_copies_of_nothing() -> None:
    assert first_copies(torch.empty(0, 4)).tolist() == []


def test_a_search_for_some_rows_is_that_of_all_rows_cut_down() -> None:
    x = gaussian(300, 12)
    queries = torch.tensor([7, 250, 3])
    distances, rows = nearest_neighbours(x, 3, queries)
    for got, whole in zip((distances, rows), nearest_neighbours(x, 3), strict=True):
        assert torch.equal(got, whole[queries])
    assert (x[queries, None] - x[rows]).norm(dim=2).allclose(distances)


def test_near_copies_lead_to_the_first_within_the_tolerance() -> None:
    x = 5 + gaussian(40, 8)
    scale = x.norm(dim=1, keepdim=True)
    x = torch.cat([x, x[:10] + 1e-6 * scale[:10] / 8**0.5, x[20:30] + 1e-3 * scale[20:30] / 8**0.5])
    expected = torch.arange(60)
    expected[40:50] = torch.arange(10)
    assert torch.equal(first_near_copies(x, 1e-5), expected)
    x[55] = 1e6  # one massive row must not blur the others
    assert torch.equal(first_near_copies(x, 1e-5), expected)
