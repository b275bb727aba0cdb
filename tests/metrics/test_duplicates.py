"""Copies of tokens: what is estimated without them is what the distinct tokens alone would give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from microscope_bench.metrics import Estimate, gride, intrinsic_dimension, pareto_distance
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.duplicates import first_of_copies, rounded_to
from tests.metrics.oracles import embedded, gaussian

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


HALF = [torch.float16, torch.bfloat16]
WIDER = [(torch.float32, torch.float64), *((half, wide) for half in HALF for wide in (torch.float32, torch.float64))]


def with_noisy_copies(x: Tensor, n: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Rows of that dtype, of which the last ``n`` are the first but for a step of rounding in each coordinate."""
    steps = torch.randint(-1, 2, (n, x.shape[1]), generator=torch.Generator().manual_seed(seed)).double()
    copies = x[:n].to(dtype).double() * (1 + torch.finfo(dtype).eps * steps)
    return torch.cat([x.to(dtype), copies.to(dtype)])


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_states_that_were_float32_once_are_measured_as_float32(function: Function) -> None:
    x = with_noisy_copies(X[:900], 90, torch.float32)
    groups = torch.arange(990) // 5
    assert function(x.double(), groups) == function(x, groups)
    assert function(x, groups).flags[0] == "duplicates=0.0909"


def test_the_dimension_of_float32_copies_in_float64_is_that_of_numpy_on_the_rows_without_them() -> None:
    """The plain form of the estimator, all distances written out, on the rows that were there first."""
    x = with_noisy_copies(embedded(800, 8, 40), 70, torch.float32).double()
    alone = x[:800].numpy()
    squared = ((alone[:, None] - alone[None]) ** 2).sum(-1)
    r = np.sqrt(np.sort(squared + np.diag(np.full(800, np.inf)), axis=1))
    log_mu = np.sort(np.log(r[:, 1] / r[:, 0]))
    used = int(800 * 0.9)
    y = -np.log(1 - np.arange(1, used + 1) / 800)
    oracle = (log_mu[:used] @ y) / (log_mu[:used] @ log_mu[:used])
    found = intrinsic_dimension(x)
    assert found.value == pytest.approx(oracle, rel=1e-6) and found.flags == ("duplicates=0.0805",)
    assert found.value == pytest.approx(8, rel=0.15)
    squares = ((x[:, None] - x[None]) ** 2).sum(-1).numpy()
    assert (np.sort(squares + np.diag(np.full(870, np.inf)), axis=1)[:, 0] < 1e-9).sum() == 140, "they are there"


@pytest.mark.parametrize(("once", "now"), WIDER)
def test_rows_of_one_input_are_copies_by_the_rounding_of_what_they_were_once(
    once: torch.dtype, now: torch.dtype
) -> None:
    states = with_noisy_copies(X[:40], 40, once)
    keys = torch.arange(40).repeat(2)
    assert rounded_to(states.to(now)) == rounded_to(states) == once
    assert first_of_copies(states.to(now), keys).tolist() == first_of_copies(states, keys).tolist() == keys.tolist()
    mixed = torch.cat([states.to(now), torch.full((1, states.shape[1]), 1 / 3, dtype=now)])
    assert rounded_to(mixed) == now


CLOUDS: dict[str, Callable[[], Tensor]] = {
    "a line": lambda: embedded(1500, 1, 20),
    "a plane": lambda: embedded(1500, 2, 20),
    "ten dimensions": lambda: embedded(1500, 10, 20),
    "a line of gaps": lambda: torch.rand(1500, 1, generator=torch.Generator().manual_seed(0)).double().pow(9),
    "two densities": lambda: torch.cat([embedded(1000, 3, 20), 1e-4 * embedded(500, 3, 20, 5)]),
    "heavy tails": lambda: embedded(1500, 4, 20) * (1 / torch.rand(1500, 1, dtype=torch.float64)),
    "few rows": lambda: embedded(12, 1, 20),
    "clusters of three": lambda: (
        embedded(500, 3, 20)[:, None] + 1e-3 * gaussian(1500, 20, 8).view(500, 3, 20)
    ).flatten(0, 1),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_no_cloud_without_copies_is_said_to_have_near_copies(name: str) -> None:
    for x in (CLOUDS[name](), CLOUDS[name]().float(), CLOUDS[name]() + 5.0):
        assert not [flag for flag in intrinsic_dimension(x).flags if flag.startswith("near_copies")]


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled by column": lambda x: x * torch.linspace(0.3, 3, x.shape[1], dtype=torch.float64),
    "normalised by row": lambda x: x / x.norm(dim=1, keepdim=True),
    "standardised": lambda x: (x - x.mean(0)) / x.std(0),
    "rotated": lambda x: x @ torch.linalg.qr(gaussian(x.shape[1], x.shape[1], 7))[0],
    "beside float64": lambda x: torch.cat([x, gaussian(100, x.shape[1], 9)]),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("n", [3, 130])
@pytest.mark.parametrize(
    "function", [FUNCTIONS["twonn_discard10"], FUNCTIONS["any"], FUNCTIONS["gride_8"], pareto_distance]
)
def test_copies_that_were_mapped_since_they_were_rounded_are_flagged(function: Function, n: int, name: str) -> None:
    x = MAPS[name](with_noisy_copies(embedded(1300, 8, 40), n, torch.float32).double())
    share = f"near_copies={2 * n / len(x):.4f}"
    assert share in function(x, torch.arange(len(x))).flags
    assert share in intrinsic_dimension(x, deduplicate=False).flags


def test_a_cloud_of_pairs_alone_is_flagged() -> None:
    x = MAPS["rotated"](with_noisy_copies(embedded(600, 8, 40), 600, torch.float32).double())
    assert "near_copies=1.0000" in intrinsic_dimension(x).flags


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("now", [None, torch.float32, torch.float64])
def test_copies_of_a_half_type_without_a_known_input_are_flagged(half: torch.dtype, now: torch.dtype | None) -> None:
    x = with_noisy_copies(embedded(1300, 9, 40), 113, half)
    flags = intrinsic_dimension(x.to(now or half)).flags
    assert flags == ("near_copies=0.1599", "pareto_rejected")
    assert intrinsic_dimension(embedded(1300, 9, 40).to(half)).flags == ()
