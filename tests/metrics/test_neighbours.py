"""Nearest neighbours in other groups, and exact copies, against brute force."""

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


def by_differences(x: Tensor, k: int, group: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """The k nearest, one of each other group, of rows that are not left out."""
    distances = np.linalg.norm(x.numpy()[:, None] - x.numpy()[None], axis=2)
    found = np.full((len(x), k), np.inf)
    for row in range(len(x)):
        nearest: dict[object, float] = {}
        for other in range(len(x)):
            alone = group[other] < 0
            if other != row and not left_out[other] and (alone or group[other] != group[row]):
                key = ("alone", other) if alone else group[other]
                nearest[key] = min(nearest.get(key, np.inf), distances[row, other])
        some = sorted(nearest.values())[:k]
        found[row, : len(some)] = some
    return found


def close_pairs() -> Tensor:
    x = gaussian(60, 20) + 1e3
    return torch.cat([x, x + 1e-6 * gaussian(60, 20, 1)])


def tight_clusters() -> Tensor:
    """Clusters far apart: a product cannot rank the rows of a cluster."""
    return 1e5 * gaussian(8, 12).repeat_interleave(15, 0) + 1e-4 * gaussian(120, 12, 1)


CLOUDS = [close_pairs, tight_clusters, lambda: massive(120, 20), lambda: gaussian(120, 4)]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_scikit_learn(k: int) -> None:
    x = gaussian(500, 30)
    expected, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x.numpy()).kneighbors()
    np.testing.assert_allclose(nearest_neighbours(x, k)[0].numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("block_elements", [120 * 7, 2**24])
@pytest.mark.parametrize("cloud", CLOUDS)
def test_each_other_group_counts_once_with_all_rows_and_without_each_fold(
    cloud: Callable[[], Tensor], block_elements: int
) -> None:
    x = cloud()
    group = torch.arange(len(x)) // 5
    fold = group % 3
    group[::7] = fold[::7] = -1  # tokens of several groups: each is one of its own, and stays
    found = nearest_neighbours(x, 4, group, fold, 3, block_elements)
    for which, without in enumerate((None, 0, 1, 2)):
        left_out = np.zeros(len(x), dtype=bool) if without is None else (fold == without).numpy()
        expected = by_differences(x, 4, group.numpy(), left_out)
        np.testing.assert_allclose(found[which].numpy(), expected, rtol=1e-9)


def test_neighbours_are_looked_for_further_where_all_the_nearest_are_of_one_fold() -> None:
    near, far = gaussian(neighbours.SPARE + 6, 5), gaussian(6, 5, 1) + 100
    x, fold = torch.cat([near, far]), torch.tensor([1] * len(near) + [0, 0, 0, 0, 0, 2])
    found = nearest_neighbours(x, 2, None, fold, 3)
    for which in (0, 1, 2):
        expected = by_differences(x, 2, np.full(len(x), -1), (fold == which).numpy())
        torch.testing.assert_close(found[1 + which].numpy(), expected, rtol=1e-9, atol=0)


def test_neighbours_that_a_row_lacks_are_infinitely_far() -> None:
    x, group = gaussian(30, 3), torch.tensor([0] * 28 + [1] * 2)
    found = nearest_neighbours(x, 3, group)[0]
    assert found[:, 0].isfinite().all() and found[:, 1:].isinf().all()
    assert nearest_neighbours(gaussian(2, 4), 2)[0, :, 1].isinf().all()
    assert nearest_neighbours(gaussian(0, 4), 2).shape == (1, 0, 2)


def test_copies_lie_at_distance_zero() -> None:
    x = gaussian(50, 8) + 1e4
    assert (nearest_neighbours(torch.cat([x, x]), 2)[0, :, 0] == 0).all()


def test_massive_rows_do_not_blur_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the mean, which they move, all other rows would be measured by differences; it is in vain."""
    x = gaussian(600, 8)
    x[:20] += 1e4 * gaussian(1, 8, 3)
    monkeypatch.setattr(neighbours, "CANCELS", 0.0)
    found, expected = nearest_neighbours(x, 2)[0, 20:], torch.cdist(x[20:], x[20:]).sort(1).values[:, 1:3]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_autocast_to_a_shorter_type_changes_no_neighbour() -> None:
    x = gaussian(700, 3)
    expected = nearest_neighbours(x, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_neighbours(x, 2), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_first_copies_name_the_first_of_each(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 2], [0, 1], [1, 2], [-0.0, 1], [2, 1], [0, -1], [1, 2]], dtype=dtype)
    for block_elements in (6, 2**24):  # copies lie in different blocks, or in one
        assert first_copies(x, block_elements).tolist() == [0, 1, 0, 1, 4, 5, 0]
        assert first_copies(x.T.contiguous().T, block_elements).tolist() == [0, 1, 0, 1, 4, 5, 0]


def test_first_copies_of_nothing() -> None:
    assert first_copies(torch.empty(0, 4)).tolist() == []


def test_near_copies_lead_to_the_first_within_the_tolerance() -> None:
    x = gaussian(40, 8)
    scale = (x - x.mean(0)).norm(dim=1, keepdim=True)
    x = torch.cat([x, x[:10] + 1e-6 * scale[:10] / 8**0.5, x[20:30] + 1e-3 * scale[20:30] / 8**0.5])
    expected = torch.arange(60)
    expected[40:50] = torch.arange(10)
    for offset in (0.0, 100.0):  # how far from the origin all of them lie makes none of them nearer to another
        assert torch.equal(first_near_copies(x + offset, 1e-5), expected)
    x[55] = 1e6  # one massive row must not blur the others
    assert torch.equal(first_near_copies(x, 1e-5), expected)
