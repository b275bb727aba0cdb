"""Copies of tokens: what is estimated without them is what the distinct tokens alone would give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from microscope_bench.metrics import Estimate, gride, intrinsic_dimension, pareto_distance
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.duplicates import first_of_copies
from tests.metrics.oracles import gaussian

N = 2000
GROUPS = torch.arange(N) // 8
X = (gaussian(N, 6) @ gaussian(6, 20, 1) + 0.05 * gaussian(N, 20, 2)).float()

Function = Callable[[Tensor, Tensor], Estimate]
FUNCTIONS: dict[str, Function] = {
    "twonn_mle": lambda x, groups: intrinsic_dimension(x, "twonn_mle", groups=groups),
    "twonn_regression20": lambda x, groups: intrinsic_dimension(x, "twonn_regression20", groups=groups),
    "twonn_discard10": lambda x, groups: intrinsic_dimension(x, "twonn_discard10", groups=groups),
    "any": lambda x, groups: intrinsic_dimension(x, groups=groups, neighbours="any"),
    "gride_1": lambda x, groups: gride(x, 1, groups),
    "gride_8": lambda x, groups: gride(x, 8, groups),
    "gride_12": lambda x, groups: gride(x, 12, groups),
    "pareto_distance": lambda x, groups: pareto_distance(x, groups),
}


def random_rows(n: int, seed: int) -> Tensor:
    return torch.randperm(N, generator=torch.Generator().manual_seed(seed))[:n]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_copies_change_no_more_than_fewer_tokens_do(function: Function, share: float) -> None:
    """Some of the copies are exact, others differ in their last bits, as the same token in two batches does."""
    distinct = round((1 - share) * N)
    kept = random_rows(distinct, 0)
    again = kept[torch.arange(N - distinct) % distinct]
    rounding = 1 + 2e-7 * (torch.arange(N - distinct) % 3 - 1)[:, None]
    rows, states = torch.cat([kept, again]), torch.cat([X[kept], X[again] * rounding])
    duplicated = function(states, GROUPS[rows])
    alone = function(X[kept], GROUPS[kept])
    assert duplicated.n_tokens == alone.n_tokens == distinct
    assert f"duplicates={share:.4f}" in duplicated.flags
    assert (duplicated.value, duplicated.stderr) == pytest.approx((alone.value, alone.stderr), rel=1e-4)

    full = function(X, GROUPS).value
    others = [function(X[rows], GROUPS[rows]).value for rows in (random_rows(distinct, seed) for seed in range(1, 9))]
    assert abs(duplicated.value - full) <= max(abs(other - full) for other in others)


@pytest.mark.parametrize(
    "dtype, rounding, same_input, other_input",
    [
        (torch.float64, 1e-13, True, True),
        (torch.float64, 1e-9, False, False),
        (torch.float32, 1e-6, True, True),
        (torch.float32, 1e-4, False, False),
        (torch.bfloat16, 1e-2, True, False),
        (torch.bfloat16, 1e-1, False, False),
        (torch.float16, 2e-3, True, False),
        (torch.float16, 1e-2, False, False),
    ],
)
def test_rows_that_differ_by_rounding_are_copies_in_a_half_type_only_if_their_input_is_the_same(
    dtype: torch.dtype, rounding: float, same_input: bool, other_input: bool
) -> None:
    x = X[:4].double()
    states = torch.cat([x, x * (1 + rounding)]).to(dtype)
    assert not torch.equal(states[:4], states[4:])
    rows = torch.arange(4)
    for keys, copies in ((rows.repeat(2), same_input), (torch.arange(8), other_input)):
        expected = rows.repeat(2) if copies else torch.arange(8)
        assert first_of_copies(states, keys).tolist() == expected.tolist()


def test_a_shorter_sample_counts_the_examples_and_copies_among_the_rows_it_looked_at() -> None:
    sample = cloud_of(X[[0, 8, 0, 16, 8, 24]], None, [0, 1, 2, 2, 1, 3]).distinct
    assert (len(sample.x), sample.n_examples, sample.duplicates) == (4, 4, pytest.approx(2 / 6))
    assert len(sample.first(9).x) == 4
    for n in range(5):
        shorter = sample.first(n)
        looked_at = int(shorter.looked_at[-1]) if n else 0
        assert shorter.duplicates == pytest.approx(1 - n / looked_at if n else 0)
        assert min(n, 1) <= shorter.n_examples <= looked_at
    assert [int(sample.first(n).n_examples) for n in (0, 4)] == [0, 4]
