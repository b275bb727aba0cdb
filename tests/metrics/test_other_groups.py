"""Intrinsic dimension with neighbours in two different other groups, and with neighbours in the own one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from microscope_bench.errors import MetricError, UnknownNameError
from microscope_bench.metrics import intrinsic_dimension
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.intrinsic_dimension_metric import scores, scores_within_examples
from tests.metrics.oracles import gaussian

ESTIMATORS = ("twonn_mle", "twonn_regression20", "twonn_discard10")


def mle(r1: np.ndarray, r2: np.ndarray) -> float:
    return float((len(r1) - 1) / np.log(r2 / r1).sum())


def by_hand(x: Tensor, groups: np.ndarray) -> float:
    """twonn_mle with r₁ and r₂ of two different other groups."""
    distances = np.linalg.norm(x.numpy()[:, None] - x.numpy()[None], axis=2)
    pairs = [
        sorted(distances[row, groups == other].min() for other in np.unique(groups) if other != groups[row])[:2]
        for row in range(len(x))
    ]
    return mle(*np.array(pairs).T)


def by_hand_within(x: Tensor, groups: np.ndarray) -> float:
    pairs = []
    for group in np.unique(groups):
        own = x.numpy()[groups == group]
        if len(own) > 2:
            pairs.append(np.sort(np.linalg.norm(own[:, None] - own[None], axis=2), axis=1)[:, 1:3])
    return mle(*np.concatenate(pairs).T)


def pictures(n: int, tokens: int, d: int, seed: int = 0, spread: float = 0.002) -> tuple[Tensor, np.ndarray]:
    """Places of pictures all over d dimensions, the tokens of each close together along one line."""
    groups = np.arange(n).repeat(tokens)
    lines = gaussian(n, d, seed + 1)[groups] * gaussian(n * tokens, 1, seed + 2)
    return gaussian(n, d, seed)[groups] + spread * lines, groups


def test_equals_brute_force() -> None:
    x, groups = pictures(40, 6, 5)
    names = [f"picture {group}" for group in groups]
    assert intrinsic_dimension(x, "twonn_mle", groups=names).value == pytest.approx(by_hand(x, groups), rel=1e-12)


@pytest.mark.parametrize("d", [2, 5])
def test_clustered_pictures_read_as_the_dimension_that_they_spread_over(d: int) -> None:
    """With the nearest tokens, whosever they are, the dimension is that of the lines in the pictures."""
    x, groups = pictures(500, 8, d)
    assert intrinsic_dimension(x, groups=groups).value == pytest.approx(d, rel=0.1)
    assert intrinsic_dimension(x, groups=groups, neighbours="any").value == pytest.approx(1, abs=0.1)
    assert intrinsic_dimension(x, groups=groups, neighbours="own group").value == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("shape", "d", "tolerance"),
    [
        ("gaussian", 2, 0.05),
        ("gaussian", 5, 0.05),
        ("gaussian", 10, 0.12),
        ("uniform", 2, 0.05),
        ("uniform", 5, 0.1),  # at an edge half of the directions end
        ("uniform", 10, 0.22),
    ],
)
def test_even_clouds_read_as_their_dimension_whatever_their_groups(shape: str, d: int, tolerance: float) -> None:
    x = gaussian(4096, d)
    x = 0.5 * (1 + torch.erf(x / 2**0.5)) if shape == "uniform" else x
    found = intrinsic_dimension(x, n=1024, groups=torch.arange(4096) // 32)
    assert found.value == pytest.approx(d, rel=tolerance)
    assert found.value == pytest.approx(intrinsic_dimension(x, n=1024, neighbours="any").value, rel=0.04)
    assert found.flags == ()


def test_without_groups_each_token_is_its_own() -> None:
    x = gaussian(200, 4)
    assert intrinsic_dimension(x) == intrinsic_dimension(x, neighbours="any")


def test_a_token_of_several_groups_is_a_neighbour_of_all_of_them() -> None:
    x, groups = gaussian(120, 3), torch.arange(120) // 6
    shared = torch.arange(0, 120, 3)  # two tokens of each group, which the next group has as well
    copied, of = torch.cat([x, x[shared]]), torch.cat([groups, (groups[shared] + 1) % 20])
    alone = groups.clone()
    alone[shared] = 100 + shared
    found = intrinsic_dimension(copied, "twonn_mle", groups=of)
    assert found.value == pytest.approx(by_hand(x, alone.numpy()), rel=1e-12)
    assert found.value != pytest.approx(by_hand(x, groups.numpy()), rel=1e-6)


def test_too_few_groups_are_null_and_an_error() -> None:
    x = gaussian(50, 3)
    groups = torch.arange(50) // 25
    for _, _, estimate in scores(cloud_of(x, None, groups)):
        assert estimate.reason == "50 of the 50 tokens have neighbours in fewer than two other groups"
    with pytest.raises(MetricError, match="tokens of more groups"):
        intrinsic_dimension(x, groups=groups)


def test_within_groups_equals_brute_force_in_any_order() -> None:
    x, groups = pictures(60, 7, 4, spread=1.0)
    groups[-9:] = [60, 60, 61, 62, 62, 62, 63, 63, 63]  # groups of two and of one have no two neighbours
    order = np.random.default_rng(0).permutation(len(groups))
    for rows in (np.arange(len(groups)), order):
        found = intrinsic_dimension(x[rows], "twonn_mle", groups=groups[rows], neighbours="own group")
        assert found.value == pytest.approx(by_hand_within(x, groups), rel=1e-12)
        assert (found.n_tokens, found.n_examples) == (len(x) - 3, 61)
        assert found.flags == (f"left_out={3 / len(x):.4f}",)


def test_a_copy_within_a_group_is_no_neighbour() -> None:
    x, groups = pictures(60, 6, 4, spread=1.0)
    alone = intrinsic_dimension(x, groups=groups, neighbours="own group")
    copied = torch.cat([x, x[::6]]), np.concatenate([groups, groups[::6]])
    found = intrinsic_dimension(copied[0], groups=copied[1], neighbours="own group")
    assert (found.value, found.stderr, found.n_tokens) == pytest.approx((alone.value, alone.stderr, alone.n_tokens))


def test_the_replicate_without_a_fold_within_groups_is_the_estimate_of_the_others() -> None:
    x, groups = pictures(50, 6, 4, spread=1.0)
    cloud = cloud_of(x, None, groups)
    alone = []
    for fold in range(10):
        stays = (cloud.fold != fold).numpy()
        alone.append(by_hand_within(x[stays], groups[stays]))
    found = {name: estimate for name, _, estimate in scores_within_examples(cloud)}
    expected = np.sqrt(9 / 10 * np.square(alone - np.mean(alone)).sum())
    assert found["twonn_mle"].stderr == pytest.approx(expected, rel=1e-9)


def test_arguments_that_mean_nothing_are_refused() -> None:
    x = gaussian(60, 3)
    with pytest.raises(MetricError, match=r"no example has three distinct tokens.*tokens of larger groups"):
        intrinsic_dimension(x, neighbours="own group")
    with pytest.raises(MetricError, match="n is the size of a draw"):
        intrinsic_dimension(x, groups=torch.arange(60) // 6, n=30, neighbours="own group")
    with pytest.raises(UnknownNameError, match="other groups"):
        intrinsic_dimension(x, neighbours="other group")


@pytest.mark.parametrize("n_groups", [40, 160])
def test_the_standard_error_is_of_the_size_of_the_spread_between_data_sets(n_groups: int) -> None:
    """Half the variance is shared within a picture."""
    runs = []
    for seed in range(40):
        x = gaussian(n_groups, 4, 2 * seed).repeat_interleave(8, 0) + gaussian(8 * n_groups, 4, 2 * seed + 1)
        runs.append(intrinsic_dimension(x, groups=torch.arange(8 * n_groups) // 8))
    spread = np.std([run.value for run in runs], ddof=1)
    assert 0.8 < np.mean([run.stderr for run in runs]) / spread < 1.5
