"""Intrinsic dimension with neighbours of the same example left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from microscope_bench.errors import MetricError
from microscope_bench.metrics import intrinsic_dimension
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.distances import NeighbourDistances
from microscope_bench.metrics.intrinsic_dimension_metric import scores_across_examples, twonn_mle
from tests.metrics.oracles import gaussian


def strings(n_examples: int = 80, tokens: int = 10) -> tuple[Tensor, Tensor]:
    """Tokens along one line per example, the lines spread evenly over 6 dimensions."""
    along = 0.01 * gaussian(n_examples * tokens, 1) * gaussian(n_examples, 6, 1).repeat_interleave(tokens, 0)
    groups = torch.arange(n_examples).repeat_interleave(tokens)
    return gaussian(n_examples, 6, 2)[groups] + along, groups


def by_brute_force(x: Tensor, groups: Tensor) -> float:
    distances = (x[:, None] - x[None]).norm(dim=2)
    distances[groups[:, None] == groups] = torch.inf
    return twonn_mle(distances.sort(1).values[:, :2])


@pytest.mark.parametrize("kept", [2, 8, 64])
def test_equals_brute_force_however_many_neighbours_are_kept(kept: int) -> None:
    x, groups = strings()
    cloud = cloud_of(x, None, groups)
    cloud.n_neighbours = kept
    assert NeighbourDistances.across_examples(cloud).estimate(twonn_mle).value == pytest.approx(
        by_brute_force(x, groups), rel=1e-12
    )


def test_the_lines_of_the_examples_no_longer_count() -> None:
    x, groups = strings(300)
    assert intrinsic_dimension(x, groups=groups).value == pytest.approx(1, abs=0.1)
    first = intrinsic_dimension(x[groups.diff(prepend=groups[:1] - 1) > 0]).value
    assert first == pytest.approx(5, abs=1.2)
    # of two neighbours in another example both lie on one line, at about the same distance
    assert intrinsic_dimension(x, groups=groups, across_examples=True).value > 20


def test_without_groups_nothing_is_left_out() -> None:
    x = gaussian(200, 4)
    assert intrinsic_dimension(x, across_examples=True) == intrinsic_dimension(x)


def test_a_token_of_several_examples_is_a_neighbour_of_all_of_them() -> None:
    x, groups = gaussian(120, 3), torch.arange(120) // 6
    shared = torch.arange(0, 120, 3)  # two tokens of each example, which the next example has as well
    copied, of = torch.cat([x, x[shared]]), torch.cat([groups, (groups[shared] + 1) % 20])
    alone = groups.clone()
    alone[shared] = 100 + shared
    found = intrinsic_dimension(copied, "twonn_mle", groups=of, across_examples=True)
    assert found.value == pytest.approx(by_brute_force(x, alone), rel=1e-12)
    assert found.value != pytest.approx(by_brute_force(x, groups), rel=1e-6)


def test_too_few_tokens_of_other_examples_are_null_and_an_error() -> None:
    x = gaussian(50, 3)
    groups = torch.arange(50).clamp(min=48)  # 49 tokens of one example, 1 of another
    for _, _, estimate in scores_across_examples(cloud_of(x, None, groups)):
        assert estimate.reason == "49 of the 50 tokens have fewer than two neighbours in other examples"
    with pytest.raises(MetricError, match="more examples"):
        intrinsic_dimension(x, groups=groups, across_examples=True)
